import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.metrics.prediction_powered import prediction_powered_rate
from derta.stats import wilson_interval

PAIRS = [(True, True), (True, False), (False, True), (False, False)]


def pairs(both: int, only_label: int, only_predicted: int, neither: int) -> list[tuple[bool, bool]]:
    counts = (both, only_label, only_predicted, neither)
    return [pair for pair, count in zip(PAIRS, counts, strict=True) for _ in range(count)]


def test_the_estimate_is_the_formula_of_the_paper():
    # mean(Y) = .40, mean(f) = .42, cov = .36 - .4 * .42 = .192, with a pseudo case in each cell: 37, 5, 7, 55 of 104
    result = prediction_powered_rate(pairs(36, 4, 6, 54), positives=500, unlabelled=1000)
    covariance = 37 / 104 - (42 / 104) * (44 / 104)
    variance = (44 / 104) * (60 / 104)
    power = covariance / ((1 + 100 / 1000) * variance)
    assert result.power == pytest.approx(power)
    assert result.value == pytest.approx(0.40 + power * (0.500 - 0.42))
    assert result.low < result.value < result.high


def test_a_judge_without_information_leaves_the_rate_and_the_interval_of_the_labels():
    result = prediction_powered_rate(pairs(15, 15, 35, 35), positives=900, unlabelled=1000)
    low, high = wilson_interval(30, 100)
    assert (result.value, result.power) == (0.3, 0.0)
    assert (result.low, result.high) == pytest.approx((low, high), abs=0.005)


def test_labels_of_all_replies_are_their_own_rate():
    assert prediction_powered_rate(pairs(3, 1, 2, 4), positives=0, unlabelled=0).value == 0.4


def test_a_good_judge_narrows_the_interval():
    good = prediction_powered_rate(pairs(28, 2, 2, 68), positives=600, unlabelled=2000)
    low, high = wilson_interval(30, 100)
    assert good.high - good.low < 0.7 * (high - low)


@given(st.lists(st.sampled_from(PAIRS), min_size=1, max_size=60), st.integers(0, 500), st.integers(0, 500))
def test_the_estimate_is_a_rate_in_its_interval(labelled: list[tuple[bool, bool]], positives: int, others: int):
    result = prediction_powered_rate(labelled, positives=positives, unlabelled=positives + others)
    assert 0 <= result.low <= result.value <= result.high <= 1
    assert 0 <= result.power <= 1


RUNS = 1000
BOUND = 0.93 - 2.6 * (0.93 * 0.07 / RUNS) ** 0.5
"""A true coverage of .93 is below this bound in one of 200 simulations."""


@pytest.mark.parametrize(("labels", "unlabelled"), [(20, 200), (50, 2000), (100, 400), (200, 20_000)])
@pytest.mark.parametrize("rate", [0.03, 0.3, 0.8])
@pytest.mark.parametrize(("sensitivity", "specificity"), [(0.95, 0.95), (0.6, 0.8), (0.47, 0.98), (0.5, 0.5)])
def test_the_interval_holds_the_rate_in_93_percent_of_simulations(
    labels: int, unlabelled: int, rate: float, sensitivity: float, specificity: float
):
    shares = np.array(
        [
            rate * sensitivity,
            rate * (1 - sensitivity),
            (1 - rate) * (1 - specificity),
            (1 - rate) * specificity,
        ]
    )
    rng = np.random.default_rng(labels)
    samples = rng.multinomial(labels, shares, size=RUNS).tolist()
    positives = rng.binomial(unlabelled, shares[0] + shares[2], size=RUNS).tolist()
    results = [
        prediction_powered_rate(pairs(*counts), positives=count, unlabelled=unlabelled)
        for counts, count in zip(samples, positives, strict=True)
    ]
    covered = sum(result.low <= rate <= result.high for result in results) / RUNS
    assert covered >= BOUND
    mean = sum(result.value for result in results) / RUNS
    spread = float(np.std([result.value for result in results]))
    assert abs(mean - rate) < 4 * spread / RUNS**0.5 + 0.01  # the power is estimated, which is a bias of small samples
