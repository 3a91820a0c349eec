"""Measures of goals and gates by name: a rate of the frontier, or a ratio to another method."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from derta.metrics.axes import AXES, Axis, JudgedSet, JudgePlace, build_axis
from derta.metrics.bootstrap import Interval
from derta.metrics.lengths import perplexity_ratio, pooled_length_ratio
from derta.metrics.outcomes import Outcome, outside_sets
from derta.results import AxisName

ATTACK = "attack"
"""Attack success, or attacks not refused where no judge of harm was asked."""
_ATTACK_AXES = ("attack_success", "attack_not_refused")


class Judged(NamedTuple):
    """The models of a run, with what their axes need."""

    outcomes: Sequence[Outcome]
    places: Sequence[JudgePlace]
    incomparable: Mapping[JudgedSet, str]

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in order."""
        return list(dict.fromkeys(one.method for one in self.outcomes))

    def of(self, methods: Collection[str]) -> Judged:
        """Return the models of some methods."""
        return self._replace(outcomes=[one for one in self.outcomes if one.method in methods])

    @property
    def with_every_set(self) -> Judged:
        """The models without sets outside the means, for a measure of sets that are named."""
        return self._replace(outcomes=[one._replace(outside=frozenset()) for one in self.outcomes])

    @property
    def outside(self) -> set[str]:
        """Names of the sets outside the means."""
        return {name for _, name in outside_sets(self.outcomes)}


def measured_axes(measure: str, judged: Judged, *, judge: str | None = None) -> list[Axis]:
    """Return the axes of a measure that were measured for all methods: one, and for `attack` up to two.

    Raises:
        DataError: `judge` measures no harm.
    """
    names: list[AxisName] = [one for one in AXES if one == measure or (measure == ATTACK and one in _ATTACK_AXES)]
    built = [
        build_axis(judged.outcomes, name, judged.places, judge=judge, incomparable=judged.incomparable)
        for name in names
    ]
    return [axis for axis in built if axis is not None]


def ratio_to(
    measure: str, own: Sequence[Outcome], base: Sequence[Outcome], *, sets: Sequence[str] = ()
) -> tuple[Interval, int] | None:
    """Return a method's `length_ratio` or `perplexity_ratio` to another, and the number of pairs; None without pairs.

    Args:
        measure: Name of the ratio.
        own: The seeds of the method.
        base: The seeds of the other.
        sets: Benign sets of a ratio of lengths; by default all.
    """
    if measure == "perplexity_ratio":
        return perplexity_ratio(own, base)
    return pooled_length_ratio(own, base, sets=sets)
