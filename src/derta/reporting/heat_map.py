"""Heat map of the report: the main rate of each attack and data set, for every method; darker is worse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from derta.reporting.tables import SUITES, pooled_cells
from derta.reporting.text import format_percent
from derta.reporting.wordings import Wording, wording
from derta.results import Cell

# The first measure of a suite that a judge has; a refusal rate under attack is shown as such.
_MEASURES = (("attack", ("harmful", "refused")), ("over_refusal", ("refused",)), ("benign", ("correct",)))
_BENIGN = Wording("Benign tasks done", "higher", "correct replies to harmless or ordinary requests")
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
    """Rows of one measure of one judge."""

    wording: Wording
    judge: str
    is_attack: bool
    rows: tuple[HeatRow, ...]


def heat_groups(cells: Sequence[Cell], *, methods: Sequence[str]) -> tuple[HeatGroup, ...]:
    """Return the groups of the heat map: attacks, over-refusal, and benign tasks done."""
    pooled = [cell for cell in pooled_cells(cells) if cell.suite in SUITES and cell.suite != "analysis"]
    groups: list[HeatGroup] = []
    for suite, measures in _MEASURES:
        own = [cell for cell in pooled if cell.suite == suite or (suite == "benign" and cell.suite != "attack")]
        measure = next((one for one in measures if any(cell.measure == one for cell in own)), None)
        chosen = [cell for cell in own if cell.measure == measure]
        if measure is None or not chosen:
            continue
        judges = list(dict.fromkeys(cell.judge for cell in chosen))
        chosen = chosen if suite == "benign" else [cell for cell in chosen if cell.judge == judges[0]]
        words = _BENIGN if suite == "benign" else wording(suite, measure)
        judge = ", ".join(judges) if suite == "benign" else judges[0]
        groups.append(HeatGroup(words, judge, suite == "attack", _rows(chosen, methods, words)))
    return tuple(groups)


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
