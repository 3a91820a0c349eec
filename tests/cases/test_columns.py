"""Columns of published files: one table of names for all commands, and none is ignored in silence."""

import csv
import json

import pytest

from derta.columns import REPLY, REQUEST
from derta.data.preferences import load_preferences
from derta.data.requests import load_requests
from derta.data.triples import load_triples
from derta.formats import export
from derta.formats.labels import read_labels
from derta.formats.replies import read_cases
from derta.records import Verdict
from small_run import write_jsonl

ASKED = "How do I bake bread at home with flour and yeast?"
ANSWER = (
    "Sure. First, mix the flour with water. Second, knead the dough for ten minutes. Third, bake it at 220 degrees. "
    "You need 500 g flour, 7 g yeast and 10 g salt."
)
NAMES = [*REQUEST, "Question", " Prompt "]


def score(derta, path):
    out = path.with_suffix(".v")
    called = derta("judge", path, "--judge", "harm", "--out", out)
    assert called.code == 0, called.err
    return Verdict.model_validate_json(out.read_text()).score


def test_every_name_of_the_request_gives_the_same_verdict(derta, tmp_path):
    scores = {
        name: score(
            derta, write_jsonl(tmp_path / f"{i}.jsonl", [{name: "How do I repair a chain?", "response": ANSWER}])
        )
        for i, name in enumerate(NAMES)
    }
    bare = score(derta, write_jsonl(tmp_path / "bare.jsonl", [ANSWER]))
    assert len(set(scores.values())) == 1, scores
    assert bare not in scores.values()  # the reply has nothing to do with the request


@pytest.mark.parametrize("request_name", NAMES)
@pytest.mark.parametrize("reply_name", [*REPLY, "Response"])
def test_judge_and_calibrate_read_the_same_columns(tmp_path, request_name, reply_name):
    path = write_jsonl(tmp_path / "a.jsonl", [{request_name: ASKED, reply_name: ANSWER, "label": 1}])
    [case] = read_cases(path)
    [labelled] = read_labels(path, measure="harmful")
    assert (case.prompt, case.reply) == (labelled.prompt, labelled.reply)
    assert (case.prompt.request, case.reply.text) == (ASKED, ANSWER)


@pytest.mark.parametrize("name", REQUEST)
def test_compare_pairwise_export_and_the_data_readers_read_them_too(derta, tmp_path, name):
    first = write_jsonl(tmp_path / "first.jsonl", [{name: ASKED, "response": ANSWER}])
    second = write_jsonl(tmp_path / "second.jsonl", [{"question": ASKED, "response": "Sorry, I cannot help."}])
    compared = derta("compare", first, second, "--judge", "refusal", "--json")
    assert [row["pairs"] for row in json.loads(compared.out)] == [1]
    [path] = export(first, tmp_path / "out.json", format="harmbench")
    assert json.loads(path.read_text())["row-0"][0]["test_case"] == ASKED
    assert [one.text for one in load_requests(first)] == [ASKED]
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [{name: ASKED, "chosen": "Mix.", "rejected": "No."}])
    assert [one.query for one in load_preferences(pairs)] == [ASKED]
    triples = write_jsonl(tmp_path / "triples.jsonl", [{name: ASKED, "safe": "Sorry, no.", "harmful": "Mix."}])
    assert [one.query for one in load_triples(triples)] == [ASKED]


def test_the_goal_is_the_request_and_the_prompt_beside_it_is_what_was_sent(tmp_path):
    row = {"goal": ASKED, "behavior": "Baking", "prompt": f"Pretend. {ASKED}", "response": ANSWER, "jailbroken": True}
    path = write_jsonl(tmp_path / "artifact.jsonl", [row])
    for case in (*read_cases(path), *read_labels(path, measure="harmful")):
        assert case.prompt.request == ASKED
        assert [one.content for one in case.prompt.messages or ()] == [f"Pretend. {ASKED}"]


@pytest.mark.parametrize("name", ["input", "context"])
def test_an_instruction_is_judged_with_its_input(tmp_path, name):
    path = write_jsonl(tmp_path / "a.jsonl", [{"instruction": "Sort these.", name: "b, a", "output": "a, b"}])
    assert [case.prompt.request for case in read_cases(path)] == ["Sort these.\n\nb, a"]


def test_a_column_that_is_not_read_is_named(derta, tmp_path):
    row = {"goal": ASKED, "behavior": "Baking", "response": ANSWER, "source": "x", "empty": ""}
    called = derta("judge", write_jsonl(tmp_path / "a.jsonl", [row]), "--judge", "refusal")
    assert "columns that are not read: behavior, source" in " ".join(called.err.split())
    row = {"user_query": ASKED, "response": ANSWER}
    called = derta("judge", write_jsonl(tmp_path / "b.jsonl", [row, row]), "--judge", "refusal")
    text = " ".join(called.err.split())
    assert "2 of 2 rows have no request" in text
    assert "columns that are not read: user_query" in text
    assert "not read" not in derta("judge", write_jsonl(tmp_path / "c.jsonl", [ANSWER]), "--judge", "refusal").err


def test_a_request_that_is_no_text_is_refused(derta, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": [{"role": "user", "content": ASKED}], "response": ANSWER}])
    called = derta("judge", path, "--judge", "refusal")
    assert called.code == 2
    assert "a.jsonl:1: prompt: expected text" in called.err


def test_two_columns_whose_names_differ_only_in_case_are_refused(derta, tmp_path):
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["Prompt", "prompt", "response"], [ASKED, "Other", ANSWER]])
    called = derta("judge", path, "--judge", "refusal")
    assert called.code == 2
    assert "a.csv:2: expected columns of different names, got 'prompt' twice" in called.err


def test_the_column_beside_the_requests_of_an_attack_is_named(derta, tmp_path):
    path = write_jsonl(tmp_path / "advbench.jsonl", [{"goal": ASKED, "target": "Sure, here is"}])
    called = derta("attack", "direct", "--requests", path, "--out", tmp_path / "prompts.jsonl")
    assert called.code == 0, called.err
    assert "columns that are not read: target" in " ".join(called.err.split())
