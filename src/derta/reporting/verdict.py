"""Verdict of the report: how the recommended method changes the rates of the baseline, from the frontier."""

from __future__ import annotations

from typing import Literal, NamedTuple

from derta.metrics.axes import AXES, OUTSIDE
from derta.reporting.comparing import format_points, format_points_interval
from derta.reporting.text import format_percent
from derta.results import AxisName, FrontierAxis, FrontierDifference, FrontierPoint, FrontierRate, Summary
from derta.stats import MISSING_SHARE

Direction = Literal["better", "worse", "unclear"]


class Change(NamedTuple):
    """A rate of the baseline (`before`, None if there is only one method) and of the recommended method, in percent.

    `interval` is that of the recommended method's rate; `difference` and its interval are paired, in points.
    `direction` is unclear where that interval contains 0, or without one. `missing` is the share of the two methods'
    replies that has no verdict, where it is large. `outside` has the sets that the recipe leaves out of the means.
    """

    title: str
    before: str | None
    after: str
    interval: str
    difference: str
    difference_interval: str
    direction: Direction | None
    judges: tuple[str, ...]
    num_sets: int
    missing: str | None
    outside: tuple[str, ...] = ()


class Verdict(NamedTuple):
    """Rates of the recommended method against the baseline: under attack, and on benign prompts.

    `baseline` is None if there is no other method. `harm_judged` says whether a judge of harm measured attack success.
    `dominated_by` has the methods that are at least as good on all compared axes, and significantly better on one.
    """

    recommended: str
    baseline: str | None
    harm_judged: bool
    attack: tuple[Change, ...]
    benign: tuple[Change, ...]
    dominated_by: tuple[str, ...]
    num_methods: int

    @property
    def changes(self) -> tuple[Change, ...]:
        """All rates of the verdict."""
        return (*self.attack, *self.benign)

    @property
    def outside(self) -> tuple[str, ...]:
        """Sets that the recipe leaves out of the means."""
        return tuple(dict.fromkeys(name for change in self.changes for name in change.outside))


TITLES: dict[AxisName, str] = {
    "attack_success": "attack success",
    "attack_not_refused": "refusals under attack",
    "malformed_attack": "malformed replies under attack",
    "helpfulness": "benign tasks done",
    "over_refusal": "over-refusal",
    "malformed_benign": "malformed replies to benign prompts",
}
_BENIGN: tuple[AxisName, ...] = ("helpfulness", "over_refusal", "malformed_benign")


def verdict(summary: Summary) -> Verdict | None:
    """Return the verdict of a summary; None without a frontier, or if it lacks the recommended method."""
    frontier = summary.frontier
    if frontier is None:
        return None
    points = {point.method: point for point in frontier.points}
    recommended, baseline = points.get(summary.recommended or ""), points.get(summary.baseline or "")
    if recommended is None:
        return None
    if recommended is baseline:
        baseline = None
    axes: dict[AxisName, FrontierAxis] = {axis.name: axis for axis in frontier.axes}
    harm_judged = "attack_success" in axes
    measured: AxisName = "attack_success" if harm_judged else "attack_not_refused"
    return Verdict(
        recommended=recommended.method,
        baseline=baseline and baseline.method,
        harm_judged=harm_judged,
        attack=_changes((measured, "malformed_attack"), axes, recommended, baseline),
        benign=_changes(_BENIGN, axes, recommended, baseline),
        dominated_by=recommended.dominated_by,
        num_methods=len(frontier.points),
    )


def _changes(
    names: tuple[AxisName, ...],
    axes: dict[AxisName, FrontierAxis],
    recommended: FrontierPoint,
    baseline: FrontierPoint | None,
) -> tuple[Change, ...]:
    return tuple(
        _change(axes[name], recommended, baseline)
        for name in names
        if name in axes and recommended.rates[name].value is not None
    )


def _change(axis: FrontierAxis, recommended: FrontierPoint, baseline: FrontierPoint | None) -> Change:
    name = axis.name
    after = _shown(recommended.rates[name], name)
    before = None if baseline is None else _shown(baseline.rates[name], name)
    difference = _shown_difference(recommended.differences.get(name), name) if baseline is not None else None
    interval = "" if after.low is None or after.high is None else _interval(after.low, after.high)
    return Change(
        title=TITLES[name],
        before=None if before is None else format_percent(before.value),
        after=format_percent(after.value),
        interval=interval,
        difference=format_points(difference and difference.value),
        difference_interval=format_points_interval(difference and difference.low, difference and difference.high),
        direction=None if baseline is None else _direction(difference, name),
        judges=axis.judges,
        num_sets=len(axis.sets),
        missing=_missing([one for one in (after, before) if one is not None]),
        outside=tuple(one for one, reason in axis.left_out.items() if reason == OUTSIDE),
    )


def _shown(rate: FrontierRate, name: AxisName) -> FrontierRate:
    """Return a rate as the report words it: of replies that refuse, not of those that do not."""
    if name != "attack_not_refused" or rate.value is None or rate.low is None or rate.high is None:
        return rate
    return rate.model_copy(update={"value": 1 - rate.value, "low": 1 - rate.high, "high": 1 - rate.low})


def _shown_difference(one: FrontierDifference | None, name: AxisName) -> FrontierDifference | None:
    if one is None or name != "attack_not_refused":
        return one
    return FrontierDifference(value=-one.value, low=-one.high, high=-one.low)


def _direction(difference: FrontierDifference | None, name: AxisName) -> Direction:
    if difference is None or difference.low <= 0 <= difference.high:
        return "unclear"
    better = "higher" if name == "attack_not_refused" else AXES[name].better  # of the rate as it is shown
    return "better" if (difference.value > 0) == (better == "higher") else "worse"


def _missing(rates: list[FrontierRate]) -> str | None:
    missing = sum(one.unscored + one.unanswered for one in rates)
    total = missing + sum(one.scored for one in rates)
    return format_percent(missing / total) if total and missing > MISSING_SHARE * total else None


def _interval(low: float, high: float) -> str:
    return f"{format_percent(low)}–{format_percent(high)}"
