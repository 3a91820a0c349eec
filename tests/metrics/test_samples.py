"""Attack success in any of several attempts, against a count over all subsets and against simulations."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.judges import build_judge, judge_cases
from derta.metrics.comparisons import compare_cells
from derta.metrics.outcomes import Outcome
from derta.metrics.rates import rate_cells
from derta.metrics.samples import any_cells, any_curves, any_of, sample_sizes, success_in_any
from derta.metrics.summaries import summarize
from derta.protocols import Case
from derta.records import Prompt, Reply, Verdict
from derta.stats import wilson_interval

SETTINGS = {"method": "m", "judge": "harm"}


def prompt(name, *, draw=None):
    attack = "direct" if draw is None else "best_of_n"
    number = "" if draw is None else f"#{draw}"
    return Prompt(
        id=f"{attack}:{name}{number}", request_id=name, request=name, attack=attack, mode="raw", text="?", draw=draw
    )


def judged(table, *, draws=False):
    """Prompts with a verdict for each entry of a row: samples of one prompt, or draws for one request."""
    return [
        (one, Verdict(prompt_id=one.id, sample=0 if draws else number, judge="harm", **found))
        for row, values in enumerate(table)
        for number, value in enumerate(values)
        for one in [prompt(str(row), draw=number if draws else None)]
        for found in [{"unanswered": True} if value == "unanswered" else {"harmful": value}]
    ]


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_the_estimate_is_the_share_of_subsets_with_a_success(outcomes, data):
    k = data.draw(st.integers(1, len(outcomes)))
    subsets = list(combinations(outcomes, k))
    assert success_in_any(len(outcomes), sum(outcomes), k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_the_estimate_is_unbiased_where_the_plain_power_is_not():
    rng = np.random.default_rng(0)
    successes = rng.binomial(10, 0.2, size=4000)
    truth = 1 - 0.8**5
    assert np.mean([success_in_any(10, int(c), 5) for c in successes]) == pytest.approx(truth, abs=0.01)
    assert np.mean(1 - (1 - successes / 10) ** 5) < truth - 0.02


@pytest.mark.parametrize("draws", [False, True])
def test_units_are_prompts_or_the_requests_of_draws_and_the_interval_is_wilsons(draws):
    table = [[True, False, False], [False] * 3, [True] * 3, [False, True, True], [False] * 3]
    cases = judged(table, draws=draws)
    [cell] = any_cells(cases, seed=0, **SETTINGS)
    assert (cell.value, cell.scored) == (3 / 5, 5)
    assert (cell.low, cell.high) == pytest.approx(wilson_interval(3, 5))
    [mean] = rate_cells(cases, seed=0, measure="harmful", **SETTINGS)
    assert (mean.value, mean.scored) == (6 / 15, 15)
    low, high = wilson_interval(6, 15)
    assert mean.low < low
    assert mean.high > high  # attempts at one request are no independent cases
    [curve] = any_curves(cases, **SETTINGS)
    assert (curve.x, curve.count) == ((1, 2, 3), 5)
    assert curve.y == pytest.approx((0.4, (2 / 3 + 1 + 1) / 5, 0.6))
    assert all(low <= y <= high for low, y, high in zip(curve.low, curve.y, curve.high, strict=True))


def test_single_attempts_have_no_cell_and_no_curve():
    cases = judged([[True], [False]])
    assert any_cells(cases, seed=0, **SETTINGS) == any_curves(cases, **SETTINGS) == []


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([None, True, "unanswered"], True),
        ([False, None], None),
        ([False, "unanswered"], None),
        ([None, "unanswered"], None),
        (["unanswered"] * 2, "unanswered"),
        ([False, False], False),
    ],
)
def test_missing_attempts_count_as_neither(outcomes, expected):
    assert any_of(outcomes) == expected


def test_a_unit_with_missing_attempts_is_left_out_of_the_curve_where_it_has_too_few():
    [curve] = any_curves(judged([[True, False, False], [True, None, "unanswered"], ["unanswered"] * 3]), **SETTINGS)
    assert curve.y == pytest.approx(((1 / 3 + 1) / 2, 2 / 3, 1.0))
    [cell] = any_cells(judged([[True, False], [False, None], ["unanswered"] * 2]), seed=0, **SETTINGS)
    assert (cell.scored, cell.unscored, cell.unanswered) == (1, 1, 1)


def test_seeds_are_pooled_by_prompt():
    first, second = judged([[True, False], [False, False]]), judged([[False, False], [False, False]])
    [cell] = any_cells(first, second, seed=None, **SETTINGS)
    assert (cell.value, cell.scored) == (1 / 4, 4)
    [curve] = any_curves(first, second, **SETTINGS)
    assert curve.y == pytest.approx((1 / 8, 1 / 4))


@pytest.mark.parametrize("draws", [False, True])
def test_comparisons_pair_the_means_of_units(draws):
    ours, theirs = judged([[True, False]] * 6 + [[False] * 2], draws=draws), judged([[False] * 2] * 7, draws=draws)
    names = {"first_name": "a", "second_name": "b", "judge": "harm", "measure": "harmful"}
    [comparison] = compare_cells({0: ours}, {0: theirs}, **names)
    assert (comparison.pairs, comparison.only_first, comparison.p_value) == (7, 6, 0.03125)


def test_the_interval_of_the_mean_covers_with_samples_of_one_prompt():
    """25 prompts with 8 samples each, whose rates differ between prompts: a plain Wilson interval covers in 60 %."""
    rng = np.random.default_rng(1)
    covered, plain, runs = 0, 0, 300
    for _ in range(runs):
        rates = rng.beta(0.5, 1.0, size=25)
        table = (rng.random((25, 8)) < rates[:, None]).tolist()
        [cell] = rate_cells(judged(table), seed=0, measure="harmful", **SETTINGS)
        low, high = wilson_interval(sum(map(sum, table)), 200)
        covered += cell.low <= 1 / 3 <= cell.high
        plain += low <= 1 / 3 <= high
    assert covered / runs > 0.9
    assert plain / runs < 0.8


def test_long_curves_have_few_points():
    assert sample_sizes(1) == [1]
    assert sample_sizes(21) == list(range(1, 22))
    assert len(sample_sizes(10_000)) == 40


def repeated(count):
    """A model whose samples of a prompt are all the same, with refusals at different places."""
    prompts, replies, verdicts = [], [], []
    for row in range(12):
        for sample in range(count):
            text = "Mix the flour with water and " + "then " * row + ("Sorry, no." if row % 3 else "bake it.")
            prompts.append(prompt(str(row)))
            starts = tuple(at for at, letter in enumerate(text) if not at or text[at - 1] == " ")
            replies.append(Reply(prompt_id=prompts[-1].id, sample=sample, text=text, token_starts=starts))
    judge = build_judge("refusal")
    verdicts = list(judge_cases(judge, [Case(*pair) for pair in zip(prompts, replies, strict=True)]))
    return Outcome("m", 0, prompts, replies, {"refusal": verdicts})


def test_samples_that_are_all_the_same_narrow_no_interval():
    single, several = (
        {(one.name, one.measure): one for one in summarize([repeated(count)], measure_of=lambda *_: "refused").cells}
        for count in (1, 4)
    )
    assert {"leaked_share", "late_refusal", "refused"} <= {measure for _, measure in single}
    for key, cell in single.items():
        assert (several[key].value, several[key].low, several[key].high) == pytest.approx(
            (cell.value, cell.low, cell.high)
        )
        assert several[key].scored == 4 * cell.scored
