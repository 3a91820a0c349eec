"""Tables of a replay for the terminal, in percent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from derta.results import TextTable

if TYPE_CHECKING:
    from derta.paper.replay import ReplayRow


def replay_table(rows: Sequence[ReplayRow]) -> TextTable:
    """Return a table of replayed rates next to the paper's, in percent."""
    header = ("file", "measure", "ours", "95 %", "paper", "off", "halves", "n")
    return TextTable("published outputs, %", header, [_rate_row(row) for row in rows if row.curve is None])


def _rate_row(row: ReplayRow) -> tuple[str, ...]:
    return (
        row.file.rpartition(".")[0],
        row.measure,
        _percent(row.ours),
        f"{_percent(row.low)}–{_percent(row.high)}",
        _percent(row.paper),
        _percent(row.difference),
        f"{_percent(row.first_half)}|{_percent(row.second_half)}",
        str(row.scored),
    )


def curve_table(rows: Sequence[ReplayRow]) -> TextTable:
    """Return a table of refusal-position curves, each followed by the paper's, in percent."""
    curves = [(row.file, row.curve) for row in rows if row.curve is not None]
    header = ("refusals started by, %", *(str(x) for _, curve in curves[:1] for x in curve.x))
    cells: list[tuple[str, ...]] = []
    for file, curve in curves:
        cells.append((f"{file}, ours (words)", *map(_percent, curve.ours)))
        cells.append((f"{file}, paper (tokens, 70B)", *map(_percent, curve.paper)))
    return TextTable("", header, cells)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
