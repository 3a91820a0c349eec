"""Comparisons of the report: the paired difference of each set with its interval, and which method is better."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from derta.reporting.text import MINUS, format_percent
from derta.reporting.wordings import Wording, wording
from derta.results import CellSuite, Comparison
from derta.significance import SIGNIFICANT

# With fewer discordant pairs an exact McNemar test cannot reach p < 0.05, whatever the outcomes: 2 * 0.5**5 = 0.0625.
MIN_DISCORDANT = 6
Kind = Literal["clear", "open", "small"]


class ComparisonRow(NamedTuple):
    """A comparison with its conclusion and the kind of it, which is a CSS class.

    `difference` is the second method's rate minus the first's in points, with the ends of its interval; a dash where a
    summary lacks them. `winner` is the better method, or the one with the lower rate if no direction is better.
    """

    comparison: Comparison
    conclusion: str
    kind: Kind
    difference: str
    interval: str
    winner: str | None


class ComparisonTable(NamedTuple):
    """Comparisons of one suite, measure and judge; `counts` has the number of rows of each conclusion, in words."""

    suite: CellSuite
    wording: Wording
    judge: str
    rows: list[ComparisonRow]
    counts: str


def comparison_tables(comparisons: Sequence[Comparison]) -> list[ComparisonTable]:
    """Group comparisons by suite, measure and judge, each with its conclusion."""
    groups: dict[tuple[CellSuite, str, str], list[Comparison]] = {}
    for one in comparisons:
        groups.setdefault((one.suite, one.measure, one.judge), []).append(one)
    tables: list[ComparisonTable] = []
    for (suite, measure, judge), members in groups.items():
        words = wording(suite, measure)
        rows = [_row(one, words.better) for one in members]
        tables.append(ComparisonTable(suite, words, judge, rows, _count(rows)))
    return tables


def format_points(difference: float | None) -> str:
    """Format a difference of two rates in percentage points, with its sign; a dash for None.

    >>> format_points(0.125), format_points(-0.5), format_points(0.0)
    ('+12.5', '−50.0', '0.0')
    """
    if difference is None:
        return format_percent(None)
    text = format_percent(abs(difference))
    return text if text == "0.0" else f"{'+' if difference > 0 else MINUS}{text}"


def format_points_interval(low: float | None, high: float | None) -> str:
    """Format the interval of a difference in percentage points; empty without one.

    >>> format_points_interval(-0.5, 0.25), format_points_interval(None, None)
    ('−50.0 to +25.0', '')
    """
    return "" if low is None or high is None else f"{format_points(low)} to {format_points(high)}"


def _row(comparison: Comparison, better: str | None) -> ComparisonRow:
    conclusion, kind, winner = _conclusion(comparison, better)
    low, high = comparison.difference_low, comparison.difference_high
    interval = "" if low is None or high is None else format_points_interval(-high, -low)
    difference = format_points(comparison.second_value - comparison.first_value)
    return ComparisonRow(comparison, conclusion, kind, difference, interval, winner)


def _conclusion(comparison: Comparison, better: str | None) -> tuple[str, Kind, str | None]:
    """Return the conclusion of a comparison, its kind, and the better method."""
    if comparison.only_first + comparison.only_second < MIN_DISCORDANT:
        return "too few differences", "small", None
    first_is_lower = comparison.only_first < comparison.only_second
    # pooled over seeds, a method may win more prompts and still have the worse mean: then the result is not clear
    agrees = first_is_lower == (comparison.first_value < comparison.second_value)
    if comparison.p_holm >= SIGNIFICANT or not agrees:
        return "no clear difference", "open", None
    first_wins = first_is_lower == (better != "higher")
    winner = comparison.first if first_wins else comparison.second
    return f"{winner} is {'lower' if better is None else 'better'}", "clear", winner


def _count(rows: Sequence[ComparisonRow]) -> str:
    """Return how often each conclusion occurs, the most frequent method first.

    >>> _count([])
    ''
    """
    winners = Counter(row.conclusion for row in rows if row.winner is not None)
    unclear = sum(row.winner is None for row in rows)
    parts = [f"{conclusion} {count} ×" for conclusion, count in winners.most_common()]
    return ", ".join([*parts, *([f"no clear difference {unclear} ×"] if unclear else [])])
