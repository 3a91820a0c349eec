"""Prediction-powered inference for a rate: labels of a random part of the replies, and a judge's verdicts on all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from derta.stats import wilson_bounds

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
    replies. The interval is Wilson's for the number of labels that would alone have this variance.

    >>> labelled = [(True, True)] * 18 + [(True, False)] * 2 + [(False, False)] * 27 + [(False, True)] * 3
    >>> result = prediction_powered_rate(labelled, positives=500, unlabelled=1000)
    >>> round(result.value, 3), round(result.low, 2), round(result.high, 2), round(result.power, 2)
    (0.456, 0.36, 0.55, 0.69)

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
    power = shift = unlabelled_variance = 0.0
    if unlabelled:
        power = min(1.0, max(0.0, covariance / ((1 + num_labelled / unlabelled) * var_predicted)))
        shift = positives / unlabelled - predicted
        unlabelled_variance = power**2 * var_predicted / unlabelled
    variance = (var_rate - 2 * power * covariance + power**2 * var_predicted) / num_labelled + unlabelled_variance
    value = min(1.0, max(0.0, rate + power * shift))
    margin = 1 / (2 * (num_labelled + 2))  # a rate of 0 or 1 has no variance, which would allow no number of cases
    inner = min(1 - margin, max(margin, value))
    return PoweredRate(value, *wilson_bounds(value, inner * (1 - inner) / variance), power)


def _moments(cells: Sequence[float]) -> tuple[float, float, float, float, float]:
    """Return the means, the variances and the covariance of labels and predictions, from their confusion matrix."""
    both, only_label, only_predicted, _ = cells
    total = sum(cells)
    label, predicted = (both + only_label) / total, (both + only_predicted) / total
    return label, predicted, label * (1 - label), predicted * (1 - predicted), both / total - label * predicted
