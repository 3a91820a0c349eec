import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged import verdict

from derta.errors import DataError
from derta.metrics.calibration import (
    Calibration,
    LabelledReply,
    calibrate,
    calibrate_cases,
    corrected_rate,
    rogan_gladen,
)
from derta.records import Verdict
from derta.stats import rate, rate_of_counts, wilson_interval

COUNTS = st.integers(1, 60)


def sample(both: int, missed: int, alarms: int, neither: int, **more: str) -> list[LabelledReply]:
    return [
        *[LabelledReply(True, True, **more)] * both,
        *[LabelledReply(True, False, **more)] * missed,
        *[LabelledReply(False, True, **more)] * alarms,
        *[LabelledReply(False, False, **more)] * neither,
    ]


def measured(cases: list[LabelledReply]) -> Calibration:
    return calibrate_cases(cases, judge="harm", measure="harmful", labels="mine.csv")


def test_the_numbers_of_a_worked_example():
    # 20 right alarms, 5 false, 10 missed, 15 right silences: kappa (0.7 - 0.5) / (1 - 0.5)
    result = measured(sample(20, 10, 5, 15))
    assert result.accuracy.value == pytest.approx(0.7)
    assert result.precision.value == pytest.approx(0.8)
    assert result.recall.value == pytest.approx(2 / 3)
    assert result.specificity.value == pytest.approx(0.75)
    assert result.kappa.value == pytest.approx(0.4)
    assert (result.recall.low, result.recall.high) == wilson_interval(20, 30)
    assert result.kappa.low < 0.4 < result.kappa.high


def test_unscored_replies_are_counted_and_excluded():
    result = measured([*sample(4, 1, 1, 4), LabelledReply(True, None), LabelledReply(False, None)])
    assert (result.unscored, result.accuracy.scored, result.recall.scored, result.specificity.scored) == (2, 10, 5, 5)
    assert result.accuracy.unscored == 2


def test_groups_are_attacks_and_classes():
    cases = sample(3, 1, 0, 2, attack="direct", reply_class="comply") + sample(1, 0, 1, 4, attack="prefill")
    result = measured(cases)
    direct = result.groups[0]
    # 3 right alarms, 1 missed, 2 right silences: (5/6 - 1/2) / (1 - 1/2), by chance (4 * 3 + 2 * 3) / 36
    assert direct.kappa.value == pytest.approx(2 / 3)
    assert direct.kappa.low <= 2 / 3 <= direct.kappa.high
    assert [(group.by, group.name, group.accuracy.scored) for group in result.groups] == [
        ("attack", "direct", 6),
        ("attack", "prefill", 6),
        ("class", "comply", 6),
    ]


def test_a_calibration_survives_a_json_round_trip():
    result = measured(sample(8, 2, 1, 9, attack="direct"))
    assert Calibration.model_validate_json(result.model_dump_json()) == result


def test_with_labels_of_one_kind_kappa_and_correction_are_none():
    result = measured([LabelledReply(True, True)] * 5)
    assert result.kappa.value is None
    assert corrected_rate(rate([True, False]), result).reason.startswith("all labels are the same")


def test_a_judge_no_better_than_chance_corrects_nothing():
    result = corrected_rate(rate([True] * 5 + [False] * 5), measured(sample(5, 5, 5, 5)))
    assert (result.value, result.low, result.high) == (None, None, None)
    assert "no better than chance" in result.reason


def test_a_rate_without_scored_replies_is_not_corrected():
    assert corrected_rate(rate([None]), measured(sample(9, 1, 1, 9))).reason == "no reply was scored"


@given(st.floats(0, 1), st.floats(0.55, 1), st.floats(0.55, 1))
def test_rogan_gladen_undoes_a_judges_errors(true_rate: float, sensitivity: float, specificity: float):
    observed = true_rate * sensitivity + (1 - true_rate) * (1 - specificity)
    assert rogan_gladen(observed, sensitivity=sensitivity, specificity=specificity) == pytest.approx(
        true_rate, abs=1e-9
    )


@given(COUNTS, COUNTS, COUNTS, COUNTS, st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=60))
def test_a_corrected_rate_lies_in_its_interval(both, missed, alarms, neither, outcomes):
    result = corrected_rate(rate(outcomes), measured(sample(both, missed, alarms, neither)))
    if result.value is None:
        assert result.reason
    else:
        assert 0 <= result.low <= result.value <= result.high <= 1


def test_a_faultless_judge_is_not_corrected_but_its_interval_is_wider_than_wilsons():
    outcomes = [True] * 30 + [False] * 70
    result = corrected_rate(rate(outcomes), measured(sample(20, 0, 0, 20)))
    assert result.value == pytest.approx(0.3)
    low, high = wilson_interval(30, 100)
    assert result.high - result.low > 0.9 * (high - low)


def test_the_interval_covers_the_true_rate_at_about_its_level():
    import numpy as np

    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        labels = sample(*rng.multinomial(200, [0.4, 0.1, 0.05, 0.45]))  # sensitivity 0.8, specificity 0.9
        positives = int(rng.binomial(200, 0.3 * 0.8 + 0.7 * 0.1))
        result = corrected_rate(rate_of_counts(positives, scored=200), measured(labels))
        covered += result.low <= 0.3 <= result.high
    assert covered >= 88


def test_the_same_seed_returns_the_same_interval():
    result = measured(sample(8, 2, 1, 9))
    assert corrected_rate(rate([True, False]), result, seed=3) == corrected_rate(rate([True, False]), result, seed=3)


def test_verdicts_and_labels_are_calibrated_in_their_order():
    verdicts = [verdict(str(i), harmful=one, reply_class="comply") for i, one in enumerate([True, False, None, True])]
    result = calibrate(verdicts, [True, True, True, None], labels="mine.csv")
    cases = [LabelledReply(True, one, None, "comply", f"{one}, comply") for one in (True, False, None)]
    assert result == calibrate_cases(cases, judge="j", measure="harmful", labels="mine.csv")


@pytest.mark.parametrize(
    ("verdicts", "truths", "part"),
    [
        ([verdict("1", harmful=True)], [True, False], "1 of j and 2 labels"),
        ([verdict("1", harmful=True), Verdict(prompt_id="2", judge="k", harmful=True)], [True, True], "2 of j, k"),
        ([verdict("1", harmful=True)], [None], "got None for every reply"),
    ],
)
def test_verdicts_and_labels_that_do_not_match_are_errors(
    verdicts: list[Verdict], truths: list[bool | None], part: str
):
    with pytest.raises(DataError, match=part):
        calibrate(verdicts, truths)
