"""Units of a comparison: prompts of sets, their clusters and their weights in a mean over sets.

A *unit* is a prompt of a set. Its cases (seeds, samples) are not independent, nor are the units of one request under
several attacks, so intervals and tests take the clusters of units as independent. A mean over sets weighs the groups of
sets (the variants of an attack) equally, then the sets of a group, then the cases of a set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]


class Units(NamedTuple):
    """The set and the cluster of each unit, and the group of each set, as indices from 0."""

    sets: Indices
    clusters: Indices
    groups: Indices


class Tally(NamedTuple):
    """Successes and scored cases of one method on each unit."""

    successes: Floats
    cases: Floats

    @property
    def means(self) -> Floats:
        """Mean outcome of each unit; 0 without cases."""
        return self.successes / self.cases.clip(min=1)


def unit_weights(units: Units, counts: Floats) -> Floats:
    """Return the weight of each unit in the mean over sets: proportional to its count within a set. They add up to 1.

    Sets without counts have no weight.
    """
    import numpy as np

    totals = sum_by_index(units.sets, counts, len(units.groups))
    used = totals > 0
    in_group = np.bincount(units.groups[used], minlength=int(units.groups.max()) + 1)
    weight = np.where(used, 1 / (np.count_nonzero(in_group) * in_group[units.groups].clip(min=1)), 0.0)
    return weight[units.sets] * counts / np.where(used, totals, 1.0)[units.sets]


def sum_by_index(indices: Indices, values: Floats, minlength: int = 0) -> Floats:
    """Return the sum of the values of each index."""
    import numpy as np

    return np.bincount(indices, values, minlength).astype(float)
