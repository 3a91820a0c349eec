"""Calibration of the refusal threshold on benign answers, at a rate of false alarms: split conformal prediction."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from math import ceil
from random import Random
from typing import NamedTuple

from derta.errors import DataError
from derta.stats import clopper_pearson, rate_over_seeds
from derta.thresholds import DEPTH_STARTS, Later, Per, alarms_in, threshold_at

LARGEST_BIAS = 100.0
"""Largest absolute logit bias of the OpenAI protocol."""
_DIGITS, _BIAS_STEP = 6, Decimal("0.001")
_SMALLEST = 1e-12


class Cut(NamedTuple):
    """A calibrated value: alarms among the cases, and the 95 % interval of the rate of false alarms.

    `later` are the thresholds of later positions, if there are any.
    """

    value: float
    alarms: int
    cases: int
    low: float
    high: float
    later: Later = ()


def calibrate_cut(probabilities: Sequence[Sequence[float]], *, false_alarm: float, per: Per = "reply") -> Cut:
    """Return the smallest threshold whose rate of false alarms on new benign replies is at most `false_alarm`.

    Of n exchangeable scores (the largest probability of each reply, or all positions) the threshold is just above the
    r-th smallest, r = ⌈(1 − rate)(n + 1)⌉: a new score reaches it with probability ≤ (n + 1 − r) / (n + 1) ≤ rate,
    averaged over calibrations (split conformal prediction). For this calibration the rate may be higher: `low` and
    `high` are the exact interval (Clopper-Pearson) of n − r alarms in n. Positions of one reply are not independent, so
    for `per="position"` the interval is Wilson's at the effective number of positions, and the bound is approximate.

    >>> calibrate_cut([[0.1, 0.0], [0.3], [0.2, 0.1], [0.0]], false_alarm=0.4)[:3]
    (0.200001, 1, 4)

    Args:
        probabilities: Probability of the refusal tokens at each position of each benign reply.
        false_alarm: The rate.
        per: Whether the rate counts replies or positions.

    Raises:
        DataError: the rate is not between 0 and 1, too few cases for it, or a probability that only 1 exceeds.

    Source: Vovk et al. 2005 (conformal prediction); Wilks 1941 (the coverage of an order statistic is a beta variable).
    """
    replies = [row for row in probabilities if row]
    scores = [max(row) for row in replies] if per == "reply" else [value for row in replies for value in row]
    what = "replies" if per == "reply" else "positions"
    rank = _rank(len(scores), false_alarm, what=what)
    value = _above(sorted(scores)[rank - 1])
    if value > 1:
        raise DataError(
            f"threshold: expected at most a share of {false_alarm:g} of the benign {what} at a refusal probability of "
            "1, got more: the model refuses them; use a higher rate, or check the benign answers"
        )
    alarms = sum(score >= value for score in scores)
    if per == "reply":
        return Cut(value, alarms, len(scores), *clopper_pearson(alarms, len(scores)))
    pooled = rate_over_seeds([[one >= value for one in row] for row in replies])
    return Cut(value, alarms, len(scores), pooled.low or 0.0, pooled.high or 0.0)


def calibrate_by_depth(probabilities: Sequence[Sequence[float]], *, false_alarm: float, rng: Random) -> Cut:
    """Return a threshold for each range of depths, at one rate of false alarms per reply.

    One half of the replies, drawn at random, gives the scale of each depth: the (1 − rate)-quantile of its largest
    probabilities. The other half gives one factor c, by `calibrate_cut` on the largest ratio to the scale of a reply:
    the thresholds are c times the scales, at most 1. So the rate of false alarms is that of `calibrate_cut` with half
    of the replies. A depth that no reply of the first half reaches has the threshold before it.

    >>> rows = [[0.2, 0.002]] * 10 + [[0.1, 0.001]] * 10
    >>> cut = calibrate_by_depth(rows, false_alarm=0.2, rng=Random(1))
    >>> f"{cut.value:.3f}", [(first, f"{value:.5f}") for first, value in cut.later]
    ('0.200', [(1, '0.00200')])

    Args:
        probabilities: Probability of the refusal tokens at each position of each benign reply.
        false_alarm: The rate.
        rng: Draws the halves.

    Raises:
        DataError: the rate is not between 0 and 1, or too few replies for it.
    """
    rows = [row for row in probabilities if row]
    rng.shuffle(rows)
    scaling, calibrating = rows[::2], rows[1::2]
    scales: dict[int, float] = {}
    for first, end in zip(DEPTH_STARTS, (*DEPTH_STARTS[1:], None), strict=True):
        largest = sorted(max(row[first:end]) for row in scaling if len(row) > first)
        if largest:
            scales[first] = max(_SMALLEST, largest[ceil((1 - false_alarm) * len(largest)) - 1])
    later = tuple((first, scale) for first, scale in scales.items() if first)
    rank = _rank(len(calibrating), false_alarm, what="replies in each half")
    ratios = [[value / threshold_at(place, scales[0], later) for place, value in enumerate(row)] for row in calibrating]
    factor = _above(sorted(map(max, ratios))[rank - 1])
    threshold, *others = (min(1.0, factor * scale) for scale in scales.values())
    later = tuple(zip([first for first in scales if first], others, strict=True))
    alarms = sum(alarms_in(row, threshold, later) for row in calibrating)
    return Cut(threshold, alarms, len(ratios), *clopper_pearson(alarms, len(ratios)), later)


def calibrate_bias(margins: Sequence[Sequence[float]], *, false_alarm: float) -> Cut:
    """Return the largest constant bias of the refusal tokens that keeps the rate of false alarms per reply.

    The margin of a position is the largest logit of the other tokens minus that of the refusal tokens. A bias above it
    makes a refusal token the most likely one there: a reply is a false alarm if the bias exceeds its smallest margin.
    The bias is the (n − r + 1)-th smallest of these, with r as in `calibrate_cut`, rounded down. It is negative for a
    model that refuses more benign requests than the rate allows.

    >>> calibrate_bias([[4.0, 2.0], [3.0], [1.0, 6.0], [5.0]], false_alarm=0.4)[:3]
    (1.999, 1, 4)

    Args:
        margins: Margin at each position of each benign reply.
        false_alarm: The rate.

    Raises:
        DataError: the rate is not between 0 and 1, or too few replies for it.
    """
    smallest = sorted(min(row) for row in margins if row)
    rank = _rank(len(smallest), false_alarm, what="replies")
    limit = Decimal(smallest[len(smallest) - rank])
    value = float((limit - _BIAS_STEP / 2).quantize(_BIAS_STEP, ROUND_FLOOR))
    value = min(LARGEST_BIAS, max(-LARGEST_BIAS, value))
    alarms = sum(margin < value for margin in smallest)
    return Cut(value, alarms, len(smallest), *clopper_pearson(alarms, len(smallest)))


def fewest_cases(false_alarm: float) -> int:
    """Return the smallest number of benign cases with which a threshold of this rate can be calibrated.

    >>> fewest_cases(0.01), fewest_cases(0.05)
    (99, 19)
    """
    return ceil(1 / Decimal(str(false_alarm))) - 1


def _rank(cases: int, false_alarm: float, *, what: str) -> int:
    if not 0 < false_alarm < 1:
        raise DataError(f"false alarm: expected a rate between 0 and 1, such as 0.01, got {false_alarm:g}")
    exact = Decimal(str(false_alarm))
    rank = ceil((1 - exact) * (cases + 1))
    if rank > cases:
        raise DataError(
            f"threshold: expected at least {fewest_cases(false_alarm)} benign {what} for a false-alarm rate of "
            f"{false_alarm:g}, got {cases}; add benign answers, or use a higher rate"
        )
    return rank


def _above(value: float) -> float:
    """Return a number of few digits just above a probability; it may exceed 1."""
    value = max(value, _SMALLEST)
    exact = Decimal(value)
    step = Decimal(10) ** (exact.adjusted() + 1 - _DIGITS)
    rounded = exact.quantize(step, ROUND_CEILING)
    return float(rounded if float(rounded) > value else rounded + step)
