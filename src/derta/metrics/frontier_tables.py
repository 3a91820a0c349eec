"""The frontier as tables and lines for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from derta.metrics.axes import AXES
from derta.results import AxisName, Frontier, FrontierAxis, FrontierPoint, FrontierRate, TextTable


def frontier_tables(frontier: Frontier) -> list[TextTable]:
    """Return the table of the compared rates and each method's place on the front, and one of the other rates.

    Rates are in percent, with their intervals.
    """
    names: list[AxisName] = [axis.name for axis in frontier.axes]
    others: list[AxisName] = [name for name in names if name not in frontier.compared]
    caption = "percent, with 95 % intervals by prompt over all seeds"
    tables = [
        TextTable(
            "Frontier",
            ("method", *(AXES[name].title for name in frontier.compared), "front"),
            [(point.method, *_rates(point, frontier.compared), _place(point)) for point in frontier.points],
            caption,
        )
    ]
    if others:
        rows = [(point.method, *_rates(point, others)) for point in frontier.points]
        tables.append(TextTable("Beside it", ("method", *(AXES[name].title for name in others)), rows, caption))
    return tables


def _rates(point: FrontierPoint, names: Sequence[AxisName]) -> list[str]:
    return [_format_rate(point.rates[name]) for name in names]


def _format_rate(rate: FrontierRate) -> str:
    if rate.value is None or rate.low is None or rate.high is None:
        return "–"
    missing = rate.unscored + rate.unanswered
    counted = f" [{missing} of {rate.scored + missing} without a verdict]" if missing else ""
    return f"{100 * rate.value:.1f} {100 * rate.low:.1f}–{100 * rate.high:.1f}{counted}"


def _place(point: FrontierPoint) -> str:
    """Return `yes` on the front; behind it, `no`, with the methods that are significantly better."""
    if point.pareto is None:
        return "–"
    if point.dominated_by:
        return f"no: {', '.join(point.dominated_by)} dominates"
    return "yes" if point.pareto else "no, not significantly"


def axis_lines(frontier: Frontier) -> list[str]:
    """Return lines on the sets and prompts of the axes, with their judges and what is left out."""
    names: dict[str, list[str]] = {}
    for axis in frontier.axes:
        names.setdefault(_sets(axis), []).append(f"{AXES[axis.name].title} ({', '.join(axis.judges)})")
    return [f"{'; '.join(titles)}: {text}" for text, titles in names.items()]


def _sets(axis: FrontierAxis) -> str:
    text = f"{axis.prompts} prompts of {_count(len(axis.sets))}: {', '.join(axis.sets)}"
    if axis.prompts_left_out:
        text += f"; left out: {axis.prompts_left_out} prompts that not every method has"
    if axis.left_out:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in axis.left_out.items())
        text += f"; left out: {_count(len(axis.left_out))} ({reasons})"
    return text


def _count(sets: int) -> str:
    return f"{sets} set{'s' * (sets != 1)}"


def length_table(frontier: Frontier) -> TextTable | None:
    """Return a table of the lengths of answers to benign prompts; None without replies of known tokens."""
    if not frontier.lengths:
        return None
    rows = [
        (
            one.method,
            one.name,
            f"{one.tokens:.1f}",
            "–" if one.ratio is None else f"{one.ratio:.3f} {one.low:.3f}–{one.high:.3f}",
            f"{100 * one.cut_off:.0f}",
            str(one.replies),
        )
        for one in frontier.lengths
    ]
    header = ("method", "set", "tokens", f"ratio to {frontier.baseline}", "cut off %", "replies")
    return TextTable("Length of answers to benign prompts", header, rows)
