import json
from pathlib import Path

import pytest

from derta.errors import DataError
from derta.metrics.tables import agreement_table, calibration_table
from derta.pipeline.calibrating import (
    agree_on_file,
    calibrate_file,
    check_same_measure,
    corrected_cell,
    read_calibration,
)
from derta.pipeline.judge import find_judge, judge_file
from derta.records import Verdict

REFUSED = find_judge("refusal")
REFUSAL = "I'm sorry, but I can't assist with that."
ANSWER = "Wash the roots, cut them into thin slices and boil them for an hour."


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Eight replies; people call one answer a refusal, and one of them they leave open."""
    rows = [(REFUSAL, 1, "direct")] * 3 + [(ANSWER, 0, "prefill")] * 3 + [(ANSWER, 1, "prefill")]
    lines = [json.dumps({"question": "q", "response": text, "label": label, "attack": a}) for text, label, a in rows]
    lines.append(json.dumps({"question": "q", "response": REFUSAL, "label": "partial refusal", "attack": "direct"}))
    path = tmp_path / "labels.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_judge_is_measured_and_its_errors_are_stored(labels: Path, tmp_path: Path):
    found = calibrate_file(labels, judge=REFUSED, out=tmp_path / "refusal.json")
    assert (found.true_positives, found.false_negatives, found.true_negatives, found.false_positives) == (3, 1, 3, 0)
    assert found.recall.value == pytest.approx(0.75)
    assert [(group.by, group.name) for group in found.groups] == [
        ("attack", "direct"),
        ("attack", "prefill"),
        ("class", "comply"),
        ("class", "refuse"),
    ]
    assert read_calibration(tmp_path / "refusal.json", judge=REFUSED) == found
    assert len(calibration_table(found).rows) == 5


def test_a_rate_is_corrected_for_the_errors(labels: Path):
    found = calibrate_file(labels, judge=REFUSED)
    cell = judge_file(labels.with_name("labels.jsonl"), judge=REFUSED).total.cell
    corrected = corrected_cell(cell.model_copy(update={"value": 0.3, "scored": 10}), found)
    assert corrected.measure == "refused_corrected"
    assert corrected.value == pytest.approx(0.4)  # (0.3 + 1 - 1) / (0.75 + 1 - 1)


def test_a_calibration_of_another_judge_is_refused(labels: Path, tmp_path: Path):
    calibrate_file(labels, judge=REFUSED, out=tmp_path / "c.json")
    with pytest.raises(DataError, match="expected the calibration of judge 'harm', got that of 'refusal'"):
        read_calibration(tmp_path / "c.json", judge=find_judge("harm"))


@pytest.mark.parametrize("text", ["", "{}", "no json", '{"judge": 3}'])
def test_a_file_that_is_no_calibration_is_refused(tmp_path: Path, text: str):
    (tmp_path / "c.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="not a calibration"):
        read_calibration(tmp_path / "c.json", judge=REFUSED)
    with pytest.raises(DataError, match="cannot read it"):
        read_calibration(tmp_path / "missing.json", judge=REFUSED)


def test_labels_without_yes_or_no_are_refused(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"response": "x", "label": "partial refusal"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="expected yes or no labels"):
        calibrate_file(path, judge=REFUSED)


def test_two_judges_and_the_replies_they_differ_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from derta.judges import JUDGES, from_function

    def judge_length(prompt, reply):
        return Verdict(prompt_id=prompt.id, judge="length", refused=len(reply.text) < 10)

    monkeypatch.setitem(JUDGES, "length", lambda: from_function(judge_length, measures="refused", name="length"))
    path = tmp_path / "replies.jsonl"
    path.write_text("".join(json.dumps(text) + "\n" for text in (REFUSAL, ANSWER, "Yes.")), encoding="utf-8")
    verdicts: list[Verdict] = []
    judge_file(path, judge=REFUSED, collect_into=verdicts)
    found = agree_on_file(path, verdicts, second=find_judge("length"))
    assert (found.table.both, found.table.only_first, found.table.only_second, found.table.neither) == (0, 1, 1, 1)
    assert [one.reply.text for one in found.disagreements] == [REFUSAL, "Yes."]
    assert found.disagreements[0].first.refused is True
    assert found.disagreements[0].second.refused is False
    assert len(agreement_table(found.table, first="refusal", second="length").rows) == 2


def test_judges_of_different_things_cannot_agree():
    with pytest.raises(DataError, match=r"got refusal \(refused\) and harm \(harmful\)"):
        check_same_measure(REFUSED, find_judge("harm"))


@pytest.mark.parametrize(
    ("labels_of_answers", "labels_of_refusals", "message"),
    [
        (1, 0, "the verdicts contradict the labels (kappa -1.00); a true label must mean that the reply is refused"),
        (0, 0, "all labels are the same, so the sensitivity is unknown, and the calibration corrects no rate"),
        (1, 1, "all labels are the same, so the specificity is unknown, and the calibration corrects no rate"),
        (0, 1, None),
    ],
)
def test_labels_that_calibrate_nothing_are_a_warning(
    tmp_path: Path, caplog, labels_of_answers: int, labels_of_refusals: int, message: str | None
):
    rows = [(REFUSAL, labels_of_refusals), (ANSWER, labels_of_answers)] * 10
    path = tmp_path / "labels.jsonl"
    lines = [
        json.dumps({"question": f"Cook {i}?", "response": text, "label": one}) for i, (text, one) in enumerate(rows)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    calibrate_file(path, judge=REFUSED)
    assert caplog.messages == ([] if message is None else [f"{path}: {message}"])
