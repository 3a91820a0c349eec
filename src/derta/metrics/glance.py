"""The rates of a run at a glance, which a command prints at its end: one row for each method, seeds pooled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from derta.metrics.axes import AXES, OUTSIDE
from derta.results import AxisName, Frontier, FrontierDifference, FrontierRate, Summary, TextTable

_ATTACK: tuple[AxisName, AxisName] = ("attack_success", "attack_not_refused")
_OTHERS: tuple[AxisName, ...] = ("over_refusal", "helpfulness", "malformed_attack", "malformed_benign")


def glance_lines(summary: Summary, *, folder: Path, differences: bool = False) -> list[TextTable | str]:
    """Return a table of the rates of all methods, and the path of the report in `folder`.

    With `differences`, a second table has the paired differences of the other methods to the baseline. Without a judge
    of harm, the rate of attacks is that of replies that do not refuse, under that name.

    >>> glance_lines(Summary(title="a run", recipe="a run", versions={}, cells=()), folder=Path("runs/a"))
    ['no rates: no evaluation was judged for all methods', 'report: runs/a/report.html']
    """
    path = f"report: {folder / 'report.html'}"
    if summary.frontier is None:
        return ["no rates: no evaluation was judged for all methods", path]
    others = [_differences(summary.frontier)] if differences and len(summary.frontier.points) > 1 else []
    return [_table(summary), *others, path]


def glance_values(summary: Summary, *, folder: Path) -> dict[str, Any]:
    """Return the numbers of `glance_lines` for JSON, with the paths of `summary.json` and of the report."""
    paths = {"summary": str(folder / "summary.json"), "report": str(folder / "report.html")}
    if summary.frontier is None:
        return paths | {"methods": []}
    names = _names(summary.frontier)
    methods = [
        {"method": point.method, "seeds": list(point.seeds)}
        | {name: point.rates[name].model_dump() for name in names}
        | {"differences": {name: one.model_dump() for name, one in point.differences.items() if name in names}}
        for point in summary.frontier.points
    ]
    return paths | {"methods": methods}


def _names(frontier: Frontier) -> list[AxisName]:
    """Return the axes of the table: the first of the two of attacks that was measured, and the others."""
    measured = [axis.name for axis in frontier.axes]
    attacks: list[AxisName] = [name for name in _ATTACK if name in measured]
    return [*attacks[:1], *(name for name in _OTHERS if name in measured)]


def _table(summary: Summary) -> TextTable:
    assert summary.frontier is not None  # noqa: S101 - by the caller
    frontier = summary.frontier
    names = _names(frontier)
    columns = [[point.rates[name] for point in frontier.points] for name in names]
    header = [f"{AXES[name].title}{_shared_count(column)}" for name, column in zip(names, columns, strict=True)]
    cells = [[_format(rate, with_count=not _shared_count(column)) for rate in column] for column in columns]
    rows = [(point.method, *row) for point, row in zip(frontier.points, zip(*cells, strict=True), strict=True)]
    judged: dict[str, list[str]] = {}
    for axis in frontier.axes:
        if axis.name in names:
            judged.setdefault(", ".join(axis.judges), []).append(AXES[axis.name].title)
    by = "; ".join(f"{judges} ({', '.join(titles)})" for judges, titles in judged.items())
    caption = f"percent with 95 % intervals, means over the sets; n: judged replies; judges: {by}"
    outside = dict.fromkeys(one for axis in frontier.axes for one, why in axis.left_out.items() if why == OUTSIDE)
    caption += f"; not in the means: {', '.join(outside)}" if outside else ""
    return TextTable(summary.title, ("method", *header), rows, caption)


def _differences(frontier: Frontier) -> TextTable:
    names = _names(frontier)
    rows = [
        (point.method, *(_signed(point.differences.get(name)) for name in names))
        for point in frontier.points
        if point.method != frontier.baseline
    ]
    header = ("method", *(AXES[name].title for name in names))
    caption = "percentage points with 95 % intervals, on the prompts that both answered"
    return TextTable(f"Difference to {frontier.baseline}", header, rows, caption)


def _signed(one: FrontierDifference | None) -> str:
    if one is None:
        return "–"
    value, low, high = (f"{round(100 * number, 1) + 0.0:+.1f}" for number in (one.value, one.low, one.high))
    return f"{value} ({low} to {high})"


def _shared_count(column: Sequence[FrontierRate]) -> str:
    """Return the number of judged replies as text if it is that of all methods, else an empty text."""
    counts = {rate.scored for rate in column}
    return f" (n {counts.pop()})" if len(counts) == 1 else ""


def _format(rate: FrontierRate, *, with_count: bool) -> str:
    if rate.value is None or rate.low is None or rate.high is None:
        return "–"
    count = f" (n {rate.scored})" if with_count else ""
    return f"{100 * rate.value:.1f} {100 * rate.low:.1f}–{100 * rate.high:.1f}{count}"
