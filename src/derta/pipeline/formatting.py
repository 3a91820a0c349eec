"""Results of judging, estimates, searches and calibrations as lines, tables and JSON for the terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from derta.metrics.tables import agreement_table, cells_table, format_cell
from derta.results import Cell, TextTable

if TYPE_CHECKING:
    from derta.pipeline.calibrating import JudgeAgreement, JudgeResult
    from derta.pipeline.estimate import MethodEstimate
    from derta.pipeline.file_rates import GroupRates
    from derta.pipeline.search import SearchSummary
    from derta.pipeline.threshold import CalibrationResult
    from derta.stats import Rate


def judged_lines(result: JudgeResult, *, first: str, second: str | None) -> list[TextTable | str]:
    """Return the rates of a judged file and, with two judges, their agreement and the replies they disagree on."""
    total, groups = result.rates
    if total is None:
        rates: list[TextTable | str] = [cells_table([cell for group in groups for cell in group.cells])]
        rates += [f"{_group_name(cell)}: {format_cell(cell)}" for cell in result.checks]
    else:
        of_all = [cell for cell in result.checks if cell.name == total.cell.name]
        rates = [format_cell(cell) for cell in (total.cell, *of_all, *total.cells[1:])]
        of_groups = [*(group.cell for group in groups), *(cell for cell in result.checks if cell not in of_all)]
        rates += [f"{_group_name(cell)}: {format_cell(cell)}" for cell in of_groups]
    if result.agreement is None:
        return [*rates]
    disagreements = [json.dumps(row, ensure_ascii=False) for row in _disagreements(result.agreement)]
    return [*rates, agreement_table(result.agreement.table, first=first, second=str(second)), *disagreements]


def _group_name(cell: Cell) -> str:
    return f"{cell.method}, {cell.name}" if cell.method else cell.name


def judged_json(result: JudgeResult) -> Any:
    """Return JSON of a judged file: a cell, a list of cells, or with two judges also their agreement.

    The first cell has the rate of malformed refusals as `malformed`, if the judge detects refusals, the share of empty
    replies as `empty`, if there are any, and of a file with several models or attacks the rate of each in `groups`.
    Without a total, because the file mixes attacks and harmless requests, the list has each group.
    """
    total, groups = result.rates
    cells = [_group_json(group) for group in (groups if total is None else [total])]
    if total is not None and groups:
        cells[0]["groups"] = [group.cell.model_dump() for group in groups]
    cells += [cell.model_dump() for cell in result.checks]
    output = cells[0] if len(cells) == 1 else cells
    if result.agreement is None:
        return output
    table = result.agreement.table._asdict()
    return {"cells": output, "agreement": table, "differing": _disagreements(result.agreement)}


def _group_json(group: GroupRates) -> dict[str, Any]:
    """Return the rate of a group with its other rates as keys."""
    return group.cell.model_dump() | {cell.measure: cell.model_dump() for cell in group.cells[1:]}


def _disagreements(agreement: JudgeAgreement) -> list[dict[str, Any]]:
    return [
        {name: record.model_dump(exclude_none=True) for name, record in case._asdict().items()}
        for case in agreement.disagreements
    ]


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


def threshold_lines(result: CalibrationResult) -> list[TextTable | str]:
    """Return a calibrated threshold in sentences and, with harmful answers, its detections by depth."""
    found, interval = result.threshold, "exact" if result.threshold.per == "reply" else "approximate"
    case = "replies" if found.per == "reply" else "positions"
    later = "".join(f", {value:g} after {first}" for first, value in found.later)
    lines = [
        f"threshold {found.threshold:g}{later}: {found.alarms} of {found.cases} benign {case} reach it; {interval} "
        f"95 % interval of the rate {found.low:.2%} to {found.high:.2%}, asked for {found.false_alarm:.2%}",
        f"logit bias {found.logit_bias:g} of tokens {', '.join(map(str, found.token_ids))}: makes one of them the most "
        f"likely token in {found.bias_alarms} of {found.replies} benign replies",
    ]
    if not result.depths:
        return [*lines]
    rows = [
        (one.depth, *map(_format_rate, (one.detected, one.false_alarms, one.auc)), str(one.detected.scored))
        for one in result.depths
    ]
    title = "answers that reach the threshold, by depth"
    return [*lines, TextTable(title, ("depth", "harmful", "benign", "AUC", "n harmful"), rows)]


def _format_rate(rate: Rate) -> str:
    return "–" if rate.value is None else f"{rate.value:.3f} {rate.low or 0:.3f}–{rate.high or 0:.3f}"


def threshold_json(result: CalibrationResult) -> Any:
    """Return JSON of a calibration: the threshold's file, its bias for servers, and the detections by depth."""
    depths = [
        {name: value._asdict() if name != "depth" else value for name, value in one._asdict().items()}
        for one in result.depths
    ]
    file = result.threshold.model_dump(mode="json")
    return {**file, "openai_logit_bias": result.threshold.openai_logit_bias, "depths": depths}
