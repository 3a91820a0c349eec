"""Percentile bootstrap of ratios: the share of a reduction that a method keeps, and the ratio of two means."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from derta.metrics.units import Tally, Units, sum_by_index

if TYPE_CHECKING:
    from derta.metrics.units import Floats

RESAMPLES = 4000


class Interval(NamedTuple):
    """An estimate with a 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, drawn: Floats) -> Interval:
        """Return an estimate with the percentile interval of its resamples."""
        import numpy as np

        low, high = np.quantile(drawn, (0.025, 0.975)).tolist()
        return cls(float(value), low, high)


def kept_share(units: Units, base: Tally, full: Tally, own: Tally, *, seed: int = 0) -> Interval | None:
    """Compute the share of a reduction that a method keeps: (base − own) / (base − full), on the mean rates.

    The interval is a paired percentile bootstrap: clusters of prompts are drawn, with all cases of the three methods.

    Returns:
        The share; None if no unit is scored for all three, or if there is no reduction.
    """
    import numpy as np

    every = (base.cases > 0) & (full.cases > 0) & (own.cases > 0)
    if not every.any():
        return None
    tallies = [one.means * every for one in (base, full, own)]
    sums = [_by_cluster_and_set(units, values) for values in (*tallies, every.astype(float))]
    clusters = int(units.clusters.max()) + 1
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=RESAMPLES).astype(float)
    whole = [_mean_over_sets(units, np.ones((1, clusters)), one, sums[3])[0] for one in sums[:3]]
    if whole[0] <= whole[1]:
        return None
    drawn = [_mean_over_sets(units, draws, one, sums[3]) for one in sums[:3]]
    reduction = drawn[0] - drawn[1]
    shares = (drawn[0] - drawn[2])[reduction > 0] / reduction[reduction > 0]
    return Interval.of((whole[0] - whole[2]) / (whole[0] - whole[1]), shares)


def _by_cluster_and_set(units: Units, values: Floats) -> Floats:
    num_sets = len(units.groups)
    shape = (int(units.clusters.max()) + 1, num_sets)
    return sum_by_index(units.clusters * num_sets + units.sets, values, shape[0] * shape[1]).reshape(shape)


def _mean_over_sets(units: Units, draws: Floats, sums: Floats, counts: Floats) -> Floats:
    """Return the mean over groups of sets of each resample; a set that it did not draw is left out of its mean."""
    import numpy as np

    drawn = draws @ counts
    rates = (draws @ sums) / np.where(drawn > 0, drawn, 1.0)
    in_group = (units.groups[:, None] == np.arange(int(units.groups.max()) + 1)).astype(float)
    sets = (drawn > 0).astype(float) @ in_group
    group_rates = (rates * (drawn > 0)) @ in_group / np.where(sets > 0, sets, 1.0)
    return group_rates.sum(axis=1) / np.maximum(1, np.count_nonzero(sets, axis=1))


def ratio_of_means(own: Floats, base: Floats, *, seed: int = 0) -> Interval | None:
    """Compute the ratio of two means of paired positive values, with a percentile bootstrap over the pairs.

    None without pairs, or with a base of 0.

    >>> import numpy as np
    >>> ratio_of_means(np.array([2.0, 4.0]), np.array([1.0, 2.0]))
    Interval(value=2.0, low=2.0, high=2.0)
    """
    if not len(own) or not base.sum():
        return None
    drawn = bootstrap_ratios(own, base, seed=seed)
    return Interval.of(drawn[0], drawn[1:])


def bootstrap_ratios(own: Floats, base: Floats, *, seed: int = 0) -> Floats:
    """Return the ratio of two means, and after it those of `RESAMPLES` resamples of the pairs."""
    import numpy as np

    draws = np.random.default_rng(seed).integers(len(own), size=(RESAMPLES, len(own)))
    sums, bases = own[draws].sum(axis=1), base[draws].sum(axis=1)
    drawn = np.where(bases > 0, sums / np.where(bases > 0, bases, 1.0), own.sum() / base.sum())
    return np.concatenate([[own.sum() / base.sum()], drawn])
