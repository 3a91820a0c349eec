from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.errors import DataError
from derta.metrics.cuts import calibrate_bias, calibrate_by_depth, calibrate_cut
from derta.stats import auc_interval, clopper_pearson
from derta.thresholds import alarms_in


def test_the_threshold_is_just_above_the_conformal_order_statistic():
    # n = 9, rate 0.2: r = ceil(0.8 * 10) = 8, so the threshold is above the 8th smallest, and one reply is an alarm
    replies = [[0.0, place / 10] for place in range(1, 10)]
    cut = calibrate_cut(replies, false_alarm=0.2)
    assert (cut.value, cut.alarms, cut.cases) == (0.800001, 1, 9)
    assert (cut.low, cut.high) == clopper_pearson(1, 9)


def test_the_interval_is_exact():
    # no alarm in n: the upper end is 1 - 0.025 ** (1 / n); all: the lower end is 0.025 ** (1 / n)
    assert clopper_pearson(0, 99) == (0, pytest.approx(1 - 0.025 ** (1 / 99)))
    assert clopper_pearson(7, 7) == (pytest.approx(0.025 ** (1 / 7)), 1)
    assert clopper_pearson(2, 10) == (pytest.approx(0.0252, abs=1e-4), pytest.approx(0.5561, abs=1e-4))


@pytest.mark.parametrize("score", [0.5, 0.99, 0.1 + 0.2])  # 0.99 is a little less than 0.990000
def test_equal_scores_are_no_alarms(score):
    cut = calibrate_cut([[score]] * 20, false_alarm=0.3)
    assert (cut.value, cut.alarms) == (pytest.approx(score + 1e-6), 0)


def test_positions_are_counted_with_an_interval_by_reply():
    replies = [[0.1] * 9 + [0.9]] + [[0.1] * 10] * 9
    cut = calibrate_cut(replies, false_alarm=0.02, per="position")
    # 100 positions, rate 0.02: r = ceil(0.98 * 101) = 99; the 99th smallest is 0.1
    assert (cut.value, cut.alarms, cut.cases) == (0.100001, 1, 100)
    assert cut.low < 0.01 < cut.high


@given(st.lists(st.floats(0, 0.99), min_size=30, max_size=60), st.sampled_from((0.05, 0.1, 0.5)))
def test_the_share_of_alarms_in_the_calibration_is_at_most_the_rate(scores, false_alarm):
    cut = calibrate_cut([[score] for score in scores], false_alarm=false_alarm)
    assert cut.alarms == sum(score >= cut.value for score in scores) <= false_alarm * len(scores) + 1e-9
    assert cut.low <= cut.alarms / len(scores) <= cut.high


@given(st.lists(st.floats(-50, 50), min_size=30, max_size=60), st.sampled_from((0.05, 0.1, 0.5)))
def test_a_larger_bias_would_exceed_the_rate(margins, false_alarm):
    cut = calibrate_bias([[margin, 60.0] for margin in margins], false_alarm=false_alarm)
    assert cut.alarms <= false_alarm * len(margins) + 1e-9
    more = sum(margin < cut.value + 0.0021 for margin in margins)
    assert (more + 1) / (len(margins) + 1) > false_alarm - 1e-9


def test_the_bias_of_a_model_that_refuses_benign_requests_is_negative():
    # n = 4, rate 0.4: r = 3, so one reply may be an alarm; the second smallest margin is -2
    assert calibrate_bias([[-3.0], [-2.0, 7.0], [1.0], [4.0]], false_alarm=0.4)[:2] == (-2.001, 1)
    assert calibrate_bias([[900.0]] * 4, false_alarm=0.4).value == 100


@pytest.mark.parametrize(
    ("replies", "rate", "message"),
    [
        ([[0.1]] * 98, 0.01, "expected at least 99 benign replies for a false-alarm rate of 0.01, got 98"),
        ([], 0.5, "expected at least 1 benign replies"),
        ([[0.1]], 1.0, "expected a rate between 0 and 1"),
        ([[1.0]] * 9, 0.2, "at a refusal probability of 1, got more"),
    ],
)
def test_what_cannot_be_calibrated_is_an_error(replies, rate, message):
    with pytest.raises(DataError, match=message):
        calibrate_cut(replies, false_alarm=rate)


def test_each_depth_has_a_threshold_of_its_own_scale():
    # all replies have 0.2 at the first token, 0.01 after 1 to 5 tokens and 0.4 after 6, times a factor of 1 to 40
    rows = [[0.002 * k, *[0.0001 * k] * 5, 0.004 * k] for k in range(1, 41)]
    cut = calibrate_by_depth(rows, false_alarm=0.1, rng=Random(0))
    assert [first for first, _ in cut.later] == [1, 6]
    assert cut.later[0][1] == pytest.approx(cut.value / 20)
    assert cut.later[1][1] == pytest.approx(cut.value * 2)
    # 20 replies calibrate: r = ceil(0.9 * 21) = 19, so one of them is an alarm
    assert (cut.alarms, cut.cases) == (1, 20)
    assert (cut.low, cut.high) == clopper_pearson(1, 20)
    # harmful answers with a small but unusual probability at depth are found, which one threshold cannot
    harmful = [0.0, *[0.02] * 5, 0.0]
    assert alarms_in(harmful, cut.value, cut.later)
    assert max(harmful) < calibrate_cut(rows, false_alarm=0.1).value


def test_rare_large_probabilities_do_not_set_the_scale_of_a_depth():
    rows = [[0.2, 0.02]] * 38 + [[0.9, 0.02]] * 2  # 2 of 20 are above the 0.9-quantile of a half
    for seed in range(4):
        cut = calibrate_by_depth(rows, false_alarm=0.1, rng=Random(seed))
        assert cut.later[0][1] == pytest.approx(cut.value / 10)


def test_by_depth_the_rate_of_new_replies_is_kept_on_average():
    rng = Random(5)
    draw = lambda: [rng.random() ** 3, *(rng.random() ** 9 for _ in range(rng.randrange(30)))]  # noqa: E731
    rates = []
    for seed in range(60):
        cut = calibrate_by_depth([draw() for _ in range(60)], false_alarm=0.1, rng=Random(seed))
        rates.append(sum(alarms_in(draw(), cut.value, cut.later) for _ in range(100)) / 100)
    assert (
        sum(rates) / len(rates) < 0.11
    )  # expected: at most 3/31 = 0.097; the mean of 6,000 draws has an error of 0.006


def test_half_of_the_replies_must_suffice():
    with pytest.raises(DataError, match=r"expected at least 9 benign replies in each half .* got 8"):
        calibrate_by_depth([[0.1]] * 17, false_alarm=0.1, rng=Random(0))
    with pytest.raises(DataError, match="got 0"):
        calibrate_by_depth([], false_alarm=0.1, rng=Random(0))


def test_an_area_of_one_has_an_interval():
    low, high = auc_interval(1.0, 20, 20)
    # (1 - x)^2 = z^2 x (1 - x) (1 + 19 (1 - x) / (2 - x) + 19 x / (1 + x)) / 400 at x = 0.8987
    assert (low, high) == (pytest.approx(0.8987, abs=1e-4), 1)
    assert auc_interval(0.0, 20, 20) == (0, pytest.approx(1 - low))
