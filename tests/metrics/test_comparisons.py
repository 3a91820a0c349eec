import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged import harmful, prompt, verdict

from derta.errors import DataError
from derta.metrics.comparisons import (
    agreement,
    compare,
    compare_cells,
    holm_corrected,
    position_bias_cell,
    preference_comparison,
    win_rate_cell,
)
from derta.records import Verdict
from derta.stats import cohen_kappa, wilson_bounds


def test_methods_are_compared_on_the_prompts_scored_for_both():
    first, second = harmful([True] * 7 + [None]), harmful([False] * 6 + [True, True])
    (result,) = compare_cells({0: first}, {0: second}, first_name="a", second_name="b", judge="j", measure="harmful")
    # 6 discordant pairs, all one way: p = 2 * 0.5 ** 6
    assert (result.only_first, result.only_second, result.pairs, result.p_value) == (6, 0, 7, 0.03125)
    assert (result.first_value, result.second_value) == (1.0, pytest.approx(1 / 7))


def test_seeds_are_not_counted_as_prompts_in_a_comparison():
    first = {seed: harmful([True] * 3) for seed in range(5)}
    second = {seed: harmful([False] * 3) for seed in range(5)}
    (result,) = compare_cells(first, second, first_name="a", second_name="b", judge="j", measure="harmful")
    assert (result.pairs, result.p_value) == (3, 0.25)


def test_comparisons_are_corrected_as_one_family():
    first = harmful([True] * 6) + [(prompt(f"x{i}", variant="5%"), verdict(f"x{i}", harmful=True)) for i in range(6)]
    second = harmful([False] * 6) + [(prompt(f"x{i}", variant="5%"), verdict(f"x{i}", harmful=True)) for i in range(6)]
    result = compare_cells({0: first}, {0: second}, first_name="a", second_name="b", judge="j", measure="harmful")
    assert [one.p_holm for one in result] == [0.0625, 1.0]
    assert holm_corrected(result) == result


def verdicts(outcomes: list[bool | None], *, sample: int = 0) -> list[Verdict]:
    return [verdict(str(i), harmful=one, sample=sample) for i, one in enumerate(outcomes)]


def test_compare_returns_the_comparison_of_the_only_cell():
    first, second = [True] * 7 + [None], [False] * 6 + [True, True]
    (cell,) = compare_cells(
        {0: harmful(first)}, {0: harmful(second)}, first_name="a", second_name="b", judge="j", measure="harmful"
    )
    result = compare(verdicts(first), verdicts(second), first_name="a", second_name="b", name="prefill")
    assert result == cell.model_copy(update={"attack": None})


def test_samples_of_a_prompt_are_one_pair():
    first = [one for sample in range(3) for one in verdicts([True, True, False], sample=sample)]
    second = [one for sample in range(3) for one in verdicts([False, False, False], sample=sample)]
    result = compare(first, second)
    assert (result.pairs, result.only_first, result.p_value) == (3, 2, 0.5)


def test_a_comparison_has_newcombe_s_interval_of_the_difference():
    # Bentur et al. 2009 in Fagerland, Lydersen and Laake 2014, table 8: 1, 1, 7 and 12 pairs
    first, second = [True] * 2 + [False] * 19, [True, False] + [True] * 7 + [False] * 12
    result = compare(verdicts(first), verdicts(second))
    assert (result.difference_low, result.difference_high) == pytest.approx((-0.507, -0.026), abs=5e-4)
    swapped = compare(verdicts(second), verdicts(first))
    assert (swapped.difference_low, swapped.difference_high) == pytest.approx((0.026, 0.507), abs=5e-4)


def test_unscored_prompts_do_not_change_the_interval_of_the_difference():
    first, second = [True] * 6 + [False] * 6, [False] * 10 + [True, False]
    plain = compare(verdicts(first), verdicts(second))
    more = compare(verdicts([*first, None, True]), verdicts([*second, True, None]))
    assert (more.difference_low, more.difference_high) == (plain.difference_low, plain.difference_high)


def test_verdicts_that_cannot_be_compared_are_errors():
    with pytest.raises(DataError, match="verdicts of one judge, got those of j, other"):
        compare(verdicts([True]), [Verdict(prompt_id="0", judge="other", harmful=True)])
    with pytest.raises(DataError, match="expected Verdict records with prompt ids, got True"):
        compare([True], verdicts([True]))
    with pytest.raises(DataError, match="got no prompt scored for both"):
        compare(verdicts([True]), [verdict("another", harmful=True)])
    with pytest.raises(DataError, match="got two"):
        compare(verdicts([True]) * 2, verdicts([True]))


def test_a_comparison_has_the_fields_of_its_cells_name():
    both = [(prompt("1", variant="5%").model_copy(update={"dataset": "d"}), verdict("1", harmful=True))]
    (result,) = compare_cells({0: both}, {0: both}, first_name="a", second_name="b", judge="j", measure="harmful")
    assert (result.name, result.attack, result.variant, result.dataset) == ("prefill@5% (d)", "prefill", "5%", "d")


def test_a_tie_is_half_a_win_and_an_unscored_preference_is_not_counted():
    cell = win_rate_cell(["ours", "ours", "tie", "theirs", None], first="a", second="b")
    # (1 + 1 + 0.5 + 0) / 4
    assert (cell.value, cell.scored, cell.unscored) == (0.625, 4, 1)
    assert (cell.low, cell.high) == wilson_bounds(0.625, 4)
    assert (cell.method, cell.name, cell.measure, cell.suite) == ("a", "against b", "win_rate", "helpfulness")
    empty = win_rate_cell([None], first="a", second="b")
    assert (empty.value, empty.low, empty.high, empty.scored, empty.unscored) == (None, None, None, 0, 1)


def test_position_bias_counts_prompts_whose_preference_changes_with_the_order():
    orders = [("ours", "ours"), ("ours", "theirs"), ("tie", "ours"), ("tie", None), ()]
    cell = position_bias_cell(orders, first="a", second="b")
    # of 3 scored prompts 2 change; one has a missing preference; a prompt without a query does not count
    assert (cell.value, cell.scored, cell.unscored) == (pytest.approx(2 / 3), 3, 1)
    assert (cell.measure, cell.suite) == ("order_decided", "analysis")


def test_wins_are_compared_with_losses_without_ties():
    comparison = preference_comparison(["ours"] * 6 + ["tie"] * 2 + [None], first="a", second="b")
    assert comparison is not None
    # 6 wins, no losses: p = 2 * 0.5 ** 6; win rate (6 + 2 * 0.5) / 8
    assert (comparison.only_first, comparison.only_second, comparison.pairs) == (6, 0, 8)
    assert (comparison.p_value, comparison.p_holm) == (0.03125, 0.03125)
    assert (comparison.first_value, comparison.second_value) == (0.875, 0.125)
    assert preference_comparison([None, None], first="a", second="b") is None


def test_two_judges_agree_and_differ_by_prompt():
    first = [verdict(str(i), harmful=one) for i, one in enumerate([True, True, False, False, None])]
    second = [verdict(str(i), harmful=one) for i, one in enumerate([True, False, False, True, True])]
    result = agreement(first, second, measure="harmful")
    assert result[:5] == (1, 1, 1, 1, 1)
    assert (result.agreement, result.kappa, result.differing) == (0.5, 0.0, (("1", 0), ("3", 0)))


def test_judges_of_different_prompts_are_not_compared():
    with pytest.raises(DataError, match="same prompts"):
        agreement([verdict("1")], [verdict("2")], measure="harmful")
    with pytest.raises(DataError, match="got two"):
        agreement([verdict("1")] * 2, [verdict("1")], measure="harmful")


@given(*[st.integers(0, 30)] * 4)
def test_kappa_is_symmetric_and_one_only_if_judges_never_differ(a: int, b: int, c: int, d: int):
    kappa = cohen_kappa(both=a, only_first=b, only_second=c, neither=d)
    assert kappa == cohen_kappa(both=d, only_first=c, only_second=b, neither=a)
    assert kappa is None or -1 <= kappa <= 1
    if kappa is not None:
        assert (kappa == 1) == (b == c == 0)


def test_judges_are_compared_sample_by_sample():
    first = [verdict("1", sample=i, harmful=one) for i, one in enumerate([True, False])]
    second = [verdict("1", sample=i, harmful=True) for i in (1, 0)]
    assert agreement(first, second, measure="harmful").differing == (("1", 1),)
