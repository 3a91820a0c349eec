import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import norm

from derta.stats import (
    Rate,
    bootstrap_mean,
    cohen_kappa,
    rate,
    rate_of_counts,
    rate_over_seeds,
    wilson_bounds,
    wilson_interval,
)


@given(st.integers(1, 200), st.data())
def test_the_wilson_interval_holds_the_rate_and_satisfies_its_equation(total: int, data: st.DataObject):
    successes = data.draw(st.integers(0, total))
    low, high = wilson_interval(successes, total)
    value, z = successes / total, norm.ppf(0.975)
    assert 0 <= low <= value + 1e-12
    assert value - 1e-12 <= high <= 1
    for bound in (low, high):
        assert (value - bound) ** 2 == pytest.approx(z * z * bound * (1 - bound) / total, abs=1e-9)


def test_the_confidence_is_95_percent_unless_another_is_named():
    assert wilson_interval(5, 20) == wilson_interval(5, 20, confidence=0.95)
    narrow, wide = wilson_interval(5, 20, confidence=0.5), wilson_interval(5, 20, confidence=0.99)
    assert wide[0] < wilson_interval(5, 20)[0] < narrow[0] < 0.25 < narrow[1] < wilson_interval(5, 20)[1] < wide[1]
    # z = 0.6745: (5 + z^2 / 2) / (20 + z^2) = 0.2556, plus or minus z / (20 + z^2) * sqrt(3.75 + z^2 / 4) = 0.0648
    assert narrow == pytest.approx((0.1907, 0.3204), abs=1e-4)


def test_rates_of_counts_have_no_unscored_cases_unless_they_are_given():
    assert rate_of_counts(1, scored=2) == rate([True, False])
    assert rate_of_counts(0, scored=0, unscored=3, unanswered=2) == Rate(None, None, None, 0, 3, 2)


def test_cases_without_a_verdict_or_a_reply_are_counted_apart_and_in_no_denominator():
    outcomes = [True, False, False, False, None, None, "unanswered"]
    expected = rate_of_counts(1, scored=4, unscored=2, unanswered=1)
    assert (expected.value, expected.scored, expected.unscored, expected.unanswered) == (0.25, 4, 2, 1)
    assert rate(outcomes) == expected
    assert rate_over_seeds([[one] for one in outcomes])[::2] == pytest.approx(expected[::2])
    assert rate_over_seeds([[one] for one in outcomes])[3:] == (4, 2, 1)
    assert rate_over_seeds([["unanswered", None]]) == Rate(None, None, None, 0, 1, 1)


def test_bounds_count_none_and_all_of_the_missing_cases_where_they_are_more_than_one_in_twenty():
    assert rate([True, False, None, "unanswered"]).bounds == (0.25, 0.75)
    assert rate([True, True, None]).bounds == (pytest.approx(2 / 3), 1.0)
    assert rate([False, "unanswered"]).bounds == (0.0, 0.5)
    assert rate([True] * 19 + ["unanswered"]).bounds is None
    assert rate([True] * 18 + ["unanswered"]).bounds == (pytest.approx(18 / 19), 1.0)
    assert rate([None, "unanswered"]).bounds is None
    assert rate([True, False]).bounds is None
    for value in (0.1, 0.3, 0.7):  # the sum of a rate and its missing cases is never above 1 by a rounding error
        low, high = Rate(value, 0.0, 1.0, 1, 3, 0).bounds or (0.0, 2.0)
        assert (low, high) == (pytest.approx(value / 4), pytest.approx((value + 3) / 4))


def test_kappa_of_no_cases_or_of_one_value_is_none():
    assert cohen_kappa(both=0, only_first=0, only_second=0, neither=0) is None
    assert cohen_kappa(both=4, only_first=0, only_second=0, neither=0) is None
    assert cohen_kappa(both=0, only_first=0, only_second=0, neither=4) is None
    assert cohen_kappa(both=0, only_first=2, only_second=2, neither=0) == -1
    assert cohen_kappa(both=3, only_first=0, only_second=0, neither=1) == 1
    assert cohen_kappa(both=1, only_first=1, only_second=0, neither=0) == 0  # chance: 1/2 * 1 + 1/2 * 0 = 1/2


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20))
def test_a_bootstrap_interval_holds_the_mean_and_is_the_same_every_time(values: list[float]):
    result = bootstrap_mean(values, resamples=200)
    assert result == bootstrap_mean(values, resamples=200)
    assert result.value == pytest.approx(np.mean(values), abs=1e-9)
    assert result.low is not None
    assert result.high is not None
    assert min(values) - 1e-9 <= result.low <= result.high <= max(values) + 1e-9


def test_a_bootstrap_interval_is_near_the_normal_one_for_many_values():
    values = list(np.random.default_rng(1).normal(3, 2, size=400))
    result = bootstrap_mean(values)
    half = 1.96 * np.std(values) / 20
    assert result.low == pytest.approx(np.mean(values) - half, abs=0.05)
    assert result.high == pytest.approx(np.mean(values) + half, abs=0.05)


def test_the_default_bootstrap_has_seed_0_and_2000_resamples():
    values = list(np.random.default_rng(2).normal(size=6))
    assert bootstrap_mean(values) == bootstrap_mean(values, seed=0, resamples=2000)
    resampled = np.random.default_rng(0).choice(values, size=(20_000, 6)).mean(axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])  # the percentile method, which lies within the mean's range
    result = bootstrap_mean(values)
    assert (result.low, result.high) == pytest.approx((low, high), abs=0.02)
    intervals = {bootstrap_mean(values, seed=seed, resamples=n)[1:3] for seed in (0, 1) for n in (200, 2000)}
    assert len(intervals) == 4


def test_a_single_value_has_no_interval():
    assert bootstrap_mean([0.5]) == (0.5, None, None, 1)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_one_seed_is_the_plain_rate(outcomes: list[bool]):
    pooled, plain = rate_over_seeds([[one] for one in outcomes]), rate(outcomes)
    assert pooled.scored == plain.scored
    assert pooled[:3] == pytest.approx(plain[:3], abs=1e-9)


@given(st.lists(st.booleans(), min_size=2, max_size=40), st.integers(2, 4))
def test_seeds_that_repeat_each_other_tell_no_more_than_one(outcomes: list[bool], seeds: int):
    pooled, plain = rate_over_seeds([[one] * seeds for one in outcomes]), rate(outcomes)
    assert pooled.scored == seeds * plain.scored
    assert pooled[:3] == pytest.approx(plain[:3], abs=1e-9)


@given(st.lists(st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=3), max_size=30))
def test_the_pooled_interval_is_never_tighter_than_independent_cases_would_give(outcomes: list[list[bool | None]]):
    pooled = rate_over_seeds(outcomes)
    flat = rate([one for seeds in outcomes for one in seeds])
    assert (pooled.value, pooled.scored, pooled.unscored) == (pytest.approx(flat.value), flat.scored, flat.unscored)
    assume(flat.low is not None and flat.high is not None and pooled.low is not None and pooled.high is not None)
    assert pooled.high - pooled.low >= flat.high - flat.low - 1e-9


def test_the_effective_number_of_cases_by_hand():
    # 4 prompts with 2 seeds, rate 4/8: sums by prompt 2, 1, 1, 0 deviate by 1, 0, 0, -1 from their expected 1;
    # (1 + 1) * 4/3 = 8/3, over 8 cases 1/3, over 0.5 * 0.5 the design effect 4/3; 8 / (4/3) = 6 cases
    pooled = rate_over_seeds([[True, True], [True, False], [False, True], [False, False]])
    assert pooled[:2] == (0.5, pytest.approx(wilson_interval(3, 6)[0]))
    assert pooled.high == pytest.approx(wilson_interval(3, 6)[1])
    # unequal numbers of seeds: 4/7 of 2, 2, 2, 1 are expected, so the sums 2, 1, 0, 1 deviate by 6, -1, -8, 3 sevenths;
    # (36 + 1 + 64 + 9) / 49 * 4/3 / 7 / (4/7 * 3/7) = 110 / 63; 7 / (110 / 63) = 4.009 cases
    uneven = rate_over_seeds([[True, True], [True, False], [False, False], [True, None]])
    assert uneven[:3] == pytest.approx((4 / 7, *wilson_bounds(4 / 7, 441 / 110)))
    # every prompt has as many successes as the rate expects: no variance between prompts, and all cases count
    assert rate_over_seeds([[True, False]] * 3)[:3] == pytest.approx((0.5, *wilson_interval(3, 6)))
