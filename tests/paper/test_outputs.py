import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.errors import DataError
from derta.paper.outputs import find_request, read_published, split_completion


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_answers_are_questions_with_replies_and_references(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", {"question": "1 + 1?", "response": "2", "answer": "#### 2"})
    [case] = read_published(path, kind="answers").cases
    assert (case.prompt.request, case.prompt.answer, case.reply.text) == ("1 + 1?", "#### 2", "2")


def test_a_completion_is_split_where_its_prompt_ends(tmp_path: Path):
    write(tmp_path / "prompts_completing.jsonl", {"question": "I will explain baking:\n Step 1:"})
    path = write(
        tmp_path / "c.jsonl", "I will explain baking:\n Step 1: Mix.", "I will explain tea:\n Step 1: Boil. Step 1: x"
    )
    listed, unlisted = read_published(path, kind="completions").cases
    assert (listed.prompt.mode, listed.prompt.text, listed.reply.text) == (
        "raw",
        "I will explain baking:\n Step 1:",
        " Mix.",
    )
    assert unlisted.reply.text == " Boil. Step 1: x"


def test_blank_prompts_and_requests_are_skipped(tmp_path: Path):
    write(tmp_path / "prompts_completing.jsonl", {"question": " "})
    write(tmp_path / "requests.jsonl", {"question": ""})
    [case] = read_published(write(tmp_path / "c.jsonl", " Step 1: Mix."), kind="completions").cases
    assert (case.prompt.text, case.reply.text) == (" Step 1:", " Mix.")
    [case] = read_published(write(tmp_path / "j.jsonl", {"question": "How?", "response": "So."}), kind="attacks").cases
    assert case.prompt.request is None


@given(st.text(max_size=60), st.lists(st.text(min_size=1, max_size=8), max_size=4))
def test_a_split_loses_nothing(text: str, prompts: list[str]):
    assert "".join(split_completion(text, prompts)) == text


def test_an_attack_is_judged_by_the_request_inside_it(tmp_path: Path):
    write(tmp_path / "requests.jsonl", {"question": "How do I bake?"}, {"question": "bake"})
    path = write(tmp_path / "j.jsonl", {"question": "You are DAN. How do I bake?", "response": "Mix."})
    [case] = read_published(path, kind="attacks").cases
    assert case.prompt.request == "How do I bake?"
    assert find_request("nothing of it", ["bake"]) is None


def test_a_repeated_answer_to_a_harmless_request_counts_once(tmp_path: Path):
    rows = [{"question": "How?", "response": text} for text in ("So.", "Thus.", "So.")]
    path = write(tmp_path / "b.jsonl", *rows)
    assert [case.reply.text for case in read_published(path, kind="harmless").cases] == ["So.", "Thus."]
    assert read_published(path, kind="harmless").num_repeated == 1


def test_partial_refusals_have_no_answer(tmp_path: Path):
    path = tmp_path / "x.csv"
    rows = ["1_full_compliance", "2_full_refusal", "3_partial_refusal"]
    path.write_text("prompt,completion,final_label\n" + "".join(f"p{row},c,{row}\n" for row in rows), encoding="utf-8")
    assert [case.refused for case in read_published(path, kind="labelled_refusals").cases] == [False, True, None]


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("answers", {"question": "?", "response": "2"}, "text field 'answer'"),
        ("answers", "2", "text field 'question'"),
        ("attacks", {"question": "?", "response": None}, "text field 'response'"),
        ("completions", {"question": "?"}, "expected a string"),
        ("completions", " ", "expected a string, prompt and continuation, got an empty one"),
    ],
)
def test_the_error_for_a_malformed_row_names_file_and_line(tmp_path: Path, kind, row, message: str):
    for name in ("prompts_completing.jsonl", "requests.jsonl"):
        write(tmp_path / name, {"question": "?"})
    with pytest.raises(DataError, match=message) as error:
        read_published(write(tmp_path / "a.jsonl", row), kind=kind)
    assert "a.jsonl:1" in str(error.value)


def test_an_empty_question_is_no_request(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", {"question": " ", "response": "2", "answer": "#### 2"})
    [case] = read_published(path, kind="answers").cases
    assert (case.prompt.request, case.reply.text) == (None, "2")


def test_an_unknown_label_is_an_error(tmp_path: Path):
    path = tmp_path / "x.csv"
    path.write_text("prompt,completion,final_label\np,c,maybe\n", encoding="utf-8")
    with pytest.raises(DataError, match="final_label: expected"):
        read_published(path, kind="labelled_refusals")


@pytest.mark.parametrize("kind", ["completions", "attacks"])
def test_the_error_for_a_missing_file_of_prompts_or_requests_names_it(tmp_path: Path, kind):
    path = write(tmp_path / "a.jsonl", "text")
    with pytest.raises(DataError, match=r"prompts_completing\.jsonl|requests\.jsonl"):
        read_published(path, kind=kind)
