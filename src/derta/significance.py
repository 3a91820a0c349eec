"""Significance tests of two methods on the same prompts, and the difference that they can detect."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, sqrt
from statistics import NormalDist
from typing import NamedTuple

SIGNIFICANT = 0.05
"""p-value below which a difference is called significant."""


class PairedTest(NamedTuple):
    """Result of a paired test of two methods: the counts of prompts on which only one succeeded, and the p-value."""

    only_first: int
    only_second: int
    pairs: int
    p_value: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> PairedTest:
    """Compute the exact two-sided McNemar test of two methods on the same prompts, in the same order.

    >>> mcnemar([True] * 6 + [False], [False] * 7)
    PairedTest(only_first=6, only_second=0, pairs=7, p_value=0.03125)

    Source: McNemar 1947; the exact form is a binomial test on the discordant pairs.
    """
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    return PairedTest(only_first, only_second, len(first), _sign_p_value(only_first, only_second))


def sign_test(differences: Sequence[float]) -> PairedTest:
    """Compute the exact two-sided sign test of two methods' mean outcomes by prompt; with one seed, McNemar's test.

    The seeds of one prompt are not independent, so each prompt is one pair: the method with the higher mean succeeds.

    Args:
        differences: The first method's mean minus the second's, for each prompt.

    >>> sign_test([1.0] * 6 + [0.0]) == mcnemar([True] * 6 + [False], [False] * 7)
    True
    """
    only_first = sum(difference > 0 for difference in differences)
    only_second = sum(difference < 0 for difference in differences)
    return PairedTest(only_first, only_second, len(differences), _sign_p_value(only_first, only_second))


def _sign_p_value(first: int, second: int) -> float:
    """Compute the two-sided p-value of `first` heads and `second` tails of a fair coin; 1 if both are 0."""
    total, fewer = first + second, min(first, second)
    return min(1.0, 2 * sum(comb(total, i) for i in range(fewer + 1)) / 2**total)


def holm(p_values: Sequence[float]) -> list[float]:
    """Compute Holm-adjusted p-values, in input order; compare each with the significance level of the whole family.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Source: Holm 1979.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def format_p_value(p: float) -> str:
    """Format a p-value with three decimals.

    >>> format_p_value(0.0314), format_p_value(0.0000001)
    ('0.031', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def minimum_detectable_difference(
    *, pairs: int, discordant_share: float, power: float = 0.8, level: float = 0.05
) -> float | None:
    """Compute the smallest true difference of two paired rates that a test on `pairs` prompts detects with `power`.

    `discordant_share` is the share of prompts on which exactly one of the two methods succeeds. Return None if the test
    would not detect a difference even if the same method succeeded on all of them.

    >>> round(minimum_detectable_difference(pairs=100, discordant_share=0.3) or 0, 2)
    0.15

    Source: Connor 1987, normal approximation of McNemar's test.
    """
    from scipy.optimize import root_scalar

    z_level, z_power = NormalDist().inv_cdf(1 - level / 2), NormalDist().inv_cdf(power)

    def excess(difference: float) -> float:
        spread = sqrt(max(0.0, discordant_share - difference**2))
        return difference * sqrt(pairs) - z_level * sqrt(discordant_share) - z_power * spread

    if pairs <= 0 or discordant_share <= 0 or excess(discordant_share) < 0:
        return None
    return float(root_scalar(excess, bracket=(0.0, discordant_share), method="brentq").root)
