"""Intervals and tests of paired differences, against closed forms, other programs and simulation."""

from math import sqrt

import numpy as np
import pytest
from tallies import one_set, table, tally

from derta.metrics.paired import difference, pooled_rate
from derta.metrics.units import Tally, Units, unit_weights
from derta.significance import mcnemar
from derta.stats import rate_over_seeds, wilson_interval


def test_one_set_has_the_interval_of_pooled_seeds():
    rng = np.random.default_rng(1)
    for share in (0.02, 0.3, 0.9, 1.0):
        seeds = (rng.random((3, 40)) < np.where(rng.random(40) < 0.5, share, share / 2)).tolist()
        expected = rate_over_seeds([list(one) for one in zip(*seeds, strict=True)])
        result = pooled_rate(one_set(40), tally(*seeds))
        assert result[:4] == pytest.approx(expected[:4])


@pytest.mark.parametrize("counts", [(1, 1, 7, 12), (59, 6, 16, 80), (0, 0, 0, 30), (29, 3, 0, 0), (2, 9, 1, 3)])
def test_one_case_a_prompt_has_newcombe_s_interval(counts):
    first, second = table(*counts)
    n = sum(counts)
    a, b, c, d = counts
    p1, p2 = (a + b) / n, (a + c) / n
    (l1, u1), (l2, u2) = wilson_interval(a + b, n), wilson_interval(a + c, n)
    product = (a + b) * (c + d) * (a + c) * (b + d)
    excess = a * d - b * c
    phi = (max(excess - n / 2, 0) if excess > 0 else excess) / sqrt(product) if product else 0.0
    low = p1 - p2 - sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    high = p1 - p2 + sqrt((p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2)
    result = difference(one_set(n), tally(first), tally(second))
    assert (result.low, result.high) == pytest.approx((low, high))
    assert result.value == pytest.approx(p1 - p2)
    assert result.p_value == pytest.approx(mcnemar(first, second).p_value)
    assert (result.prompts, result.cases) == (n, n)


def test_the_published_example_has_the_published_interval():
    # Bentur et al. 2009 in Fagerland, Lydersen and Laake 2014, table 8: Newcombe's interval is -0.507 to -0.026
    first, second = table(1, 1, 7, 12)
    result = difference(one_set(21), tally(first), tally(second))
    assert (round(result.value, 3), round(result.low, 3), round(result.high, 3)) == (-0.286, -0.507, -0.026)


def test_sets_of_one_attack_share_its_weight():
    # an attack with the sets of two units (2 and 1 cases) and one unit, and another attack with one unit
    units = Units(np.array([0, 0, 1, 2]), np.array([0, 1, 0, 1]), np.array([0, 0, 1]))
    assert unit_weights(units, np.array([2.0, 1.0, 1.0, 5.0])).tolist() == pytest.approx([1 / 6, 1 / 12, 1 / 4, 1 / 2])
    assert unit_weights(units, np.array([2.0, 1.0, 0.0, 5.0])).tolist() == pytest.approx([1 / 3, 1 / 6, 0, 1 / 2])
    result = pooled_rate(units, Tally(np.array([2.0, 0.0, 0.0, 5.0]), np.array([2.0, 1.0, 1.0, 5.0])))
    assert result.value == pytest.approx((2 / 3 + 0) / 2 / 2 + 1 / 2)
    assert result.scored == 9


def test_the_same_requests_under_more_attacks_are_no_more_requests():
    outcomes = [True, False, False, True, False, False, False, False]
    once = pooled_rate(one_set(8), tally(outcomes))
    four = Units(np.repeat(np.arange(4), 8), np.tile(np.arange(8), 4), np.arange(4))
    assert pooled_rate(four, tally(outcomes * 4))[:3] == pytest.approx(once[:3])


def test_prompts_scored_for_one_method_only_are_no_pairs():
    first, second = tally([True, False, None, True]), tally([True, None, None, False])
    result = difference(one_set(4), first, second)
    assert (result.prompts, result.first, result.second) == (2, 1.0, 0.5)
    assert difference(one_set(4), tally([None] * 4), second) is None


# Worlds of the simulation: prompts, seeds, attacks, the two rates, and the variation of a rate between prompts (the
# share of the variance of an outcome that its prompt explains).
WORLDS = [
    (30, 1, 1, 0.1, 0.05, 0.0),
    (100, 1, 1, 0.3, 0.25, 0.0),
    (100, 5, 1, 0.1, 0.1, 0.4),
    (60, 3, 4, 0.08, 0.05, 0.3),
    (150, 1, 9, 0.05, 0.06, 0.2),
    (30, 5, 9, 0.06, 0.06, 0.5),
    (240, 1, 1, 0.02, 0.01, 0.0),
]


def coverage(world, *, runs, seed=0):
    """Share of the runs whose interval covers the true difference, and whose upper end is at or above it."""
    prompts, seeds, attacks, first, second, icc = world
    rng = np.random.default_rng(seed)
    units = Units(np.repeat(np.arange(attacks), prompts), np.tile(np.arange(prompts), attacks), np.arange(attacks))
    covered, above = 0, 0
    for _ in range(runs):
        tallies = []
        # a beta-binomial: each prompt has its own rate; both methods find the same prompts hard (common quantile)
        quantiles = rng.random(prompts)
        for rate in (first, second):
            own = beta_quantile(quantiles, rate, icc)
            outcomes = rng.random((seeds, attacks, prompts)) < own
            cases = np.full(attacks * prompts, float(seeds))
            tallies.append(Tally(outcomes.sum(0).reshape(-1).astype(float), cases))
        result = difference(units, *tallies)
        covered += result.low <= first - second <= result.high
        above += first - second <= result.high
    return covered / runs, above / runs


def beta_quantile(quantiles, rate, icc):
    if not icc:
        return np.full_like(quantiles, rate)
    from scipy.stats import beta

    total = 1 / icc - 1
    return beta.ppf(quantiles, rate * total, (1 - rate) * total)


@pytest.mark.parametrize("world", [WORLDS[2], WORLDS[3]])
def test_intervals_cover_the_difference(world):
    both, above = coverage(world, runs=200)
    # 200 runs at 95 %: the standard error is 1.5 points
    assert both >= 0.91
    assert above >= 0.94


@pytest.mark.extra
@pytest.mark.parametrize("world", WORLDS)
def test_intervals_cover_the_difference_in_every_world(world):
    both, above = coverage(world, runs=1500)
    assert both >= 0.935
    assert above >= 0.96
