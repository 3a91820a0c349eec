"""Mean rates over several sets of prompts, and paired differences of two methods, with intervals by cluster of prompts.

Units, clusters and weights are those of `derta.metrics.units`.

**Rate.** The Wilson interval at the effective number of cases: v(1 − v) / Var(v), with the variance of v between
clusters, clipped to the range from Kish's effective number of clusters to that of cases. For one set it is the interval
of `derta.stats.rate_over_seeds`.

**Difference.** Newcombe's method 10 (square and add) for paired proportions: with the intervals l₁ … u₁ and l₂ … u₂ of
the two rates, the interval of d = v₁ − v₂ goes from

    d − √((v₁−l₁)² − 2φ(v₁−l₁)(u₂−v₂) + (u₂−v₂)²)  to  d + √((u₁−v₁)² − 2φ(u₁−v₁)(v₂−l₂) + (v₂−l₂)²)

where φ is the correlation of the two rates. Here both the intervals and φ are those between clusters; a positive
covariance is reduced by half a case, as in Newcombe. For one set with one case a prompt it is Newcombe's interval.

**Test.** The sign-flip test of the mean difference by cluster (`derta.metrics.sign_flip`).

Source: Newcombe 1998 (Stat. Med. 17:2635), recommended by Fagerland, Lydersen and Laake 2014; Zou and Donner 2008 for
square-and-add with estimated correlations; Yang, Sun and Hardin 2012 for clustered pairs; Kish 1965. The coverage is
simulated in tests/metrics/test_paired.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from derta.metrics.sign_flip import sign_flip_p_value
from derta.metrics.units import Tally, Units, sum_by_index, unit_weights
from derta.stats import Rate, wilson_bounds

if TYPE_CHECKING:
    from derta.metrics.units import Floats


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
    sums = sum_by_index(units.clusters, weights * (first.means - second.means))
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


def _estimate(units: Units, means: Floats, cases: Floats, weights: Floats) -> tuple[float, float, float, Floats]:
    """Return a weighted mean, its interval, and its deviations by cluster."""
    import numpy as np

    value = float(min(1.0, max(0.0, weights @ means)))
    totals = sum_by_index(units.sets, weights, len(units.groups))
    set_means = sum_by_index(units.sets, weights * means, len(units.groups)) / np.where(totals > 0, totals, 1)
    deviations = sum_by_index(units.clusters, weights * (means - set_means[units.sets]))
    fewest, most = _effective_sizes(units, weights, cases)
    num_clusters = np.count_nonzero(sum_by_index(units.clusters, weights))
    size = fewest
    if 0.0 < value < 1.0 and num_clusters > 1:
        variance = float(deviations @ deviations) * num_clusters / (num_clusters - 1)
        size = min(most, max(fewest, value * (1 - value) / variance if variance else most))
    return value, *wilson_bounds(value, size), deviations


def _effective_sizes(units: Units, weights: Floats, cases: Floats) -> tuple[float, float]:
    """Return Kish's effective numbers of clusters and of cases."""
    by_cluster = sum_by_index(units.clusters, weights)
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
