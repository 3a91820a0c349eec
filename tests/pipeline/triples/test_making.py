from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from derta.data.helpful import load_examples
from derta.data.triples import load_triples
from derta.demo.making import write_making
from derta.demo.model import write_untrained
from derta.demo.world import build_world
from derta.errors import DataError, EngineError, RecipeError
from derta.pipeline.triples.making import make_triples
from derta.pipeline.triples.planning import plan_triples
from derta.records import Message, Prompt, Request
from scripted_writers import REQUESTS, STEPS, Scripts
from small_run import write_jsonl

Values = dict[str, Any]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def stage(summary: Any, name: str) -> Any:
    return next(one for one in summary.stages if one.stage == name)


def test_requests_become_triples_and_counter_rows_that_recipes_read(
    values: Values, scripts: Scripts, tmp_path: Path
) -> None:
    summary = make_triples(values, out=tmp_path / "made")
    assert (summary.requests, summary.triples, summary.counter, summary.without_triple) == (3, 3, 3, 0)
    triples = load_triples(tmp_path / "made" / "triples.jsonl")
    assert [triple.query for triple in triples] == [one["text"] for one in REQUESTS]
    assert {triple.harmful for triple in triples} == {STEPS.strip()}
    assert triples[0].safe == "Sorry, but I can't help with a. It is not safe."
    assert triples[0].category == "wood"
    [first, *_] = load_examples(tmp_path / "made" / "counter.jsonl")
    assert [message.role for message in first.messages] == ["user", "assistant"]
    assert first.messages[0].content == "Where is the fence of a in the museum?"


def test_every_row_has_its_models_the_hashes_of_its_prompts_verdicts_and_a_licence_note(
    values: Values, scripts: Scripts, tmp_path: Path
) -> None:
    make_triples(values | {"licence": "mine alone"}, out=tmp_path / "made")
    row = rows_of(tmp_path / "made" / "triples.jsonl")[0]
    assert row["licence"] == "mine alone"
    harmful, safe = row["harmful_origin"], row["safe_origin"]
    assert (harmful["source"], harmful["prompt"], len(harmful["prompt_hash"])) == ("writer", "direct:a", 16)
    assert harmful["verdicts"][0]["judge"] == "harm"
    assert harmful["verdicts"][0]["score"] > 0.35
    assert safe["verdicts"] == [{"judge": "refusal", "reply_class": "refuse"}]
    counter = rows_of(tmp_path / "made" / "counter.jsonl")[0]
    assert counter["request_id"] == "a"
    assert counter["request_origin"]["prompt"] == "counterpart:a"
    assert counter["answer_origin"]["prompt"] == "answer:a"


def test_a_writer_that_refuses_is_counted_and_its_text_is_in_no_list_of_dropped_replies(
    values: Values, scripts: Scripts, tmp_path: Path
) -> None:
    scripts["writer"] = lambda prompt: "I'm sorry, I can't help with that." if prompt.request_id == "b" else STEPS
    summary = make_triples(values, out=tmp_path / "made")
    assert (summary.triples, summary.without_triple) == (2, 1)
    assert stage(summary, "harmful").dropped == {"refused": 1}
    assert rows_of(tmp_path / "made" / "dropped.jsonl") == [{"stage": "harmful", "id": "direct:b", "reason": "refused"}]
    assert stage(summary, "safe").calls == 2  # no safe response to a request without a harmful one


def test_a_second_command_asks_nothing_and_a_new_request_is_asked_alone(
    values: Values, scripts: Scripts, tmp_path: Path
) -> None:
    first = make_triples(values, out=tmp_path / "made")
    before = (tmp_path / "made" / "triples.jsonl").read_bytes()
    scripts.asked.clear()
    again = make_triples(values, out=tmp_path / "made")
    assert scripts.asked == []
    assert (again.triples, again.counter) == (first.triples, first.counter)
    assert (tmp_path / "made" / "triples.jsonl").read_bytes() == before
    write_jsonl(tmp_path / "requests.jsonl", [*REQUESTS, {"id": "d", "text": "How do I sail the wooden boat?"}])
    make_triples(values, out=tmp_path / "made")
    assert {name.split(":")[1] for name in scripts.asked} == {"d"}


def test_a_dry_run_counts_calls_and_makes_none(values: Values, scripts: Scripts, tmp_path: Path) -> None:
    values["harmful"]["form"] = ["direct", "prefill"]
    plans = plan_triples(values, out=tmp_path / "made")
    assert [(one.stage, one.calls, one.done) for one in plans] == [
        ("harmful", 9, 0),
        ("safe", 3, 0),
        ("counterparts", 3, 0),
        ("answers", 3, 0),
    ]
    assert not (tmp_path / "made").exists()
    assert scripts.asked == []
    make_triples(values, out=tmp_path / "made")
    assert [one.calls - one.done for one in plan_triples(values, out=tmp_path / "made")] == [0, 0, 0, 0]


def test_each_harmful_response_has_different_safe_ones(values: Values, scripts: Scripts, tmp_path: Path) -> None:
    values |= {"safe": {"responses": 3}, "harmful": values["harmful"] | {"form": ["direct", "prefill"], "keep": 2}}
    make_triples(values, out=tmp_path / "made")
    rows = [row for row in rows_of(tmp_path / "made" / "triples.jsonl") if row["request_id"] == "a"]
    assert len(rows) == 6
    assert len({row["safe"] for row in rows}) == 6


def test_benign_requests_of_the_user_are_answered_too(values: Values, scripts: Scripts, tmp_path: Path) -> None:
    values["counterpart"]["requests"] = str(write_jsonl(tmp_path / "benign.jsonl", [{"id": "z", "text": "Who am I?"}]))
    look_alike = Request(id="y", text="How do I kill a process?")
    assert plan_triples(values, out=tmp_path / "made", benign=[look_alike])[-1].calls == 5
    assert make_triples(values, out=tmp_path / "made", benign=[look_alike]).counter == 5
    rows = rows_of(tmp_path / "made" / "counter.jsonl")
    assert [row["request_id"] for row in rows] == ["a", "b", "c", "y", "z"]
    assert "request_origin" not in rows[-1]
    with pytest.raises(DataError, match="expected other ids than harmful ones, got 'a'"):
        make_triples(values, out=tmp_path / "made", benign=[look_alike.model_copy(update={"id": "a"})])
    with pytest.raises(RecipeError, match="expected a model that answers benign requests"):
        make_triples(values | {"counterpart": None}, out=tmp_path / "made", benign=[look_alike])


def test_duplicates_and_turns_that_do_not_alternate_are_dropped_and_counted(
    values: Values, scripts: Scripts, tmp_path: Path
) -> None:
    user = Message(role="user", content="I have a fence.")
    requests = [
        Request(id="a", text="How do I paint the fence?"),
        Request(id="b", text="how do I paint the fence"),
        Request(id="c", text="How do I paint the fence, again?", messages=(user,)),
    ]
    summary = make_triples(values, out=tmp_path / "made", requests=requests)
    assert summary.triples == 1
    assert stage(summary, "requests").dropped == {"duplicate": 1, "turns_do_not_alternate": 1}


def test_rows_that_repeat_a_request_in_a_file_are_counted(values: Values, scripts: Scripts, tmp_path: Path) -> None:
    texts = [{"question": one["text"]} for one in (*REQUESTS, REQUESTS[0])]
    write_jsonl(tmp_path / "requests.jsonl", texts)
    assert stage(make_triples(values, out=tmp_path / "made"), "requests").dropped == {"duplicate": 1}


def test_a_judge_that_is_the_writer_is_warned_about(
    values: Values, scripts: Scripts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scripts["writer"] = lambda prompt: "VERDICT: UNSAFE" if "VERDICT" in str(prompt.messages) else STEPS
    values["harmful"]["judge"] = {"name": "guideline", "model": "writer", "engine": "scripted"}
    with caplog.at_level(logging.WARNING):
        summary = make_triples(values, out=tmp_path / "made")
    assert summary.triples == 3
    assert any("is their writer, writer" in note for note in summary.notes)
    assert "is their writer, writer" in caplog.text
    asked = len(scripts.asked)
    make_triples(values, out=tmp_path / "made")
    assert len(scripts.asked) == asked  # verdicts of a model are kept, too


def test_texts_of_models_are_in_no_log(
    values: Values, scripts: Scripts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scripts["writer"] = lambda prompt: "" if prompt.request_id == "a" else STEPS
    with caplog.at_level(logging.DEBUG):
        make_triples(values, out=tmp_path / "made")
    assert "wash the roots" not in caplog.text


def test_an_engine_that_does_not_answer_is_one_line(values: Values, tmp_path: Path) -> None:
    settings = {"endpoints": "http://127.0.0.1:9/v1", "attempts": 1, "patience": 0.1}
    values["harmful"] = {"model": "gone", "engine": "api", "settings": settings}
    values["safe"], values["counterpart"] = {}, None
    with pytest.raises(EngineError) as caught:
        make_triples(values, out=tmp_path / "made")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made" / "triples.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"requests": []}, RecipeError, "expected a source of requests"),
        ({"harmful": {"model": "w", "judge": "refusal"}}, RecipeError, "expected a judge of harm"),
        ({"harmful": {"model": "w", "judge": "guideline"}}, DataError, "uses a model"),
        ({"harmful": {"model": "w", "engine": "hff"}}, EngineError, "did you mean 'hf'"),
        ({"refusal_words": ["Never"]}, DataError, "open with a refusal word"),
        ({"safe": {"templates": "nowhere.yaml"}}, DataError, "cannot read it"),
        (
            {"harmful": {"model": "w", "engine": "api", "settings": {"endpoints": "http://far.example/v1"}}},
            EngineError,
            "not on your list of servers",
        ),
    ],
)
def test_bad_input_is_refused_before_the_first_call(
    *, values: Values, scripts: Scripts, tmp_path: Path, change: Values, error: type[Exception], message: str
) -> None:
    values["safe"] = {}
    with pytest.raises(error, match=message):
        make_triples(values | change, out=tmp_path / "made")
    assert scripts.asked == []


def test_the_demos_base_model_completes_raw_text_and_its_truth_judges_it(tmp_path: Path) -> None:
    """The path of docs/triples.md with an untrained model, whose harvest is empty."""
    world = build_world(num_allowed=2, num_tuned=2, num_held_out=2, num_tuned_twins=1)
    write_untrained(world, tmp_path / "base", seed=0)
    summary = make_triples(write_making(tmp_path, world), out=tmp_path / "made")
    assert (summary.triples, summary.without_triple) == (0, 2)
    assert stage(summary, "harmful").calls == 2
    assert sum(stage(summary, "harmful").dropped.values()) == 2


def test_a_command_that_was_stopped_in_the_middle_asks_only_what_is_missing(
    values: Values, scripts: Scripts, tmp_path: Path
) -> None:
    def stop_at_b(prompt: Prompt) -> str:
        if prompt.request_id == "b":
            raise KeyboardInterrupt
        return STEPS

    scripts["writer"] = stop_at_b
    with pytest.raises(KeyboardInterrupt):
        make_triples(values, out=tmp_path / "made")
    scripts.asked.clear()
    scripts["writer"] = lambda prompt: STEPS
    assert make_triples(values, out=tmp_path / "made").triples == 3
    assert [name for name in scripts.asked if name.startswith("direct")] == ["direct:b", "direct:c"]
