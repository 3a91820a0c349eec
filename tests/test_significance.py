import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binomtest, false_discovery_control, norm

from derta.significance import holm, mcnemar, minimum_detectable_difference, sign_test

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)

PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


@given(PAIRS)
def test_mcnemar_is_the_binomial_test_on_discordant_pairs(pairs: list[tuple[bool, bool]]):
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    result = mcnemar(first, second)
    discordant = sum(a != b for a, b in pairs)
    exact = binomtest(result.only_first, discordant).pvalue if discordant else 1.0
    assert result.p_value == pytest.approx(exact)
    assert result == sign_test([a - b for a, b in pairs])
    assert mcnemar(second, first).p_value == pytest.approx(result.p_value)


@given(P_VALUES)
def test_holm_lies_between_plain_and_bonferroni_and_keeps_the_order(p_values: list[float]):
    adjusted = holm(p_values)
    for plain, corrected in zip(p_values, adjusted, strict=True):
        assert plain <= corrected <= min(1.0, len(p_values) * max(p_values)) + 1e-12
    ranks = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [adjusted[i] for i in ranks] == sorted(adjusted)
    benjamini_hochberg = false_discovery_control(np.array(p_values))
    assert all(a >= b - 1e-12 for a, b in zip(adjusted, benjamini_hochberg, strict=True))


def test_methods_with_different_numbers_of_outcomes_are_refused():
    for first, second in (([True] * 2, [True] * 3), ([False] * 3, [False] * 2)):
        with pytest.raises(ValueError, match=r"shorter|longer"):
            mcnemar(first, second)


def test_holm_by_hand():
    # sorted .005, .01, .03, .04 times 4, 3, 2, 1 = .02, .03, .06, .04; made monotone: .02, .03, .06, .06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.integers(30, 2000), st.floats(0.05, 1.0))
def test_the_detectable_difference_needs_the_given_number_of_pairs(pairs: int, discordant: float):
    least = minimum_detectable_difference(pairs=pairs, discordant_share=discordant)
    assume(least is not None)
    assert least is not None
    root = norm.ppf(0.975) * discordant**0.5 + norm.ppf(0.8) * max(0.0, discordant - least**2) ** 0.5
    assert pairs == pytest.approx((root / least) ** 2, rel=1e-3)
    smaller = minimum_detectable_difference(pairs=pairs * 2, discordant_share=discordant)
    assert smaller is not None
    assert smaller < least


def test_too_few_pairs_detect_nothing():
    assert minimum_detectable_difference(pairs=3, discordant_share=0.5) is None
    assert minimum_detectable_difference(pairs=100, discordant_share=0.0) is None
    # with all pairs discordant and one method always ahead, the test needs sqrt(n) >= 1.96
    assert minimum_detectable_difference(pairs=3, discordant_share=1.0) is None
    assert 0.99 < (minimum_detectable_difference(pairs=4, discordant_share=1.0) or 0) <= 1
