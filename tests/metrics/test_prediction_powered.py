import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.metrics.prediction_powered import prediction_powered_rate, sample_p_value
from derta.stats import clopper_pearson

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
    assert (result.value, result.power) == (0.3, 0.0)
    assert (result.low, result.high) == pytest.approx(clopper_pearson(30, 100))


def test_labels_of_all_replies_are_their_own_rate():
    assert prediction_powered_rate(pairs(3, 1, 2, 4), positives=0, unlabelled=0).value == 0.4


def test_a_good_judge_narrows_the_interval():
    good = prediction_powered_rate(pairs(28, 2, 2, 68), positives=600, unlabelled=2000)
    low, high = clopper_pearson(30, 100)
    assert good.high - good.low < 0.7 * (high - low)


@given(st.lists(st.sampled_from(PAIRS), min_size=1, max_size=60), st.integers(0, 500), st.integers(0, 500))
def test_the_estimate_is_a_rate_in_its_interval(labelled: list[tuple[bool, bool]], positives: int, others: int):
    result = prediction_powered_rate(labelled, positives=positives, unlabelled=positives + others)
    assert 0 <= result.low <= result.value <= result.high <= 1
    assert 0 <= result.power <= 1


@pytest.mark.parametrize("outcome", [True, False])
def test_labels_of_one_kind_use_no_judge_and_have_the_interval_of_the_labels(outcome: bool):
    labelled = [(outcome, True)] * 5 + [(outcome, False)] * 95
    result = prediction_powered_rate(labelled, positives=200, unlabelled=2000)
    assert (result.value, result.power) == (float(outcome), 0.0)
    assert (result.low, result.high) == pytest.approx(clopper_pearson(100 * outcome, 100))


def test_the_estimate_is_that_of_rectifiers_on_each_reply():
    """Angelopoulos et al. (2023), Algorithm of PPI++ for a mean: an estimate from vectors, with a normal interval."""
    rng = np.random.default_rng(5)
    truth = rng.random(60_000) < 0.4
    predicted = np.where(rng.random(60_000) < 0.85, truth, ~truth)
    label, f, other = truth[:10_000].astype(float), predicted[:10_000].astype(float), predicted[10_000:].astype(float)
    power = np.cov(label, f)[0, 1] / (1 + len(label) / len(other)) / np.var([*f, *other])
    rectifiers = label - power * f
    value = power * other.mean() + rectifiers.mean()
    half = 1.96 * (power**2 * other.var() / len(other) + rectifiers.var() / len(label)) ** 0.5
    pairs_of_both = [*zip(truth[:10_000].tolist(), predicted[:10_000].tolist(), strict=True)]
    result = prediction_powered_rate(pairs_of_both, positives=int(other.sum()), unlabelled=len(other))
    assert result.power == pytest.approx(power, abs=0.01)
    assert result.value == pytest.approx(value, abs=2e-4)
    assert (result.low, result.high) == pytest.approx((value - half, value + half), abs=3e-4)


@pytest.mark.parametrize(("labels", "replies"), [(20, 500), (30, 2100), (100, 20_000)])
@pytest.mark.parametrize("rate", [0.0, 0.002, 0.02, 0.5, 0.99, 1.0])
@pytest.mark.parametrize(("sensitivity", "specificity"), [(0.95, 0.95), (0.2, 0.3), (0.99, 0.02)])
def test_the_interval_holds_the_rate_of_a_finite_file_near_0_and_1_and_with_a_judge_that_is_always_wrong(
    labels: int, replies: int, rate: float, sensitivity: float, specificity: float
):
    positives = round(rate * replies)
    found, alarms = round(positives * sensitivity), round((replies - positives) * (1 - specificity))
    population = [found, positives - found, alarms, replies - positives - alarms]
    samples = np.random.default_rng(labels).multivariate_hypergeometric(population, labels, size=RUNS // 4)
    counts, times = np.unique(samples, axis=0, return_counts=True)
    covered = 0
    for (both, only_label, only_predicted, neither), number in zip(counts.tolist(), times.tolist(), strict=True):
        result = prediction_powered_rate(
            pairs(both, only_label, only_predicted, neither),
            positives=found + alarms - both - only_predicted,
            unlabelled=replies - labels,
        )
        covered += number * (result.low <= positives / replies <= result.high)
    assert covered / (RUNS // 4) >= 0.93 - 2.6 * (0.93 * 0.07 / (RUNS // 4)) ** 0.5


def test_labelled_replies_that_differ_from_the_others_are_no_random_sample():
    assert sample_p_value(50, 100, 50, 1000) < 0.01
    assert sample_p_value(0, 100, 300, 1000) < 0.01
    assert sample_p_value(6, 100, 50, 1000) > 0.5
    assert sample_p_value(0, 0, 50, 1000) == sample_p_value(3, 10, 0, 0) == 1.0


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
