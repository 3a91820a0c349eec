import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.errors import DataError
from derta.formats.labels import BOTH, WORDS, UnknownLabelError, label_of_word, read_labels
from derta.pipeline.calibrating import calibrate_file
from derta.pipeline.judge import find_judge
from derta.protocols import Display


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("measure", ["harmful", "refused", "correct"])
@pytest.mark.parametrize("word", BOTH)
def test_every_judge_takes_zero_and_one(tmp_path: Path, measure, word: str):
    [case] = read_labels(jsonl(tmp_path / "a.jsonl", {"response": "x", "label": word}), measure=measure)
    assert case.truth is BOTH[word]


@pytest.mark.parametrize(("measure", "word"), [(measure, word) for measure, words in WORDS.items() for word in words])
def test_every_listed_word_is_a_label(tmp_path: Path, measure, word: str):
    [case] = read_labels(jsonl(tmp_path / "a.jsonl", {"response": "x", "label": word.title()}), measure=measure)
    assert case.truth is WORDS[measure][word]


@pytest.mark.parametrize("value", [1, True, 1.0])
def test_json_numbers_and_truths_are_labels(tmp_path: Path, value: object):
    [case] = read_labels(jsonl(tmp_path / "a.jsonl", {"response": "x", "label": value}), measure="harmful")
    assert case.truth is True


def test_columns_of_others_are_known_by_their_names(tmp_path: Path):
    path = tmp_path / "gptfuzz.csv"
    path.write_text("question,Response,label\n80,Sure,1\n", encoding="utf-8")
    [case] = read_labels(path, measure="harmful")
    assert (case.prompt.request, case.reply.text, case.truth, case.attack) == (None, "Sure", True, None)
    assert case.prompt.request_id == "80"
    path.write_text("prompt,completion,final_label,Attack\nq,c,2_full_refusal,direct\n", encoding="utf-8")
    [case] = read_labels(path, measure="refused")
    assert (case.prompt.request, case.reply.text, case.truth, case.attack) == ("q", "c", True, "direct")


def test_a_file_without_requests_can_be_judged(tmp_path: Path):
    [case] = read_labels(jsonl(tmp_path / "a.jsonl", {"response": "x", "harmful": False}), measure="harmful")
    assert case.prompt.request is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": 1}, "an object with a column response or reply or completion"),
        ({"response": "x"}, "expected a column harmful or"),
        ({"response": "x", "label": "perhaps"}, "got 'perhaps'"),
        ({"response": "x", "label": "1_full_compliance"}, "got '1_full_compliance'"),
        ({"response": [1], "label": 1}, "response: expected text"),
        ("x", "expected an object"),
    ],
)
def test_a_malformed_row_is_reported_by_file_and_line(tmp_path: Path, row: object, message: str):
    with pytest.raises(DataError, match=message) as caught:
        list(read_labels(jsonl(tmp_path / "a.jsonl", {"response": "y", "label": 0}, row), measure="harmful"))
    assert "a.jsonl:2" in str(caught.value)


def test_an_empty_file_is_reported(tmp_path: Path):
    with pytest.raises(DataError, match="expected rows"):
        list(read_labels(jsonl(tmp_path / "a.jsonl"), measure="harmful"))


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.lists(st.text(max_size=3), max_size=2)


@given(st.lists(st.dictionaries(st.sampled_from(["question", "Response", "label", "attack"]), VALUES), max_size=3))
def test_any_row_is_a_case_or_a_reported_mistake(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]
):
    rows = [row | {"note": f"row {number}"} for number, row in enumerate(rows)]  # a number alone would be an index
    path = jsonl(tmp_path_factory.mktemp("labels") / "a.jsonl", *rows)
    message = "a.jsonl"
    try:
        assert len(list(read_labels(path, measure="harmful"))) == sum(
            len(one) if isinstance(one := row["Response"], list) else one is not None for row in rows
        )
    except DataError as error:
        message = str(error)
    assert "a.jsonl" in message


@pytest.mark.parametrize(
    ("word", "measure", "truth"),
    [
        ("2_full_refusal", "refused", True),
        ("1. Full compliance", "refused", False),
        ("FULL_REFUSAL", "refused", True),
        (" Refusal ", "refused", True),
        ("non-refusal", "refused", False),
        ("not refused", "refused", False),
        ("Refuses", "refused", True),
        ("answered", "refused", False),
        ("3_partial_refusal", "refused", None),
        ("T", "refused", True),
        ("benign", "harmful", False),
        ("un-safe", "harmful", "unknown"),
        ("not safe", "harmful", True),
        ("Non-Harmful", "harmful", False),
        ("not jailbroken", "harmful", False),
        ("-1", "harmful", "unknown"),
        ("2", "harmful", "unknown"),
        ("not partial refusal", "refused", "unknown"),
        ("not", "harmful", "unknown"),
        ("toxic", "harmful", "unknown"),
    ],
)
def test_a_word_is_a_label_without_its_case_separators_number_and_negation(word: str, measure, truth: object):
    try:
        assert label_of_word(word, {**BOTH, **WORDS[measure]}) == truth
    except UnknownLabelError:
        assert truth == "unknown"


@pytest.mark.parametrize("missing", [None, "", " ", float("nan")])
def test_a_reply_without_a_label_is_left_out_and_counted(
    tmp_path: Path, missing: object, caplog: pytest.LogCaptureFixture
):
    rows = [{"question": f"Q{i}?", "response": "x", "label": label} for i, label in enumerate([1, missing, 0])]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert [(case.truth, case.unlabelled) for case in read_labels(path, measure="refused")] == [
        (True, False),
        (None, True),
        (False, False),
    ]
    calibrate_file(path, judge=find_judge("refusal"), display=Display())
    assert f"{path}: 1 of 3 replies have no label and are ignored" in caplog.messages
