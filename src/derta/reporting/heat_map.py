"""Heat map of the report: the main rate of each attack and data set, for every method; darker is worse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from derta.metrics.kinds import MOST_MALFORMED
from derta.reporting.tables import SUITES, pooled_cells
from derta.reporting.text import format_percent
from derta.reporting.wordings import MALFORMED, Wording, wording
from derta.results import Cell

_DONE = Wording("Benign tasks done", "higher", "correct replies to harmless or ordinary requests")
_GARBLED = Wording("Malformed replies to benign prompts", "lower", MALFORMED)
_STRONG = 0.79  # from here on, the other text colour has the higher contrast; both have 4.5 there (page.css)


class HeatCell(NamedTuple):
    """A rate with its interval as text; `level` from 0 (good) to 1 (bad), None if it was not measured."""

    cell: Cell | None
    value: str
    interval: str
    level: float | None
    is_strong: bool


class HeatRow(NamedTuple):
    """An attack or data set (a cell of it, for its name) with the rates of all methods."""

    place: Cell
    cells: tuple[HeatCell, ...]


class HeatGroup(NamedTuple):
    """Rows of one measure of one judge, or of several for different sets."""

    wording: Wording
    judge: str
    rows: tuple[HeatRow, ...]


def heat_groups(cells: Sequence[Cell], *, methods: Sequence[str]) -> tuple[HeatGroup, ...]:
    """Return the groups of the heat map: attacks, over-refusal, benign tasks done, and malformed benign replies.

    The last is left out where no method garbles more than a few of them.
    """
    pooled = [cell for cell in pooled_cells(cells) if cell.suite in SUITES and cell.suite != "analysis"]
    attacks = [cell for cell in pooled if cell.suite == "attack"]
    benign = [cell for cell in pooled if cell.suite != "attack"]
    harmless = [cell for cell in benign if cell.suite == "over_refusal"]
    malformed = [cell for cell in benign if cell.measure == "malformed"]
    garbled = any(cell.value is not None and cell.value > MOST_MALFORMED for cell in malformed)
    chosen = [
        (_of_first_judge(attacks, "harmful") or _of_first_judge(attacks, "refused"), None),
        (_of_first_judge(harmless, "refused"), None),
        ([cell for cell in benign if cell.measure == "correct"], _DONE),
        (malformed if garbled else [], _GARBLED),
    ]
    return tuple(_group(members, words, methods) for members, words in chosen if members)


def _of_first_judge(cells: Sequence[Cell], measure: str) -> list[Cell]:
    own = [cell for cell in cells if cell.measure == measure]
    return [cell for cell in own if cell.judge == own[0].judge]


def _group(cells: Sequence[Cell], words: Wording | None, methods: Sequence[str]) -> HeatGroup:
    words = words or wording(cells[0].suite, cells[0].measure)
    judges = ", ".join(dict.fromkeys(cell.judge for cell in cells))
    return HeatGroup(words, judges, _rows(cells, methods, words))


def _rows(cells: Sequence[Cell], methods: Sequence[str], words: Wording) -> tuple[HeatRow, ...]:
    by_place: dict[tuple[str, str], dict[str, Cell]] = {}
    for cell in cells:
        by_place.setdefault((cell.suite, cell.name), {}).setdefault(cell.method, cell)
    return tuple(
        HeatRow(next(iter(members.values())), tuple(_heat_cell(members.get(method), words) for method in methods))
        for members in by_place.values()
    )


def _heat_cell(cell: Cell | None, words: Wording) -> HeatCell:
    if cell is None or cell.value is None:
        return HeatCell(cell, format_percent(None), "", None, False)
    level = cell.value if words.better == "lower" else 1 - cell.value
    interval = (
        "" if cell.low is None or cell.high is None else f"{format_percent(cell.low)}–{format_percent(cell.high)}"
    )
    level = round(min(1.0, max(0.0, level)), 3)
    return HeatCell(cell, format_percent(cell.value), interval, level, level >= _STRONG)
