"""Mean rates over several sets of prompts, and paired differences of two methods, with intervals by cluster of prompts.

A *unit* is a prompt of a set. Its cases (seeds, samples) are not independent, nor are the units of one request under
several attacks, so intervals and tests take the clusters of units as independent. A mean over sets weighs the groups of
sets (the variants of an attack) equally, then the sets of a group, then the cases of a set.

**Rate.** The Wilson interval at the effective number of cases: v(1 − v) / Var(v), with the variance of v between
clusters, clipped to the range from Kish's effective number of clusters to that of cases. For one set it is the interval
of `derta.stats.rate_over_seeds`.

**Difference.** Newcombe's method 10 (square and add) for paired proportions: with the intervals l₁ … u₁ and l₂ … u₂ of
the two rates, the interval of d = v₁ − v₂ goes from

    d − √((v₁−l₁)² − 2φ(v₁−l₁)(u₂−v₂) + (u₂−v₂)²)  to  d + √((u₁−v₁)² − 2φ(u₁−v₁)(v₂−l₂) + (v₂−l₂)²)

where φ is the correlation of the two rates. Here both the intervals and φ are those between clusters; a positive
covariance is reduced by half a case, as in Newcombe. For one set with one case a prompt it is Newcombe's interval.

**Test.** The sign-flip (permutation) test of the mean difference by cluster, over all signs; for one set with one case
a prompt it is the exact McNemar test.

Source: Newcombe 1998 (Stat. Med. 17:2635), recommended by Fagerland, Lydersen and Laake 2014; Zou and Donner 2008 for
square-and-add with estimated correlations; Yang, Sun and Hardin 2012 for clustered pairs; Kish 1965. The coverage is
simulated in tests/metrics/test_paired.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from derta.stats import Rate, wilson_bounds

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

RESAMPLES = 4000
_STEPS = 20_000  # of a lattice for the differences of a test
_MOST_PARTS = 24  # of the smallest difference, to find a lattice that has all


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


class Difference(NamedTuple):
    """Difference `first - second` of two methods' rates on the units scored for both, with a 95 % interval."""

    value: float
    low: float
    high: float
    p_value: float
    first: float
    second: float
    prompts: int
    cases: int


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


def pooled_rate(units: Units, tally: Tally, *, unscored: int = 0, unanswered: int = 0) -> Rate:
    """Compute the mean rate of one method over the sets, with its interval; no value without scored cases."""
    cases = int(tally.cases.sum())
    if not cases:
        return Rate(None, None, None, 0, unscored, unanswered)
    value, low, high, _ = _estimate(units, tally.means, tally.cases, unit_weights(units, tally.cases))
    return Rate(value, low, high, cases, unscored, unanswered)


def difference(units: Units, first: Tally, second: Tally) -> Difference | None:
    """Compute the paired difference of two methods' mean rates; None if no unit is scored for both.

    The mean outcomes of units count equally within a set, whatever the number of their cases.
    """
    both = (first.cases > 0) & (second.cases > 0)
    if not both.any():
        return None
    weights = unit_weights(units, both.astype(float))
    cases = _shared_cases(first, second)
    (v1, v2), (low, high) = _newcombe(units, first, second, weights=weights, cases=cases)
    sums = _sums(units.clusters, weights * (first.means - second.means))
    p_value = sign_flip_p_value(sums)
    counts = int(both.sum()), int(cases.sum())
    return Difference(v1 - v2, low, high, p_value, v1, v2, *counts)


def difference_interval(first: Tally, second: Tally) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two methods' rates on one set of independent prompts.

    With one case a prompt it is Newcombe's interval for paired proportions. No prompt lacks a case.

    >>> import numpy as np
    >>> first, second = np.repeat([[1.0, 1, 0, 0], [1, 0, 1, 0]], [1, 1, 7, 12], axis=1)
    >>> [round(end, 3) for end in difference_interval(Tally(first, np.ones(21)), Tally(second, np.ones(21)))]
    [-0.507, -0.026]

    Source: the example is Bentur et al. 2009, in Fagerland, Lydersen and Laake 2014, table 8.
    """
    import numpy as np

    count = len(first.cases)
    units = Units(np.zeros(count, int), np.arange(count), np.zeros(1, int))
    weights = np.full(count, 1 / count)
    return _newcombe(units, first, second, weights=weights, cases=_shared_cases(first, second))[1]


def _shared_cases(first: Tally, second: Tally) -> Floats:
    """Return the smaller number of cases of each unit; 0 where one method has none."""
    import numpy as np

    return np.minimum(first.cases, second.cases)


def _newcombe(
    units: Units, first: Tally, second: Tally, *, weights: Floats, cases: Floats
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the two rates and the interval of their difference."""
    v1, l1, u1, a = _estimate(units, first.means, cases, weights)
    v2, l2, u2, b = _estimate(units, second.means, cases, weights)
    phi = _correlation(a, b, units, weights, cases)
    low = (v1 - v2) - _square_and_add(v1 - l1, u2 - v2, phi)
    high = (v1 - v2) + _square_and_add(u1 - v1, v2 - l2, phi)
    return (v1, v2), (max(-1.0, low), min(1.0, high))


def unit_weights(units: Units, counts: Floats) -> Floats:
    """Return the weight of each unit in the mean over sets: proportional to its count within a set. They add up to 1.

    Sets without counts have no weight.
    """
    import numpy as np

    totals = _sums(units.sets, counts, len(units.groups))
    used = totals > 0
    in_group = np.bincount(units.groups[used], minlength=int(units.groups.max()) + 1)
    weight = np.where(used, 1 / (np.count_nonzero(in_group) * in_group[units.groups].clip(min=1)), 0.0)
    return weight[units.sets] * counts / np.where(used, totals, 1.0)[units.sets]


def _sums(indices: Indices, values: Floats, minlength: int = 0) -> Floats:
    """Return the sum of the values of each index."""
    import numpy as np

    return np.bincount(indices, values, minlength).astype(float)


def _estimate(units: Units, means: Floats, cases: Floats, weights: Floats) -> tuple[float, float, float, Floats]:
    """Return a weighted mean, its interval, and its deviations by cluster."""
    import numpy as np

    value = float(min(1.0, max(0.0, weights @ means)))
    totals = _sums(units.sets, weights, len(units.groups))
    set_means = _sums(units.sets, weights * means, len(units.groups)) / np.where(totals > 0, totals, 1)
    deviations = _sums(units.clusters, weights * (means - set_means[units.sets]))
    fewest, most = _effective_sizes(units, weights, cases)
    num_clusters = np.count_nonzero(_sums(units.clusters, weights))
    size = fewest
    if 0.0 < value < 1.0 and num_clusters > 1:
        variance = float(deviations @ deviations) * num_clusters / (num_clusters - 1)
        size = min(most, max(fewest, value * (1 - value) / variance if variance else most))
    return value, *wilson_bounds(value, size), deviations


def _effective_sizes(units: Units, weights: Floats, cases: Floats) -> tuple[float, float]:
    """Return Kish's effective numbers of clusters and of cases."""
    by_cluster = _sums(units.clusters, weights)
    used = weights > 0
    by_case = weights[used] ** 2 / cases[used]
    clusters, each = 1 / float(by_cluster @ by_cluster), 1 / float(by_case.sum())
    return clusters, max(clusters, each)


def _correlation(a: Floats, b: Floats, units: Units, weights: Floats, cases: Floats) -> float:
    """Return the correlation of two rates, from their deviations by cluster; a positive one loses half a case."""
    clusters, each = _effective_sizes(units, weights, cases)
    spread = float(a @ a) * float(b @ b)
    covariance = float(a @ b)
    if covariance > 0:
        covariance = max(0.0, covariance - 1 / (2 * clusters * each))
    return max(-1.0, min(1.0, covariance / spread**0.5)) if spread > 0 else 0.0


def _square_and_add(own: float, other: float, phi: float) -> float:
    return max(0.0, own * own - 2 * phi * own * other + other * other) ** 0.5


def sign_flip_p_value(sums: Floats) -> float:
    """Compute the two-sided sign-flip test of differences by cluster: how often random signs give as large a sum.

    The distribution over all signs is computed exactly, on a lattice that has the differences; without such, on a fine
    one, where sums within the rounding count as large.

    >>> import numpy as np
    >>> sign_flip_p_value(np.array([0.1] * 6 + [0.0])), sign_flip_p_value(np.array([0.3, -0.2, 0.2, 0.1]))
    (0.03125, 0.5)
    """
    import numpy as np

    row = sums[np.abs(sums) > 1e-12]
    if not len(row):
        return 1.0
    steps, tolerance = _lattice(np.abs(row))
    total = int(steps.sum())
    chances = np.zeros(total + 1)  # of the sum of the steps with a positive sign
    chances[0] = 1.0
    for step in steps.tolist():
        moved = 0.5 * chances
        moved[step:] += 0.5 * chances[: total + 1 - step]
        chances = moved
    least = abs(int((np.sign(row) * steps).sum())) - tolerance
    return min(1.0, float(chances[np.abs(2 * np.arange(total + 1) - total) >= least].sum()))


def _lattice(sizes: Floats) -> tuple[Indices, int]:
    """Return positive differences as numbers of steps, and by how many steps a sum may be wrong."""
    import numpy as np

    for parts in range(1, _MOST_PARTS + 1):
        scaled = sizes * (parts / sizes.min())
        if scaled.sum() <= _STEPS and np.abs(scaled - np.rint(scaled)).max() < 1e-6:
            return np.rint(scaled).astype(int), 0
    rounding = int(np.ceil(np.sqrt(len(sizes))))  # 3.5 standard deviations of a sum of rounding errors
    return np.rint(sizes * (_STEPS / sizes.sum())).astype(int), rounding


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
    return _sums(units.clusters * num_sets + units.sets, values, shape[0] * shape[1]).reshape(shape)


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
