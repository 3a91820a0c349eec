"""Prediction-powered inference for a rate: labels of a random part of the replies, and a judge's verdicts on all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from derta.stats import clopper_pearson

PSEUDO_CASES = 1.0
"""Cases that are added to each cell of the labels' confusion matrix for the variance: few labels show few errors."""


class PoweredRate(NamedTuple):
    """Rate of the labels on all replies, with its 95 % interval.

    `power` is the weight of the judge's verdicts, from 0 (the labels alone) to 1.
    """

    value: float
    low: float
    high: float
    power: float


def prediction_powered_rate(labelled: Sequence[tuple[bool, bool]], *, positives: int, unlabelled: int) -> PoweredRate:
    """Estimate the rate of true labels from labels of a random sample and predictions for all replies.

    The estimate is unbiased however wrong the judge is, if the labelled replies are a random sample. With labels Y and
    predictions f it is `mean(Y) + power (mean of the unlabelled f - mean of the labelled f)`, where the power
    `cov(Y, f) / ((1 + n / N) var(f))`, clipped to [0, 1], minimises the variance for n labelled and N unlabelled
    replies; it is 0 if all labels, or all predictions of the labelled replies, are the same, because their covariance
    is 0 then. The interval is Clopper and Pearson's for the number of labels that would alone have this
    variance: without a use of the judge it is that of the labels.

    >>> labelled = [(True, True)] * 18 + [(True, False)] * 2 + [(False, False)] * 27 + [(False, True)] * 3
    >>> result = prediction_powered_rate(labelled, positives=500, unlabelled=1000)
    >>> round(result.value, 3), round(result.low, 2), round(result.high, 2), round(result.power, 2)
    (0.456, 0.36, 0.56, 0.69)

    Args:
        labelled: Label and prediction of each labelled reply; at least one.
        positives: Number of unlabelled replies with the prediction True.
        unlabelled: Number of all unlabelled replies.

    Source: Angelopoulos, Duchi and Zrnic 2023 (PPI++), Proposition 2 for a mean.
    """
    cells = [labelled.count((truth, predicted)) for truth in (True, False) for predicted in (True, False)]
    rate, predicted, *_ = _moments(cells)
    _, _, var_rate, var_predicted, covariance = _moments([count + PSEUDO_CASES for count in cells])
    num_labelled = len(labelled)
    power = shift = 0.0
    if unlabelled and _vary(cells):
        power = min(1.0, max(0.0, covariance / ((1 + num_labelled / unlabelled) * var_predicted)))
        shift = positives / unlabelled - predicted
    per_label = var_rate - 2 * power * covariance + power**2 * var_predicted * (1 + num_labelled / max(1, unlabelled))
    value = min(1.0, max(0.0, rate + power * shift))
    cases = num_labelled * var_rate / per_label
    return PoweredRate(value, *clopper_pearson(value * cases, cases), power)


def _vary(cells: Sequence[float]) -> bool:
    """Return whether labels have both outcomes, and predictions too."""
    both, only_label, only_predicted, neither = cells
    return bool((both + only_label) * (only_predicted + neither) * (both + only_predicted) * (only_label + neither))


def sample_p_value(labelled_positives: int, labelled: int, positives: int, unlabelled: int) -> float:
    """Return the p-value of the hypothesis that the labelled replies are a random sample (Fisher's exact test).

    It compares the share of positive predictions on the labelled replies with that on the others.

    >>> sample_p_value(5, 100, 50, 1000), sample_p_value(40, 100, 50, 1000) < 1e-6
    (1.0, True)
    """
    from scipy.stats import hypergeom  # slow to import

    if not labelled or not unlabelled:
        return 1.0
    counts = hypergeom(labelled + unlabelled, labelled_positives + positives, labelled)
    lower, upper = counts.cdf(labelled_positives), counts.sf(labelled_positives - 1)
    return float(min(1.0, 2 * min(lower, upper)))


def _moments(cells: Sequence[float]) -> tuple[float, float, float, float, float]:
    """Return the means, the variances and the covariance of labels and predictions, from their confusion matrix."""
    both, only_label, only_predicted, _ = cells
    total = sum(cells)
    label, predicted = (both + only_label) / total, (both + only_predicted) / total
    return label, predicted, label * (1 - label), predicted * (1 - predicted), both / total - label * predicted
