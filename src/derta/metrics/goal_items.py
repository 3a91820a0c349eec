"""Items of a goal: a rate, a kept share or a ratio of a method, with its status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from derta.config.goals import Goal, Goals
from derta.metrics.axes import AXES, Axis
from derta.metrics.bootstrap import Interval, kept_share
from derta.metrics.lengths import cut_off_share
from derta.metrics.measures import Judged, ratio_to
from derta.metrics.outcomes import Outcome
from derta.metrics.paired import Difference
from derta.records import Record
from derta.significance import SIGNIFICANT, holm
from derta.stats import Rate

GoalStatus = Literal["met", "open", "failed", "unmeasured"]


class GoalItem(Record):
    """One judged value of a goal: the mean over its sets, or one of them.

    Attributes:
        name: The set or attack, or the fine-tuning attack; empty for the mean.
        value: The method's rate or ratio; of `keep`, the share.
        low: Lower end of the interval of a ratio or a share; None for a rate.
        high: Its upper end.
        against: The other method's rate.
        difference: The method's rate minus the other's on the prompts scored for both, with its interval.
        p_holm: p-value of the difference, Holm-corrected over the items.
        by_seed: The value of each seed; of a rate of several seeds.
        prompts: Number of prompts, or of held-out answers.
        cases: Number of replies of the method to them.
        detail: What the numbers do not say.
    """

    name: str
    status: GoalStatus
    value: float | None = None
    low: float | None = None
    high: float | None = None
    against: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_holm: float | None = None
    by_seed: dict[int, float] = Field(default_factory=dict)
    prompts: int = 0
    cases: int = 0
    detail: str = ""


def rate_items(goal: Goal, parts: Mapping[str, Axis], *, method: str, other: str | None) -> list[GoalItem]:
    """Judge the method's rate on each part of an axis, with Holm's correction over the parts."""
    differences = {name: axis.difference(method, other) if other else None for name, axis in parts.items()}
    corrected = holm([1.0 if one is None else one.p_value for one in differences.values()])
    items: list[GoalItem] = []
    for (name, axis), found, p in zip(parts.items(), differences.values(), corrected, strict=True):
        rate = axis.rate(method)
        item = GoalItem(
            name=name,
            status="unmeasured",
            value=rate.value,
            low=rate.low,
            high=rate.high,
            by_seed=_by_seed(axis, method),
            prompts=len(axis.units.sets),
            cases=rate.scored,
            detail=_missing(rate),
        )
        if found is not None:
            item = item.model_copy(update=_compared(found) | {"p_holm": p})
        items.append(item.model_copy(update={"status": _status(goal, item, lower=AXES[axis.name].better == "lower")}))
    return items


def _compared(found: Difference) -> dict[str, Any]:
    """Return the fields of an item that a difference has."""
    return {
        "against": found.second,
        "difference": found.value,
        "difference_low": found.low,
        "difference_high": found.high,
        "prompts": found.prompts,
    }


def _missing(rate: Rate) -> str:
    """Return how many replies are not in the rate; an empty string of none."""
    missing = rate.unscored + rate.unanswered
    return f"{missing} of {missing + rate.scored} replies without a verdict" if missing else ""


def _status(goal: Goal, item: GoalItem, *, lower: bool) -> GoalStatus:
    """Return the status of a rate; `lower`: lower rates are better."""
    if item.value is None or (goal.against is not None and item.difference is None):
        return "unmeasured"
    if not _within(goal, item.value):
        return "failed"
    if item.difference is None or item.difference_low is None or item.difference_high is None:
        return "met"
    loss, worst = (item.difference, item.difference_high) if lower else (-item.difference, -item.difference_low)
    if goal.worse_by is not None and loss > goal.worse_by + 1e-12:
        return "failed"
    if goal.no_significant_loss:
        return "failed" if loss > 0 and (item.p_holm or 0.0) < SIGNIFICANT else "met"
    return "open" if goal.margin is not None and worst > goal.margin else "met"


def _within(goal: Goal, value: float) -> bool:
    return (goal.at_most is None or value <= goal.at_most + 1e-12) and (
        goal.at_least is None or value >= goal.at_least - 1e-12
    )


def _by_seed(axis: Axis, method: str) -> dict[int, float]:
    seeds = axis.counts[method]
    rates = {seed: axis.rate(method, seed=seed).value for seed in seeds} if len(seeds) > 1 else {}
    return {seed: value for seed, value in rates.items() if value is not None}


def kept_item(goal: Goal, goals: Goals, axis: Axis) -> GoalItem:
    """Judge the share of the reference's reduction that the method keeps.

    Where the reference reduces nothing significantly, a share says nothing: there the method must not be significantly
    worse than the reference.
    """
    lower = AXES[axis.name].better == "lower"
    reduction = axis.difference(goals.baseline, goals.reference)
    found = axis.difference(goals.method, goals.reference)
    if reduction is None or found is None:
        return no_item("no prompt is scored for all three methods")
    numbers = GoalItem(name="", status="unmeasured", cases=found.cases, p_holm=found.p_value, **_compared(found))
    loss, worst = (found.value, found.high) if lower else (-found.value, -found.low)
    gained = reduction.value > 0 if lower else reduction.value < 0
    if not gained or reduction.p_value >= SIGNIFICANT:
        status = "failed" if loss > 0 and found.p_value < SIGNIFICANT else "met"
        detail = (
            f"{goals.reference} is not significantly better than {goals.baseline} ({reduction.second:.3f} and "
            f"{reduction.first:.3f}, p = {reduction.p_value:.2g}): only a significant loss would fail"
        )
        return numbers.model_copy(update={"status": status, "detail": detail})
    share = _share(goals, axis)
    if share is None:
        return no_item("no prompt is scored for all three methods")
    is_kept = goal.keep is None or share.value >= goal.keep - 1e-12
    is_shown = goal.margin is None or worst <= goal.margin
    rates = [f"{name} {axis.rate(name).value:.3f}" for name in (goals.baseline, goals.reference, goals.method)]
    update = share._asdict() | {
        "status": ("met" if is_shown else "open") if is_kept else "failed",
        "by_seed": _shares_by_seed(goals, axis),
        "detail": ", ".join(rates),
    }
    return numbers.model_copy(update=update)


def _share(goals: Goals, axis: Axis, seed: int | None = None) -> Interval | None:
    tallies = (axis.tally(name, seed=seed) for name in (goals.baseline, goals.reference, goals.method))
    return kept_share(axis.units, *tallies)


def _shares_by_seed(goals: Goals, axis: Axis) -> dict[int, float]:
    methods = (goals.baseline, goals.reference, goals.method)
    seeds = [seed for seed in axis.counts[goals.method] if all(seed in axis.counts[name] for name in methods)]
    shares = {seed: _share(goals, axis, seed) for seed in seeds} if len(seeds) > 1 else {}
    return {seed: share.value for seed, share in shares.items() if share is not None}


def ratio_item(goal: Goal, judged: Judged, *, method: str, other: str | None) -> GoalItem:
    """Judge a ratio of the method to the other one, such as that of the lengths of their replies."""
    own, base = ([one for one in judged.outcomes if one.method == name] for name in (method, other))
    found = ratio_to(goal.measure, own, base, sets=goal.sets)
    if found is None:
        why = "; only answers of one run are compared" if goal.measure == "perplexity_ratio" else ""
        return no_item(f"no pairs of {method} and {other}{why}")
    ratio, count = found
    distance = ratio.high - 1 if goal.measure == "perplexity_ratio" else max(ratio.high - 1, 1 - ratio.low)
    is_shown = goal.margin is None or distance <= goal.margin
    status: GoalStatus = ("met" if is_shown else "open") if _within(goal, ratio.value) else "failed"
    detail = "" if goal.measure == "perplexity_ratio" else _cut_off(own, base, sets=goal.sets)
    return GoalItem(name="", status=status, **ratio._asdict(), prompts=count, cases=count, detail=detail)


def _cut_off(own: Sequence[Outcome], base: Sequence[Outcome], *, sets: Sequence[str]) -> str:
    """Return how many replies end at the token limit, which brings the ratio of their lengths nearer to 1."""
    shares = [(one[0].method, cut_off_share(one, sets=sets)) for one in (own, base)]
    texts = [f"{share:.0%} of {method}'s replies" for method, share in shares if share]
    return (
        f"{' and '.join(texts)} end at the token limit, so the lengths may differ more than the ratio" if texts else ""
    )


def no_item(reason: str) -> GoalItem:
    """Return the item of a goal that could not be measured, with the reason."""
    return GoalItem(name="", status="unmeasured", detail=reason)
