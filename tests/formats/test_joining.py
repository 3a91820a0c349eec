"""Requests from another file: by id, or by the start of a text."""

import json
from pathlib import Path

import pytest

from derta.errors import DataError
from derta.formats.joining import read_requests
from derta.formats.labels import read_labels
from derta.formats.replies import read_cases
from small_run import write_jsonl

TEA, RYE = "How is tea made?", "How is rye bread baked?"


def test_completions_get_the_behaviour_of_their_id(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    table = tmp_path / "behaviors.csv"
    table.write_text(f"Behavior,SemanticCategory,ContextString,BehaviorID\n{TEA},food,,tea\n{RYE},food,A mill.,rye\n")
    path = tmp_path / "completions.json"
    rows = {name: [{"test_case": f"Pretend. {name}", "generation": "No."}] for name in ("tea", "rye", "oat")}
    path.write_text(json.dumps(rows))
    cases = list(read_cases(path, prompts_path=table))
    assert [case.prompt.request for case in cases] == [TEA, f"A mill.\n\n---\n\n{RYE}", "Pretend. oat"]
    assert [(case.prompt.messages or ())[0].content for case in cases] == [f"Pretend. {name}" for name in rows]
    assert f"{table}: 1 of 3 rows have no request there" in caplog.text


def test_an_index_of_a_question_becomes_the_question(tmp_path: Path):
    table = write_jsonl(
        tmp_path / "questions.jsonl", [{"index": i, "question": one} for i, one in enumerate((TEA, RYE))]
    )
    path = tmp_path / "labels.csv"
    path.write_text("question,Response,label\n1,Mix.,1\n0,No.,0\n0,No.,0\n")
    assert [case.prompt.request for case in read_cases(path, prompts_path=table)] == [RYE, TEA]  # the last repeats
    assert [case.prompt.request for case in read_cases(path)] == [None] * 3
    labelled = read_labels(path, measure="harmful", prompts_path=table)
    assert [(case.prompt.request, case.truth) for case in labelled] == [(RYE, True), (TEA, False)]


def test_a_text_is_split_where_its_prompt_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"question": "I will"}, {"question": "I will explain tea:"}])
    texts = ["I will explain tea: Boil.", "I will explain tea: Boil.", "You say: so."]
    listed, unlisted = read_cases(write_jsonl(tmp_path / "a.jsonl", texts), prompts_path=prompts)
    assert (listed.prompt.mode, listed.prompt.text, listed.reply.text) == ("raw", "I will explain tea:", " Boil.")
    assert (unlisted.prompt.request, unlisted.reply.text) == (None, "You say: so.")
    assert "1 of 3 rows have no request there" in caplog.text
    assert "1 of 3 rows repeat another row" in caplog.text


def test_the_command_takes_a_file_of_requests(derta, tmp_path: Path):
    prompts = write_jsonl(tmp_path / "prompts.jsonl", ["I will explain tea:", "I will explain rye:"])
    first, second = (
        write_jsonl(tmp_path / f"{name}.jsonl", [f"I will explain {one}: {text}" for one in order])
        for name, order, text in (
            ("a", ("tea", "rye"), "Boil."),
            ("b", ("rye", "tea"), "Sorry, I cannot help with that."),
        )
    )
    called = derta("compare", first, second, "--judge", "refusal", "--prompts", prompts, "--json")
    assert called.code == 0, called.err
    [row] = json.loads(called.out)
    assert (row["pairs"], row["only_second"]) == (2, 2)
    rows = [{"request_id": "tea", "response": "Sorry, I cannot help with that.", "refused": 1}]
    labels, table = (
        write_jsonl(tmp_path / "l.jsonl", rows),
        write_jsonl(tmp_path / "t.jsonl", [{"id": "tea", "text": TEA}]),
    )
    called = derta("calibrate", "--labels", labels, "--judge", "refusal", "--prompts", table, "--json")
    assert json.loads(called.out)["accuracy"]["value"] == 1, called.err
    assert "no request" not in called.err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": 1, "question": TEA}, {"id": 1, "question": RYE}], r"r\.jsonl:2: expected one request for each id"),
        ([{"note": TEA}], "expected requests .*, found none"),
        ([{"id": 1, "question": [TEA]}], r"r\.jsonl:1: question: expected text"),
    ],
)
def test_a_file_that_holds_no_requests_is_one_line(tmp_path: Path, rows, message):
    with pytest.raises(DataError, match=message):
        read_requests(write_jsonl(tmp_path / "r.jsonl", rows))


def test_the_input_of_a_batch_has_the_requests_of_its_output(tmp_path: Path):
    rows = [
        {"custom_id": f"r{i}", "body": {"messages": [{"role": "user", "content": text}]}}
        for i, text in enumerate(["Tea?", "Rye?"])
    ]
    requests = write_jsonl(tmp_path / "input.jsonl", rows)
    choices = [{"message": {"role": "assistant", "content": "Boil it."}}]
    output = [{"custom_id": f"r{i}", "response": {"body": {"choices": choices}}} for i in (1, 0)]
    path = write_jsonl(tmp_path / "output.jsonl", output)
    assert [case.prompt.request for case in read_cases(path, prompts_path=requests)] == ["Rye?", "Tea?"]
