"""`derta replay`: the published outputs under our judges, beside the paper's figures."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.table import Table

from derta.cli.console import say
from derta.judges import JUDGES
from derta.metrics.refusal_position import refusal_position_curves
from derta.paper.figures import load_figures
from derta.paper.replay import ReplayRow, replay
from derta.records import Reply, Verdict


def replay_folder(folder: Path) -> list[ReplayRow]:
    """Judge the published outputs of a folder; what is missing is told on standard error and left out.

    Raises:
        DataError: the folder holds none of them.
    """
    judges = {name: entry.judge for name, entry in JUDGES.items()}
    found = replay(folder, figures=load_figures(), judges=judges, positions=shares_begun)
    for line in found.left_out:
        say(line)
    return found.rows


def shares_begun(judged: Iterable[tuple[Reply, Verdict]], positions: Sequence[int]) -> tuple[float, ...] | None:
    """The share of refusals begun by each position (in words where replies have no tokens); None without refusals."""
    curves = refusal_position_curves(judged, method="", name="")
    if not curves:
        return None
    [curve] = curves
    steps = [0.0, *curve.y]
    return tuple(steps[bisect_right(curve.x, position)] for position in positions)


def mean_absolute_difference(rows: Iterable[ReplayRow], *, measure: str) -> float | None:
    """The mean distance from the paper's figures, in points, over the files that have one."""
    differences = [abs(row.difference) for row in rows if row.measure == measure and row.difference is not None]
    return sum(differences) / len(differences) if differences else None


def replay_table(rows: Sequence[ReplayRow]) -> Table:
    """The rows as a table of percentages."""
    table = Table(title="published outputs, %")
    table.add_column("file", overflow="fold", min_width=24)
    for name in ("measure", "ours", "95 %", "paper", "off", "halves", "n"):
        table.add_column(name)
    for row in rows:
        if row.curve is not None:
            continue
        halves = f"{_one(row.first_half)}|{_one(row.second_half)}"
        interval = f"{_one(row.low)}–{_one(row.high)}"
        cells = (row.measure, _one(row.ours), interval, _one(row.paper), _one(row.difference), halves, str(row.scored))
        table.add_row(row.file.rpartition(".")[0], *cells)
    return table


def curve_table(rows: Sequence[ReplayRow]) -> Table:
    """The refusal-position curves, ours above the paper's."""
    curves = [row for row in rows if row.curve is not None]
    table = Table("refusals begun by, %", *(str(x) for row in curves[:1] if row.curve for x in row.curve.x))
    for row in curves:
        if row.curve is not None:
            table.add_row(f"{row.file}, ours (words)", *map(_one, row.curve.ours))
            table.add_row(f"{row.file}, paper (tokens, 70B)", *map(_one, row.curve.paper))
    return table


def _one(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
