"""Format results as tables and lines for the terminal."""

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
    from derta.pipeline.calibrating import JudgeAgreement, JudgeResult
    from derta.pipeline.estimate import MethodEstimate
    from derta.pipeline.search import SearchSummary
    from derta.results import Cell, Comparison


def calibration_table(result: Calibration) -> Table:
    """Return a table of a judge's accuracy: overall, by attack and by class of reply."""
    title = f"{result.judge} ({result.measure}) against the labels of {result.labels}"
    table = Table("", "n", "accuracy", "precision", "recall", "kappa", title=title)
    overall = (result.accuracy, result.precision, result.recall, result.kappa)
    table.add_row("all", str(result.accuracy.scored), *map(_format_share, overall))
    for group in result.groups:
        shares = map(_format_share, (group.accuracy, group.precision, group.recall, group.kappa))
        table.add_row(f"{group.by}: {group.name}", str(group.accuracy.scored), *shares)
    table.caption = f"specificity {_format_share(result.specificity)}; {result.unscored} unscored"
    if result.accuracy.bounds is not None:
        table.caption += "; in brackets: the rates if none and if all of the unscored replies counted"
    return table


def _format_share(share: Share) -> str:
    if share.value is None or share.low is None or share.high is None:
        return "–"
    bounds = "" if share.bounds is None else f" [{share.bounds[0]:.2f}–{share.bounds[1]:.2f}]"
    return f"{share.value:.2f} {share.low:.2f}–{share.high:.2f}{bounds}"


def agreement_table(result: Agreement, *, first: str, second: str) -> Table:
    """Return a two-by-two table of two judges' verdicts, with their agreement rate and kappa in the caption."""
    table = Table("", f"{second}: yes", f"{second}: no", title=f"{first} and {second} on the same replies")
    table.add_row(f"{first}: yes", str(result.both), str(result.only_first))
    table.add_row(f"{first}: no", str(result.only_second), str(result.neither))
    agreement = "–" if result.agreement is None else f"{result.agreement:.3f}"
    kappa = "–" if result.kappa is None else f"{result.kappa:.2f}"
    table.caption = f"agreement {agreement}, kappa {kappa}, {result.unscored} unscored by at least one judge"
    return table


def replay_table(rows: Sequence[ReplayRow]) -> Table:
    """Return a table of replayed rates next to the paper's, in percent."""
    table = Table(title="published outputs, %")
    table.add_column("file", overflow="fold", min_width=24)
    for name in ("measure", "ours", "95 %", "paper", "off", "halves", "n"):
        table.add_column(name)
    for row in rows:
        if row.curve is not None:
            continue
        halves = f"{_percent(row.first_half)}|{_percent(row.second_half)}"
        interval = f"{_percent(row.low)}–{_percent(row.high)}"
        cells = (
            row.measure,
            _percent(row.ours),
            interval,
            _percent(row.paper),
            _percent(row.difference),
            halves,
            str(row.scored),
        )
        table.add_row(row.file.rpartition(".")[0], *cells)
    return table


def curve_table(rows: Sequence[ReplayRow]) -> Table:
    """Return a table of refusal-position curves, each followed by the paper's, in percent."""
    curves = [row for row in rows if row.curve is not None]
    table = Table("refusals started by, %", *(str(x) for row in curves[:1] if row.curve for x in row.curve.x))
    for row in curves:
        if row.curve is not None:
            table.add_row(f"{row.file}, ours (words)", *map(_percent, row.curve.ours))
            table.add_row(f"{row.file}, paper (tokens, 70B)", *map(_percent, row.curve.paper))
    return table


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def format_cell(cell: Cell) -> str:
    """Format a rate with its interval and counts as one line."""
    missing = f"{cell.unscored} unscored" + (f", {cell.unanswered} unanswered" if cell.unanswered else "")
    if cell.bounds is not None:
        missing += f" ({cell.bounds[0]:.1%} if none of them counted, {cell.bounds[1]:.1%} if all did)"
    if cell.value is None or cell.low is None or cell.high is None:
        return f"{cell.measure}: nothing was scored ({missing})"
    interval = f"95 % interval {cell.low:.1%} to {cell.high:.1%}"
    return f"{cell.measure}: {cell.value:.1%} of {cell.scored} ({interval}), {missing}"


def judged_lines(result: JudgeResult, *, first: str, second: str | None) -> list[RenderableType]:
    """Return the rates of a judged file and, with two judges, their agreement and the replies they disagree on."""
    first_rates = [cell for cell in (*result.cells, result.malformed) if cell is not None]
    rates = [*map(format_cell, first_rates), *(f"{_group_name(cell)}: {format_cell(cell)}" for cell in result.groups)]
    if result.agreement is None:
        return [*rates]
    disagreements = [json.dumps(row, ensure_ascii=False) for row in _disagreements(result.agreement)]
    return [*rates, agreement_table(result.agreement.table, first=first, second=str(second)), *disagreements]


def _group_name(cell: Cell) -> str:
    return f"{cell.method}, {cell.name}" if cell.method else cell.name


def judged_json(result: JudgeResult) -> Any:
    """Return JSON of a judged file: a cell, a list of cells, or with two judges also their agreement.

    The first cell has the rate of malformed refusals as `malformed`, if the judge detects refusals, and of a file with
    several models or attacks the rate of each in `groups`.
    """
    cells = [cell.model_dump() for cell in result.cells]
    if result.malformed is not None:
        cells[0]["malformed"] = result.malformed.model_dump()
    if result.groups:
        cells[0]["groups"] = [cell.model_dump() for cell in result.groups]
    output = cells[0] if len(cells) == 1 else cells
    if result.agreement is None:
        return output
    table = result.agreement.table._asdict()
    return {"cells": output, "agreement": table, "differing": _disagreements(result.agreement)}


def _disagreements(agreement: JudgeAgreement) -> list[dict[str, Any]]:
    return [
        {name: record.model_dump(exclude_none=True) for name, record in case._asdict().items()}
        for case in agreement.disagreements
    ]


def format_comparison(comparison: Comparison) -> str:
    """Format a paired comparison of two models as one line."""
    left_out = f" ({comparison.left_out} prompts left out)" if comparison.left_out else ""
    return (
        f"{comparison.name} ({comparison.measure}): {comparison.first_value:.1%} against {comparison.second_value:.1%} "
        f"of {comparison.pairs} pairs{left_out}; only the first "
        f"{comparison.only_first}, only the second {comparison.only_second}; p = {comparison.p_value:.2g}, corrected "
        f"{comparison.p_holm:.2g}"
    )


def format_estimate(estimate: MethodEstimate) -> str:
    """Format a method's size, time and memory estimate as one line."""
    minutes, seconds = divmod(round(estimate.seconds), 60)
    return (
        f"{estimate.method}: {estimate.rows:,} {estimate.unit}, {estimate.tokens:,} tokens ({estimate.labels:,} "
        f"labelled), {estimate.steps:,} steps, {estimate.padding:.1%} padding; estimated from a short probe on this "
        f"machine: {minutes:,} min {seconds} s of training without loading and checkpoints, {estimate.peak_gib} GiB "
        "peak memory"
    )


def format_search(summary: SearchSummary) -> str:
    """Format the cost and success rates of a search as two lines."""
    from derta.pipeline.search import format_cost

    success = ", ".join(f"{row.queries}: {row.found}/{row.requests}" for row in summary.success_by_budget)
    return f"{format_cost(summary.cost)}\nharmful replies by target queries: {success or 'not judged'}"
