"""The frontier as tables and lines for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from derta.metrics.axes import AXES
from derta.metrics.goal_items import GoalItem
from derta.metrics.goals import GoalResult
from derta.results import AnswerLength, AxisName, Frontier, FrontierAxis, FrontierPoint, FrontierRate, TextTable
from derta.significance import format_p_value


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
        return f"no: dominated by {', '.join(point.dominated_by)}"
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


def length_table(frontier: Frontier, *, by_set: bool = False) -> TextTable | None:
    """Return a table of the lengths of answers to benign prompts; None without replies of known tokens.

    Args:
        frontier: The frontier.
        by_set: Whether each set has a row with its interval; by default a method has one row, of means over the sets.
    """
    if not frontier.lengths:
        return None
    title, ratio = "Length of answers to benign prompts", f"ratio to {frontier.baseline}"
    if by_set:
        rows = [(one.method, one.name, *_length(one), str(one.replies)) for one in frontier.lengths]
        return TextTable(title, ("method", "set", "tokens", ratio, "cut off %", "replies"), rows)
    by_method: dict[str, list[AnswerLength]] = {}
    for one in frontier.lengths:
        if one.in_means:
            by_method.setdefault(one.method, []).append(one)
    rows = [(method, *_mean_length(lengths)) for method, lengths in by_method.items()]
    header = ("method", "sets", "tokens", ratio, "lowest", "highest", "cut off %", "replies")
    return TextTable(title, header, rows, "means over the sets; --lengths: each set, with its interval")


def _length(one: AnswerLength) -> tuple[str, str, str]:
    ratio = "–" if one.ratio is None else f"{one.ratio:.3f} {one.low:.3f}–{one.high:.3f}"
    return f"{one.tokens:.1f}", ratio, f"{100 * one.cut_off:.0f}"


def _mean_length(lengths: Sequence[AnswerLength]) -> tuple[str, ...]:
    ratios = [one.ratio for one in lengths if one.ratio is not None]
    return (
        str(len(lengths)),
        f"{fmean(one.tokens for one in lengths):.1f}",
        *(f"{of(ratios):.3f}" if ratios else "–" for of in (fmean, min, max)),
        f"{100 * fmean(one.cut_off for one in lengths):.0f}",
        str(sum(one.replies for one in lengths)),
    )


def goal_table(results: Sequence[GoalResult], *, method: str) -> TextTable:
    """Return a table of goals: value, difference from the other method, number of prompts, and the result of each item.

    A goal with several items has a row for each, and one of its own with the worst result.
    """
    rows: list[tuple[str, ...]] = []
    for one in results:
        title = one.goal if one.counts else f"({one.goal})"
        several = len(one.items) > 1
        if several:
            rows.append((title, one.status, "", "", ""))
        for item in one.items:
            name = f"  {item.name}" if several else f"{title} {item.name}".strip()
            rows.append((name, item.status, _value(item), _difference(item), str(item.prompts or "")))
    counted = [one.status for one in results if one.counts]
    numbers = ", ".join(f"{counted.count(status)} {status}" for status in dict.fromkeys(counted))
    return TextTable(f"Goals of {method}", ("goal", "result", "value", "difference", "prompts"), rows, numbers)


def goal_lines(results: Sequence[GoalResult]) -> list[str]:
    """Return lines on what the table of goals does not say: reasons, single seeds, and sets that are left out."""
    lines: list[str] = []
    for one in results:
        details = [f"{item.name}: {item.detail}" if item.name else item.detail for item in one.items if item.detail]
        lines += [f"{one.goal}: {'; '.join(details)}"] if details else []
        lines += [f"{one.goal}: {seeds}"] if (seeds := _seeds(one.items)) else []
        if one.left_out:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in one.left_out.items())
            lines.append(f"{one.goal}: left out: {_count(len(one.left_out))} ({reasons})")
    return lines


def _seeds(items: Sequence[GoalItem]) -> str:
    """Return the values of single seeds; the items that have the same seeds follow each other."""
    by_seeds: dict[tuple[int, ...], list[str]] = {}
    for item in items:
        if item.by_seed:
            values = " ".join(f"{value:.3f}" for value in item.by_seed.values())
            by_seeds.setdefault((*item.by_seed,), []).append(f"{item.name} {values}".strip())
    return "; ".join(f"seeds {' '.join(map(str, seeds))}: {', '.join(texts)}" for seeds, texts in by_seeds.items())


def _value(item: GoalItem) -> str:
    if item.value is None:
        return "–"
    interval = "" if item.low is None or item.high is None else f" {item.low:.3f}–{item.high:.3f}"
    return f"{item.value:.3f}{interval}"


def _difference(item: GoalItem) -> str:
    if item.difference is None or item.difference_low is None or item.difference_high is None:
        return ""
    p = "" if item.p_holm is None else f", p {format_p_value(item.p_holm)}"
    value, low, high = map(_signed, (item.difference, item.difference_low, item.difference_high))
    return f"{value} ({low} to {high}){p}"


def _signed(value: float) -> str:
    """Format a number with its sign and three decimals; 0 is never negative.

    >>> _signed(-0.0002), _signed(-0.25)
    ('+0.000', '-0.250')
    """
    return f"{round(value, 3) + 0.0:+.3f}"
