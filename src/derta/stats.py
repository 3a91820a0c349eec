"""Rates, means and their confidence intervals; each rate has its denominator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt
from statistics import NormalDist
from typing import Literal, NamedTuple

Outcome = bool | Literal["unanswered"] | None
"""Outcome of a case: True or False, None without a verdict, `unanswered` without a reply."""
MISSING_SHARE = 0.05
"""Share of unscored and unanswered cases above which a rate has bounds."""


class Rate(NamedTuple):
    """Share of `scored` cases with its 95 % Wilson interval, as fractions; None if no case was scored.

    The cases without a verdict (`unscored`) and without a reply (`unanswered`) are not in the denominator.

    >>> rate([True, False, None]).unscored
    1
    """

    value: float | None
    low: float | None
    high: float | None
    scored: int
    unscored: int
    unanswered: int = 0

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The rates if none and if all of the unscored and unanswered cases counted.

        None if their share is at most `MISSING_SHARE`, or if there is no rate.

        >>> rate([True, False, False, None]).bounds, rate([True] * 19 + [None]).bounds
        ((0.25, 0.5), None)
        """
        missing = self.unscored + self.unanswered
        total = self.scored + missing
        if self.value is None or missing <= MISSING_SHARE * total:
            return None
        successes = self.value * self.scored
        return successes / total, min(1.0, (successes + missing) / total)


def wilson_interval(successes: int, total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Compute the Wilson score interval of a rate.

    >>> low, high = wilson_interval(2, 40)
    >>> round(low, 3), round(high, 3)
    (0.014, 0.165)

    Source: Wilson 1927.
    """
    return wilson_bounds(successes / total, total, confidence=confidence)


def clopper_pearson(successes: float, total: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """Compute the exact interval of a rate, which covers it with at least the confidence for any number of cases.

    Effective numbers of cases need not be whole.

    >>> [round(end, 3) for end in clopper_pearson(0, 10)]  # 1 - 0.025 ** (1 / 10)
    [0.0, 0.308]

    Source: Clopper and Pearson 1934, by the quantiles of the beta distribution.
    """
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, successes, total - successes + 1)) if successes else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, total - successes)) if successes < total else 1.0
    return low, high


def auc_interval(value: float, positives: int, negatives: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Compute the interval of an area under the ROC curve; it has a width at 0 and 1, too.

    Its ends are the areas θ from which the value is z standard errors away, where the variance of θ is
    θ(1 − θ)(1 + n(1 − θ)/(2 − θ) + nθ/(1 + θ)) / (positives · negatives), n = (positives + negatives)/2 − 1.

    >>> [round(end, 3) for end in auc_interval(1.0, 20, 20)]
    [0.899, 1.0]

    Source: Newcombe 2006, method 5 (Hanley and McNeil's variance, solved as Wilson's).
    """
    from scipy.optimize import root_scalar

    z = NormalDist().inv_cdf((1 + confidence) / 2)
    n = (positives + negatives) / 2 - 1

    def excess(area: float) -> float:
        spread = 1 + n * (1 - area) / (2 - area) + n * area / (1 + area)
        return (value - area) ** 2 - z * z * area * (1 - area) * spread / (positives * negatives)

    below, above = min(value, 1 - 1e-9), max(value, 1e-9)  # at 0 and 1 the variance is 0
    low = float(root_scalar(excess, bracket=(0.0, below), method="brentq").root) if value > 0 else 0.0
    high = float(root_scalar(excess, bracket=(above, 1.0), method="brentq").root) if value < 1 else 1.0
    return low, high


def rate(outcomes: Sequence[Outcome]) -> Rate:
    """Compute the share of True among the scored outcomes; None counts as unscored.

    >>> rate([True, False, None]).value, rate([True, False, None]).unscored, rate([None]).value
    (0.5, 1, None)
    """
    successes, unscored, unanswered = outcomes.count(True), outcomes.count(None), outcomes.count("unanswered")
    scored = len(outcomes) - unscored - unanswered
    return rate_of_counts(successes, scored=scored, unscored=unscored, unanswered=unanswered)


def rate_of_counts(successes: int, *, scored: int, unscored: int = 0, unanswered: int = 0) -> Rate:
    """Compute a rate from counts, for files that are too large to load.

    >>> rate_of_counts(1, scored=2, unscored=1) == rate([True, False, None])
    True
    """
    if not scored:
        return Rate(None, None, None, 0, unscored, unanswered)
    low, high = wilson_interval(successes, scored)
    return Rate(successes / scored, low, high, scored, unscored, unanswered)


def cohen_kappa(*, both: int, only_first: int, only_second: int, neither: int) -> float | None:
    """Compute Cohen's kappa. None if there are no cases, or if both judges return the same value for all cases.

    >>> cohen_kappa(both=20, only_first=5, only_second=10, neither=15)
    0.4

    Source: Cohen 1960; the example is the usual textbook one, (0.7 - 0.5) / (1 - 0.5).
    """
    total = both + only_first + only_second + neither
    if not total:
        return None
    yes = (both + only_first) * (both + only_second)
    no = (neither + only_first) * (neither + only_second)
    if yes + no == total * total:
        return None
    return ((both + neither) * total - yes - no) / (total * total - yes - no)


class Mean(NamedTuple):
    """Mean with its 95 % bootstrap interval; None without values, and without an interval for a single value."""

    value: float | None
    low: float | None
    high: float | None
    measured: int


def bootstrap_mean(values: Sequence[float], *, seed: int = 0, resamples: int = 2000) -> Mean:
    """Compute the mean of values and its percentile bootstrap interval, which `seed` makes reproducible.

    >>> bootstrap_mean([0.25] * 8), bootstrap_mean([]).value
    (Mean(value=0.25, low=0.25, high=0.25, measured=8), None)

    Source: Efron 1979, through `scipy.stats.bootstrap`.
    """
    if len(values) < 2:
        return Mean(values[0] if values else None, None, None, len(values))
    import numpy as np
    from scipy.stats import bootstrap

    data = np.asarray(values, dtype=float)
    if data.min() == data.max():
        return Mean(values[0], values[0], values[0], len(values))
    result = bootstrap(
        (data,), np.mean, n_resamples=resamples, batch=100, method="percentile", rng=np.random.default_rng(seed)
    )
    low, high = result.confidence_interval
    return Mean(float(data.mean()), float(low), float(high), len(values))


def rate_over_seeds(outcomes: Sequence[Sequence[Outcome]]) -> Rate:
    """Compute one rate over several seeds, where `outcomes[i]` are the outcomes of all seeds on prompt i.

    All seeds have the same prompts, so n prompts with s seeds are fewer than n*s independent cases, and a plain Wilson
    interval is too narrow. The interval is computed at the effective number of cases instead: the number of cases
    divided by the design effect of clustering by prompt, clipped to the range from the number of prompts to the number
    of cases. For a rate of 0 or 1 it is the number of prompts (a bootstrap over prompts would return an interval of
    width 0). The interval covers the choice of prompts for these seeds; the cells of single seeds show the variation
    between seeds.

    >>> rate_over_seeds([[True, True], [False, False]])[:4] == rate([True, False])[:3] + (4,)
    True

    Source: Korn and Graubard 1998 (effective sample size), Wilson 1927.
    """
    unscored = sum(outcome is None for seeds in outcomes for outcome in seeds)
    unanswered = sum(outcome == "unanswered" for seeds in outcomes for outcome in seeds)
    counts = [(seeds.count(True), seeds.count(True) + seeds.count(False)) for seeds in outcomes]
    return rate_of_clusters(counts, unscored=unscored, unanswered=unanswered)


def rate_of_clusters(counts: Iterable[tuple[int, int]], *, unscored: int = 0, unanswered: int = 0) -> Rate:
    """Compute the rate of `rate_over_seeds` from the number of successes and of scored cases of each prompt.

    >>> rate_of_clusters([(2, 2), (0, 2)]) == rate_over_seeds([[True, True], [False, False]])
    True
    """
    clusters = [(successes, scored) for successes, scored in counts if scored]
    cases = sum(scored for _, scored in clusters)
    if not cases:
        return Rate(None, None, None, 0, unscored, unanswered)
    value = sum(successes for successes, _ in clusters) / cases
    low, high = wilson_bounds(value, _effective_cases(clusters, value))
    return Rate(value, low, high, cases, unscored, unanswered)


def _effective_cases(clusters: Sequence[tuple[int, int]], value: float) -> float:
    cases, prompts = sum(scored for _, scored in clusters), len(clusters)
    if value in (0.0, 1.0) or prompts == 1:
        return prompts
    between = sum((successes - value * scored) ** 2 for successes, scored in clusters) * prompts / (prompts - 1)
    design_effect = between / cases / (value * (1 - value))
    return min(float(cases), max(float(prompts), cases / design_effect if design_effect else float(cases)))


def wilson_bounds(value: float, cases: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """Compute the Wilson interval of a rate for an effective number of cases, which may be fractional."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    center = (value + z * z / (2 * cases)) / (1 + z * z / cases)
    half = z / (1 + z * z / cases) * sqrt(value * (1 - value) / cases + z * z / (4 * cases * cases))
    return max(0.0, min(value, center - half)), min(1.0, max(value, center + half))
