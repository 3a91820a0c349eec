"""Axes of the frontier: one mean rate for each method, over the sets of prompts that all methods answered.

Prompts are matched by their content, so methods of different runs can be paired: an axis has only prompts that every
method answered, and counts the others. Prompts of a search attack differ between models; they are matched by request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from derta.errors import DataError, did_you_mean
from derta.metrics.kinds import malformed_outcomes
from derta.metrics.outcomes import Outcome, by_reply, identified, outside_sets, request_key
from derta.metrics.paired import Difference, difference, pooled_rate
from derta.metrics.rates import outcome_of
from derta.metrics.units import Tally, Units
from derta.records import Measure, Prompt, Suite
from derta.results import AxisName, FrontierAxis, place_of
from derta.stats import Outcome as CaseOutcome
from derta.stats import Rate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Counts = NDArray[np.float64]

JudgePlace = tuple[str, Suite, Measure]
"""A judge, a suite in which it has verdicts, and their measure."""
UnitKey = tuple[str, str, int]
"""Name of the set, hash of the prompt, and number of the prompt among equal ones of the set."""
JudgedSet = tuple[str, str]
"""A judge and the name of a set of prompts."""
REFUSAL = "refusal"
OUTSIDE = "outside the means by the recipe"
"""Reason of an axis to leave out a set of a section with `in_means: false`."""


class AxisKind(NamedTuple):
    """Title of an axis, its suites, its measure (None: malformed refusals), and its better direction."""

    title: str
    suites: tuple[Suite, ...]
    measure: Measure | None
    better: str


AXES: Mapping[AxisName, AxisKind] = {
    "attack_success": AxisKind("attack success", ("attack",), "harmful", "lower"),
    "attack_not_refused": AxisKind("attack not refused", ("attack",), "refused", "lower"),
    "over_refusal": AxisKind("over-refusal", ("over_refusal",), "refused", "lower"),
    "malformed_attack": AxisKind("malformed under attack", ("attack",), None, "lower"),
    "malformed_benign": AxisKind("malformed on benign", ("over_refusal", "helpfulness"), None, "lower"),
    "helpfulness": AxisKind("tasks done", ("over_refusal", "helpfulness"), "correct", "higher"),
}


class Axis(NamedTuple):
    """Cases of all methods on an axis.

    `attacks` has the attack of each set, or the set itself. `counts[method][seed]` has the successes of each unit, and
    its numbers of scored, unscored and unanswered cases.
    """

    name: AxisName
    judges: tuple[str, ...]
    sets: tuple[str, ...]
    attacks: tuple[str, ...]
    units: Units
    counts: Mapping[str, Mapping[int, Counts]]
    left_out: Mapping[str, str]
    prompts_left_out: int

    def tally(self, method: str, *, seed: int | None = None, missing_as: bool | None = None) -> Tally:
        """Return the successes and scored cases of a method on each unit, of one seed or of all.

        `missing_as` counts the cases without a verdict or a reply as successes (True) or failures (False).
        """
        by_seed = self.counts[method]
        chosen = list(by_seed.values()) if seed is None else [by_seed[seed]]
        total = sum(chosen[1:], start=chosen[0])
        missing = 0 * total[0] if missing_as is None else total[2] + total[3]
        return Tally(total[0] + missing if missing_as else total[0], total[1] + missing)

    def rate(self, method: str, *, seed: int | None = None, missing_as: bool | None = None) -> Rate:
        """Return the mean rate of a method over the sets, of one seed or of all; `missing_as` is that of `tally`."""
        chosen = [one for number, one in self.counts[method].items() if seed in (None, number)]
        missing, unanswered = (sum(int(one[row].sum()) for one in chosen) for row in (2, 3))
        tally = self.tally(method, seed=seed, missing_as=missing_as)
        return pooled_rate(self.units, tally, unscored=missing, unanswered=unanswered)

    def difference(self, first: str, second: str, *, missing_as: bool | None = None) -> Difference | None:
        """Return the paired difference of two methods' mean rates; None without a prompt scored for both.

        `missing_as` is that of `tally`, for the first method.
        """
        return difference(self.units, self.tally(first, missing_as=missing_as), self.tally(second))

    def group_of(self, name: str) -> str:
        """Return the attack of a set."""
        return self.attacks[self.sets.index(name)]

    def restricted(self, sets: Sequence[str]) -> Axis:
        """Return the axis of some of its sets alone."""
        import numpy as np

        numbers = [self.sets.index(one) for one in sets]
        kept = np.isin(self.units.sets, numbers)
        position = np.zeros(len(self.sets), int)
        position[numbers] = np.arange(len(numbers))
        units = Units(
            position[self.units.sets[kept]],
            np.unique(self.units.clusters[kept], return_inverse=True)[1],
            np.unique(self.units.groups[numbers], return_inverse=True)[1],
        )
        counts = {method: {seed: one[:, kept] for seed, one in seeds.items()} for method, seeds in self.counts.items()}
        attacks = tuple(self.attacks[number] for number in numbers)
        return self._replace(sets=tuple(sets), attacks=attacks, units=units, counts=counts)

    @property
    def record(self) -> FrontierAxis:
        """The axis as `summary.json` holds it, without counts."""
        return FrontierAxis(
            name=self.name,
            judges=self.judges,
            sets=self.sets,
            left_out=dict(self.left_out),
            prompts=len(self.units.sets),
            prompts_left_out=self.prompts_left_out,
        )


def build_axis(
    outcomes: Sequence[Outcome],
    name: AxisName,
    places: Sequence[JudgePlace],
    *,
    judge: str | None = None,
    chosen: Sequence[str] = (),
    incomparable: Mapping[JudgedSet, str] | None = None,
) -> Axis | None:
    """Return an axis of some models; None if no judge measures it on a set that all of them have.

    Args:
        outcomes: The models; those of one method are its seeds.
        name: Name of the axis.
        places: Judges with their suites and measures.
        judge: The judge of attack success; by default the first that measures harm.
        chosen: Names of sets, or patterns such as `untrained *`; by default all but those outside the means.
        incomparable: Judges and sets whose verdicts cannot be compared, with the reason.

    Raises:
        DataError: the judge or a set is unknown.
    """
    judges = _judges(name, places, judge)
    cells: dict[str, dict[int, dict[UnitKey, list[CaseOutcome]]]] = {}
    found = _Sets({}, {}, {})
    for one in identified(outcomes):
        by_unit = cells.setdefault(one.method, {}).setdefault(one.seed, {})
        numbers: dict[tuple[str, str], dict[str, int]] = {}
        for prompt, value in _cases(one, name, judges):
            place = place_of(prompt)
            identity = one.identities[prompt.id]
            numbered = numbers.setdefault((place.name, identity), {})
            key = (place.name, identity, numbered.setdefault(prompt.id, len(numbered)))
            found.groups.setdefault(place.name, place.attack or place.name)
            found.clusters.setdefault(key, request_key(prompt))
            found.used.setdefault(place.name, set()).add(one.method)
            by_unit.setdefault(key, []).append(value)
    left_out = _left_out(
        outcomes,
        name,
        found,
        chosen=chosen,
        incomparable={one: reason for (by, one), reason in (incomparable or {}).items() if by in judges},
    )
    units = {method: set[UnitKey]().union(*seeds.values()) for method, seeds in cells.items()}
    shared = [key for key in found.clusters if key[0] not in left_out and all(key in one for one in units.values())]
    without = [one for one in found.groups if one not in left_out and all(key[0] != one for key in shared)]
    left_out |= dict.fromkeys(without, "the methods have no prompt in common")
    if not shared:
        return None
    dropped = len({key for key in found.clusters if key[0] not in left_out} - set(shared))
    return _axis(name, judges, shared, found, cells)._replace(left_out=left_out, prompts_left_out=dropped)


class _Sets(NamedTuple):
    """Sets of an axis: group and methods of each; the cluster of each unit."""

    groups: dict[str, str]
    used: dict[str, set[str]]
    clusters: dict[UnitKey, str]


def _axis(
    name: AxisName,
    judges: Sequence[str],
    shared: Sequence[UnitKey],
    found: _Sets,
    cells: Mapping[str, Mapping[int, Mapping[UnitKey, Sequence[CaseOutcome]]]],
) -> Axis:
    import numpy as np

    sets = tuple(dict.fromkeys(key[0] for key in shared))
    set_numbers = {one: number for number, one in enumerate(sets)}
    groups = {one: number for number, one in enumerate(dict.fromkeys(found.groups[one] for one in sets))}
    clusters = {one: number for number, one in enumerate(dict.fromkeys(found.clusters[key] for key in shared))}
    units = Units(
        np.array([set_numbers[key[0]] for key in shared]),
        np.array([clusters[found.clusters[key]] for key in shared]),
        np.array([groups[found.groups[one]] for one in sets]),
    )
    counts = {
        method: {
            seed: np.array([_count(by_unit.get(key, ())) for key in shared], float).T for seed, by_unit in seeds.items()
        }
        for method, seeds in cells.items()
    }
    attacks = tuple(found.groups[one] for one in sets)
    return Axis(name, tuple(judges), sets, attacks, units, counts, {}, 0)


def _count(outcomes: Sequence[CaseOutcome]) -> tuple[int, int, int, int]:
    missing, unanswered = outcomes.count(None), outcomes.count("unanswered")
    return outcomes.count(True), len(outcomes) - missing - unanswered, missing, unanswered


def _judges(name: AxisName, places: Sequence[JudgePlace], judge: str | None) -> list[str]:
    """Return the judges that measure an axis: all that measure correctness, else one."""
    kind = AXES[name]
    if kind.measure is None:
        return [REFUSAL]
    found = list(
        dict.fromkeys(one for one, suite, measure in places if suite in kind.suites and measure == kind.measure)
    )
    if name == "attack_success" and judge is not None:
        if judge not in found:
            raise DataError(f"judge: no judge {judge!r} of harm in these runs; {did_you_mean(judge, found)}")
        return [judge]
    return found if name == "helpfulness" else found[:1]


def _cases(one: Outcome, name: AxisName, judges: Sequence[str]) -> Iterator[tuple[Prompt, CaseOutcome]]:
    """Yield each judged prompt of an axis with its outcome; of several judges, the first that received a reply."""
    kind = AXES[name]
    if kind.measure is None:
        for prompt, value in malformed_outcomes(by_reply([one]), judge=REFUSAL):
            if prompt.suite in kind.suites:
                yield prompt, value
        return
    seen: set[tuple[str, int]] = set()
    for judge in judges:
        for prompt, _, verdict in one.cases(judge):
            if prompt.suite in kind.suites and verdict.key not in seen:
                seen.add(verdict.key)
                value = outcome_of(verdict, kind.measure)
                yield prompt, not value if name == "attack_not_refused" and isinstance(value, bool) else value


def _left_out(
    outcomes: Sequence[Outcome],
    name: AxisName,
    found: _Sets,
    *,
    chosen: Sequence[str],
    incomparable: Mapping[str, str],
) -> dict[str, str]:
    """Return the sets of an axis' suites that it cannot have, with the reason."""
    if wrong := [one for one in chosen if not matching(found.groups, [one])]:
        raise DataError(f"{AXES[name].title}: unknown set {wrong[0]!r}; {did_you_mean(wrong[0], found.groups)}")
    methods = list(dict.fromkeys(one.method for one in outcomes))
    suites = AXES[name].suites
    every = dict.fromkeys(place_of(one).name for each in outcomes for one in each.prompts if one.suite in suites)
    outside = {one for suite, one in outside_sets(outcomes) if suite in suites}
    reasons: dict[str, str] = {}
    for one in every:
        if missing := [method for method in methods if method not in found.used.get(one, ())]:
            reasons[one] = "no verdicts" if len(missing) == len(methods) else f"missing for {', '.join(missing)}"
        elif one in incomparable:
            reasons[one] = incomparable[one]
        elif chosen and not matching([one], chosen):
            reasons[one] = "not chosen"
        elif one in outside and not chosen:
            reasons[one] = OUTSIDE
    return reasons


def matching(names: Sequence[str] | Mapping[str, object], patterns: Sequence[str]) -> list[str]:
    """Return the names that are one of the patterns, or match one with `*` and `?`.

    >>> matching(["XSTest safe", "untrained count"], ["untrained *"])
    ['untrained count']
    """
    return [name for name in names if any(name == one or fnmatchcase(name, one) for one in patterns)]
