import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.errors import DataError
from derta.stats import auc_interval, clopper_pearson
from derta.thresholds import RefusalThreshold, calibrate_bias, calibrate_cut, read_threshold

VALUES = {
    "threshold": 0.25,
    "token_ids": [5, 9],
    "model": {"model": "0f"},
    "false_alarm": 0.01,
    "alarms": 0,
    "cases": 99,
    "replies": 99,
    "low": 0.0,
    "high": 0.03,
    "logit_bias": -1.5,
    "bias_alarms": 0,
}


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


def test_equal_scores_are_no_alarms():
    assert calibrate_cut([[0.5]] * 20, false_alarm=0.3)[:2] == (0.500001, 0)


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


def test_a_threshold_is_read_as_it_was_written(tmp_path):
    threshold = RefusalThreshold.model_validate(VALUES)
    threshold.write(tmp_path / "threshold.json")
    assert read_threshold(tmp_path / "threshold.json") == threshold
    assert threshold.openai_logit_bias == {"5": -1.5, "9": -1.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected the file of `derta threshold`, got invalid JSON"),
        ("[]", "not a refusalthreshold"),
        (json.dumps(VALUES | {"threshold": 0}), "threshold: Input should be greater than 0"),
        (json.dumps(VALUES | {"threshold": "NaN"}), "threshold"),
    ],
)
def test_another_file_is_no_threshold(tmp_path, text, message):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_threshold(tmp_path / "other.json")


def test_an_area_of_one_has_an_interval():
    low, high = auc_interval(1.0, 20, 20)
    # (1 - x)^2 = z^2 x (1 - x) (1 + 19 (1 - x) / (2 - x) + 19 x / (1 + x)) / 400 at x = 0.8987
    assert (low, high) == (pytest.approx(0.8987, abs=1e-4), 1)
    assert auc_interval(0.0, 20, 20) == (0, pytest.approx(1 - low))
