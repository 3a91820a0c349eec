"""Judgement of goals: whether a method is within its bounds, and whether the intervals show that.

A goal has one of four results:

- `met`: the value is within every bound, and the worse end of the paired difference's 95 % interval within the margin;
- `open`: the value is within the bounds, but the interval reaches beyond the margin: too few prompts to tell;
- `failed`: the value is outside a bound, or the loss is significant;
- `unmeasured`: the run lacks the sets, the methods or the judge.

All seeds are pooled, and pairs are prompts (see `derta.metrics.paired`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import Field

from derta.config.goals import RATIOS, Goal, Goals
from derta.metrics.axes import matching
from derta.metrics.goal_items import GoalItem, GoalStatus, kept_item, no_item, rate_items, ratio_item
from derta.metrics.measures import Judged, measured_axes
from derta.metrics.outcomes import identified
from derta.records import Record

_WORST: tuple[GoalStatus, ...] = ("met", "open", "unmeasured", "failed")


class GoalResult(Record):
    """The result of a goal: that of its worst item.

    `left_out` has the sets that could not be measured, with the reason. A goal that does not count is shown beside the
    others.
    """

    goal: str
    measure: str
    status: GoalStatus
    counts: bool
    items: tuple[GoalItem, ...]
    left_out: dict[str, str] = Field(default_factory=dict)


class Items(NamedTuple):
    """Items of a goal, and the sets that could not be measured, with the reason."""

    items: list[GoalItem]
    left_out: Mapping[str, str]


def judge_goals(goals: Goals, judged: Judged) -> list[GoalResult]:
    """Return the result of every goal of a file."""
    judged = judged._replace(outcomes=identified(judged.outcomes))
    return [_judge(goal, goals, judged) for goal in goals.goals]


def overall(results: Sequence[GoalResult]) -> GoalStatus:
    """Return the worst status of the goals that count."""
    return _worst([one.status for one in results if one.counts])


def _worst(statuses: Sequence[GoalStatus]) -> GoalStatus:
    """Return the worst of some statuses; `unmeasured` of none."""
    return _WORST[max(map(_WORST.index, statuses))] if statuses else "unmeasured"


def _judge(goal: Goal, goals: Goals, judged: Judged) -> GoalResult:
    if goal.measure in RATIOS:
        found = Items([ratio_item(goal, judged, method=goals.method, other=_other(goal, goals))], {})
    elif goal.after is not None:
        found = _after(goal, goals, judged)
    else:
        found = _items(goal, goals, judged)
    return GoalResult(
        goal=goal.name,
        measure=goal.measure,
        status=_worst([item.status for item in found.items]),
        counts=not goal.beside,
        items=tuple(found.items),
        left_out=dict(found.left_out),
    )


def _other(goal: Goal, goals: Goals) -> str | None:
    named = {"baseline": goals.baseline, "reference": goals.reference}
    return None if goal.against is None else named.get(goal.against, goal.against)


def _after(goal: Goal, goals: Goals, judged: Judged) -> Items:
    """Judge a goal after each fine-tuning attack that it names."""
    attacks = dict.fromkeys(one.fine_tuning for one in judged.outcomes if one.fine_tuning is not None)
    items: list[GoalItem] = []
    left_out: dict[str, str] = {}
    for attack in matching([one for one in attacks if one], [goal.after or ""]):
        renamed = {one.method: one.method.removesuffix(f" + {attack}") for one in judged.outcomes}
        tuned = [one for one in judged.outcomes if one.fine_tuning == attack]
        attacked = judged._replace(outcomes=[one._replace(method=renamed[one.method]) for one in tuned])
        found = _items(goal, goals, attacked)
        items += [one.model_copy(update={"name": f"after {attack} {one.name}".strip()}) for one in found.items]
        left_out |= found.left_out
    return Items(items, left_out) if items else _unmeasured(f"no model after a fine-tuning attack {goal.after!r}")


def _items(goal: Goal, goals: Goals, judged: Judged) -> Items:
    other = _other(goal, goals)
    compared = {goals.method, *([other] if other else []), *((goals.baseline, goals.reference) if goal.keep else ())}
    outcomes = [one for one in judged.outcomes if one.method in compared]
    if missing := sorted(compared - {one.method for one in outcomes}):
        named = [one for one in judged.methods if one.endswith(tuple(f"/{name}" for name in missing))]
        prefixed = f"; several runs have it, name one in the goal file: {', '.join(named)}" if named else ""
        return _unmeasured(f"no method {', '.join(missing)}{prefixed}")
    compared_models = judged._replace(outcomes=outcomes)
    found = compared_models.with_every_set if goal.sets else compared_models
    axis = next(iter(measured_axes(goal.measure, found)), None)
    if axis is None:
        return _unmeasured("not measured for all of the methods")
    left_out = {name: reason for name, reason in axis.left_out.items() if not goal.sets or matching([name], goal.sets)}
    chosen = matching(axis.sets, goal.sets) if goal.sets else list(axis.sets)
    available = {*axis.sets, *map(axis.group_of, axis.sets)}
    if lacking := [one for one in goal.requires if not matching(sorted(available), [one])]:
        reasons = [f"{one} ({axis.left_out[one]})" if one in axis.left_out else one for one in lacking]
        return _unmeasured(f"the run lacks {', '.join(reasons)}")
    if not chosen:
        return _unmeasured(f"the run lacks {', '.join(goal.sets)}")
    if goal.keep is not None:
        return Items([kept_item(goal, goals, axis.restricted(chosen))], left_out)
    groups: dict[str, list[str]] = {}
    for one in chosen:
        groups.setdefault({"set": one, "attack": axis.group_of(one)}.get(goal.each or "", ""), []).append(one)
    parts = {name: axis.restricted(sets) for name, sets in groups.items()}
    return Items(rate_items(goal, parts, method=goals.method, other=other), left_out)


def _unmeasured(reason: str) -> Items:
    return Items([no_item(reason)], {})
