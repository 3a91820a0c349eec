import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.metrics.roc import DEPTHS, auc, auc_cells, detections, roc_curves, scores_at
from derta.stats import auc_interval, wilson_interval

BY_NAME = {depth.name: depth for depth in DEPTHS}


def test_depths_count_the_tokens_before_a_position():
    row = [0.01 * place for place in range(60)]
    found = {depth.name: scores_at([row, [0.9, 0.1]], depth) for depth in DEPTHS}
    assert found == {
        "first token": [0.0, 0.9],
        "after 1 to 5 tokens": [0.05, 0.1],
        "after 6 to 20 tokens": [0.2],
        "after 21 to 50 tokens": [0.5],
        "after 51 tokens or more": [0.59],
        "whole answer": [0.59, 0.9],
    }


def test_the_area_counts_pairs():
    # of 6 pairs the harmful score is higher in 4 (0.9 over all three, 0.3 over 0.1), equal in one
    assert auc([0.9, 0.3], [0.1, 0.3, 0.5]) == pytest.approx((4 + 0.5) / 6)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_the_area_is_the_mann_whitney_statistic(harmful, benign):
    pairs = [(high > low) + 0.5 * (high == low) for high in harmful for low in benign]
    assert auc(harmful, benign) == pytest.approx(sum(pairs) / len(pairs))


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=20),
    st.lists(st.integers(0, 9), min_size=1, max_size=20),
    st.floats(0, 0.99),
)
def test_detections_are_those_of_the_best_threshold_at_the_rate(harmful, benign, rate):
    thresholds = [value + 0.5 for value in range(-1, 10)]
    allowed = [t for t in thresholds if sum(one >= t for one in benign) <= rate * len(benign) + 1e-9]
    assert detections(harmful, benign, false_alarm=rate) == max(sum(one >= t for one in harmful) for t in allowed)


def test_a_curve_has_the_detections_at_each_rate_of_false_alarms():
    harmful = [[0.9, 0.2], [0.4, 0.8], [0.05, 0.7]]
    benign = [[0.1, 0.3], [0.5, 0.1]]
    first, later, whole = roc_curves([(0, harmful, benign)], method="derta")
    assert [curve.name for curve in (first, later, whole)] == ["first token", "after 1 to 5 tokens", "whole answer"]
    by_rate = dict(zip(first.x, first.y, strict=True))
    # first tokens: 0.9, 0.4, 0.05 against 0.1, 0.5; with one false alarm (0.5) the threshold is above 0.1
    assert by_rate[0] == by_rate[40] == pytest.approx(1 / 3)
    assert by_rate[50] == by_rate[90] == pytest.approx(2 / 3)
    assert by_rate[100] == 1
    assert (first.kind, first.count, first.x_unit) == ("roc", 3, "% false alarms")
    assert all(low <= y <= high for low, y, high in zip(first.low or (), first.y, first.high or (), strict=True))


def test_the_seeds_of_a_curve_have_thresholds_of_their_own():
    # the second seed's probabilities are a tenth of the first's: one threshold for both would detect half at most
    runs = [(0, [[0.9], [0.8]], [[0.5], [0.4]]), (1, [[0.09], [0.08]], [[0.05], [0.04]])]
    first, _ = roc_curves(runs, method="derta")
    assert (first.y[0], first.count) == (1.0, 4)
    assert (first.low or ())[0] == pytest.approx(wilson_interval(2, 2)[0])


def test_the_areas_of_seeds_are_averaged_with_the_interval_of_one_seed():
    harmful, benign = [[0.9], [0.4]], [[0.1], [0.5]]
    cells = list(auc_cells([(0, harmful, benign), (1, benign, harmful)], method="derta"))
    first = {cell.seed: cell for cell in cells if cell.name == "first token"}
    assert [first[seed].value for seed in (0, 1, None)] == [0.75, 0.25, 0.5]
    assert (first[None].low, first[None].high) == auc_interval(0.5, 2, 2)
    assert {cell.name for cell in cells} == {"first token", "whole answer"}
    assert (first[0].suite, first[0].measure, first[0].scored) == ("analysis", "auc", 4)


def test_without_benign_answers_there_is_nothing_to_tell_apart():
    assert list(roc_curves([(0, [[0.5]], [])], method="derta")) == []
    assert list(auc_cells([(0, [[0.5]], [])], method="derta")) == []
