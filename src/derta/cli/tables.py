"""Results as tables and lines for people to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table

if TYPE_CHECKING:
    from derta.metrics.calibration import Calibration, Share
    from derta.metrics.comparisons import Agreement
    from derta.paper.replay import ReplayRow
    from derta.pipeline.calibrating import JudgedFile, JudgedTwice
    from derta.pipeline.estimate import MethodEstimate
    from derta.pipeline.search import SearchSummary
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
    table = Table("refusals started by, %", *(str(x) for row in curves[:1] if row.curve for x in row.curve.x))
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


def judged_lines(found: JudgedFile, *, first: str, second: str | None) -> list[RenderableType]:
    """A judged file's rates, and the replies on which two judges differ."""
    rates = [format_cell(cell) for cell in found.cells]
    if found.agreement is None:
        return [*rates]
    differing = [json.dumps(row, ensure_ascii=False) for row in _differing(found.agreement)]
    return [*rates, agreement_table(found.agreement.table, first=first, second=str(second)), *differing]


def judged_json(found: JudgedFile) -> Any:
    """A judged file for a script: one cell, several, or both judges' cells and replies on which they differ."""
    cells = [cell.model_dump() for cell in found.cells]
    shown = cells[0] if len(cells) == 1 else cells
    if found.agreement is None:
        return shown
    table = found.agreement.table._asdict()
    return {"cells": shown, "agreement": table, "differing": _differing(found.agreement)}


def _differing(agreement: JudgedTwice) -> list[dict[str, Any]]:
    return [
        {name: record.model_dump(exclude_none=True) for name, record in one._asdict().items()}
        for one in agreement.differing
    ]


def format_comparison(one: Comparison) -> str:
    """A comparison in one line."""
    return (
        f"{one.name} ({one.measure}): {one.first_value:.1%} against {one.second_value:.1%} of {one.pairs} pairs; "
        f"only the first {one.only_first}, only the second {one.only_second}; p = {one.p_value:.2g}, "
        f"corrected {one.p_holm:.2g}"
    )


def format_estimate(one: MethodEstimate) -> str:
    """One method's estimate in a line."""
    minutes, seconds = divmod(round(one.seconds), 60)
    return (
        f"{one.method}: {one.rows:,} {one.unit}, {one.tokens:,} tokens ({one.labels:,} labelled), {one.steps:,} steps, "
        f"{one.padding:.1%} padding; by a probe on this machine, about {minutes:,} min {seconds} s of training "
        f"without loading and checkpoints, and {one.peak_gib} GiB at the peak."
    )


def format_search(summary: SearchSummary) -> str:
    """A search's cost and success in two lines."""
    from derta.pipeline.search import format_cost

    found = ", ".join(f"{one.queries}: {one.found}/{one.requests}" for one in summary.success_by_budget)
    return f"{format_cost(summary.cost)}\nharmful by queries of the target: {found or 'not judged on the way'}"
