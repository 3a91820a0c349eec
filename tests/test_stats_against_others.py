"""Our statistics beside those of scipy and statsmodels, on drawn data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar as others_mcnemar
from statsmodels.stats.descriptivestats import sign_test as others_sign_test
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from derta.significance import holm, mcnemar, minimum_detectable_difference, sign_test
from derta.stats import bootstrap_mean, cohen_kappa, rate_of_counts, wilson_bounds, wilson_interval

COUNTS = st.integers(0, 80)
VALUES = st.lists(st.floats(-50, 50).map(lambda x: round(x, 3)), min_size=2, max_size=20)


@given(COUNTS, COUNTS)
def test_wilson_is_that_of_statsmodels(successes: int, failures: int):
    total = successes + failures + 1
    result = proportion_confint(successes, total, method="wilson")
    assert wilson_interval(successes, total) == pytest.approx(result, abs=1e-12)
    assert wilson_bounds(successes / total, total) == pytest.approx(result, abs=1e-12)
    assert rate_of_counts(successes, scored=total)[1:3] == pytest.approx(result, abs=1e-12)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_mcnemar_is_that_of_statsmodels(both: int, only_first: int, only_second: int, neither: int):
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    result = others_mcnemar([[both, only_first], [only_second, neither]], exact=True)
    assert mcnemar(first, second).p_value == pytest.approx(min(1.0, result.pvalue), abs=1e-9)


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.5, 1.0]), min_size=1, max_size=60))
def test_the_sign_test_is_that_of_statsmodels(differences: list[float]):
    _, p_value = others_sign_test(differences)
    assert sign_test(differences).p_value == pytest.approx(min(1.0, p_value), abs=1e-9)


@settings(max_examples=15)  # theirs takes 30 ms
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_is_that_of_statsmodels(p_values: list[float]):
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]), abs=1e-12)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_kappa_is_that_of_statsmodels(both: int, only_first: int, only_second: int, neither: int):
    ours = cohen_kappa(both=both, only_first=only_first, only_second=only_second, neither=neither)
    if ours is not None:
        table = np.array([[both, only_first], [only_second, neither]])
        assert ours == pytest.approx(cohens_kappa(table, return_results=False), abs=1e-9)


@given(VALUES, st.floats(0.5, 4), st.floats(-10, 10))
def test_a_bootstrap_interval_moves_and_stretches_with_its_values(values: list[float], scale: float, shift: float):
    result, moved = (bootstrap_mean(one, resamples=100) for one in (values, [scale * x + shift for x in values]))
    assert moved.value == pytest.approx(scale * result.value + shift, abs=1e-6)
    assert (moved.low, moved.high) == pytest.approx((scale * result.low + shift, scale * result.high + shift), abs=1e-6)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_a_bootstrap_interval_is_near_students(seed: int):
    values = list(np.random.default_rng(seed).normal(1, 3, size=200))
    low, high = scipy_stats.t.interval(0.95, 199, loc=np.mean(values), scale=scipy_stats.sem(values))
    result = bootstrap_mean(values)
    assert (result.low, result.high) == pytest.approx((low, high), abs=0.15)


@pytest.mark.parametrize(("pairs", "discordant"), [(100, 0.3), (400, 0.1)])
def test_the_detectable_difference_is_found_four_times_in_five(pairs: int, discordant: float):
    # the normal approximation of the exact test, which is somewhat less powerful: 0.8 less up to 0.1
    least = minimum_detectable_difference(pairs=pairs, discordant_share=discordant)
    assert least is not None
    rng, detected = np.random.default_rng(0), 0
    for _ in range(400):
        only_first, only_second, _ = rng.multinomial(
            pairs, [(discordant + least) / 2, (discordant - least) / 2, 1 - discordant]
        )
        detected += sign_test([1.0] * only_first + [-1.0] * only_second).p_value < 0.05
    assert 0.68 <= detected / 400 <= 0.85
