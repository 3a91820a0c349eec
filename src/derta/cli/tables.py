"""Results as tables and lines for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from derta.metrics.calibration import Agreement, Calibration, Share
    from derta.paper.replay import ReplayRow
    from derta.results import Cell, Comparison


def calibration_table(found: Calibration) -> Table:
    """The numbers as a table: over all, by attack, by class of reply."""
    title = f"{found.judge} ({found.measure}) against the labels of {found.labels}"
    table = Table("", "n", "accuracy", "precision", "recall", "kappa", title=title)
    whole = (found.accuracy, found.precision, found.recall, found.kappa)
    table.add_row("all", str(found.accuracy.scored), *map(_with_interval, whole))
    for group in found.groups:
        shares = map(_with_interval, (group.accuracy, group.precision, group.recall, group.kappa))
        table.add_row(f"{group.by}: {group.name}", str(group.accuracy.scored), *shares)
    table.caption = f"specificity {_with_interval(found.specificity)}; {found.unscored} unscored"
    return table


def _with_interval(share: Share) -> str:
    if share.value is None or share.low is None or share.high is None:
        return "–"
    return f"{share.value:.2f} {share.low:.2f}–{share.high:.2f}"


def agreement_table(found: Agreement, *, first: str, second: str) -> Table:
    """The two-by-two table, with the share of agreement and kappa below it."""
    table = Table("", f"{second}: yes", f"{second}: no", title=f"{first} and {second} on the same replies")
    table.add_row(f"{first}: yes", str(found.both), str(found.only_first))
    table.add_row(f"{first}: no", str(found.only_second), str(found.neither))
    agreed = "–" if found.agreement is None else f"{found.agreement:.3f}"
    kappa = "–" if found.kappa is None else f"{found.kappa:.2f}"
    table.caption = f"agreement {agreed}, kappa {kappa}, {found.unscored} unscored by one of them"
    return table


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


def format_cell(cell: Cell) -> str:
    """A cell in one line."""
    if cell.value is None or cell.low is None or cell.high is None:
        return f"{cell.measure}: nothing was scored ({cell.unscored} unscored)"
    interval = f"95 % interval {cell.low:.1%} to {cell.high:.1%}"
    return f"{cell.measure}: {cell.value:.1%} of {cell.scored} ({interval}), {cell.unscored} unscored"


def format_comparison(one: Comparison) -> str:
    """A comparison in one line."""
    return (
        f"{one.name} ({one.measure}): {one.first_value:.1%} against {one.second_value:.1%} of {one.pairs} pairs; "
        f"only the first {one.only_first}, only the second {one.only_second}; p = {one.p_value:.2g}, "
        f"corrected {one.p_holm:.2g}"
    )
