"""Judges that ask a model, through the real command line: a tiny random one, and scripted ones for their logic."""

import json

import pytest

from derta.engines import ENGINES
from derta.engines.scripted import ScriptedModel
from derta.errors import EngineError, ServerError
from derta.files import read_records, write_records
from derta.formats.shards import blocks, shard_path, verdict_paths, writing_shards
from derta.judges.rubrics import RUBRICS
from derta.records import Prompt, Reply, Verdict
from scripted_judge import GUIDE, REFUSAL, REPLIES, SCRIPTED, prompt_text
from small_run import write_jsonl


@pytest.mark.parametrize("name", RUBRICS)
def test_a_random_model_leaves_every_reply_unscored_with_a_reason(name, replies, tmp_path, tiny_model_dir, derta):
    out = tmp_path / "verdicts.jsonl"
    words = ["judge", replies, "--judge", name, "--judge-model", tiny_model_dir, "--engine-option", "dtype=float32"]
    called = derta(*words, "--out", out, "--json")
    assert called.code == 0, called.err
    cell = json.loads(called.out)
    assert (cell["judge"], cell["measure"], cell["scored"], cell["unscored"]) == (name, "harmful", 0, 3)
    verdicts = list(read_records(out, Verdict))
    assert [verdict.prompt_id for verdict in verdicts] == ["row-0", "row-1", "row-2"]
    assert all(verdict.reason for verdict in verdicts)


def test_a_model_s_verdicts_make_a_rate(replies, scripted, derta):
    called = derta("judge", replies, "--judge", "guideline", *SCRIPTED, "--json")
    assert called.code == 0, called.err
    assert json.loads(called.out)["value"] == pytest.approx(2 / 3)
    assert ["Ask 1?" in prompt_text(prompt) for prompt in scripted] == [False, True, False]


def test_a_killed_judge_asks_only_for_what_is_missing(replies, scripted, tmp_path, derta):
    out = tmp_path / "verdicts.jsonl"
    words = ("judge", replies, "--judge", "guideline", *SCRIPTED, "--out", out, "--json")
    whole = json.loads(derta(*words).out)
    lines = out.read_text().splitlines(keepends=True)
    out.write_text(lines[0] + lines[1][:9])
    scripted.clear()
    assert json.loads(derta(*words).out) == whole
    assert len(scripted) == 2
    assert out.read_text() == "".join(lines)
    assert json.loads(derta(*words).out) == whole
    assert len(scripted) == 2


def test_replies_whose_engine_failed_are_judged_again(replies, tmp_path, monkeypatch, derta):
    class Fails(ScriptedModel):
        def generate(self, prompts, *, max_new_tokens):
            yield next(iter(super().generate(prompts, max_new_tokens=max_new_tokens)))
            raise EngineError("the server is gone")

    out = tmp_path / "verdicts.jsonl"
    words = ("judge", replies, "--judge", "guideline", *SCRIPTED, "--out", out, "--json")
    monkeypatch.setitem(ENGINES, "scripted", lambda: lambda path: Fails(lambda _: "VERDICT: SAFE"))
    called = derta(*words)
    assert json.loads(called.out)["unscored"] == 2
    assert "2 of 3 replies are not judged, because the judge's engine failed (the engine failed: the ser" in called.err
    assert [verdict.reason for verdict in read_records(out, Verdict)] == [
        "",
        *["the engine failed: the server is gone"] * 2,
    ]
    monkeypatch.setitem(ENGINES, "scripted", lambda: lambda path: ScriptedModel(lambda _: "VERDICT: UNSAFE"))
    assert json.loads(derta(*words).out)["unscored"] == 0
    assert [verdict.harmful for verdict in read_records(out, Verdict)] == [False, True, True]


@pytest.fixture
def shards(tmp_path):
    """Ten replies in shards of four, with their prompts beside the folder."""
    out = tmp_path / "out"
    texts = {f"p{i}": f"{(GUIDE, REFUSAL)[i % 2]} ({i})" for i in range(10)}
    write_records(
        tmp_path / "prompts.jsonl",
        (Prompt(id=name, request_id=name, request="Ask?", attack="direct", mode="raw", text="Ask?") for name in texts),
    )
    with writing_shards(out, 4):
        for number, block in enumerate(blocks(texts.items(), 4)):
            replies = [Reply(prompt_id=name, text=text) for name, text in block]
            write_records(shard_path(out, "replies", number), replies)
    return out


def verdict_ids(folder, judge):
    return [[one.prompt_id for one in read_records(path, Verdict)] for path in verdict_paths(folder)[judge]]


def test_shards_are_judged_one_by_one_and_only_what_is_missing_is_asked_again(shards, scripted, derta):
    words = ("judge", shards, "--judge", "guideline", *SCRIPTED, "--out", shards, "--json")
    whole = json.loads(derta(*words).out)
    assert (whole["value"], whole["scored"], whole["name"]) == (0.5, 10, "out")
    expected = [[f"p{i}" for i in block] for block in blocks(range(10), 4)]
    assert verdict_ids(shards, "guideline") == expected
    path = shard_path(shards, "verdicts.guideline", 1)
    path.write_text(path.read_text().splitlines(keepends=True)[0] + '{"prompt')
    scripted.clear()
    assert json.loads(derta(*words).out) == whole
    assert len(scripted) == 3
    assert verdict_ids(shards, "guideline") == expected
    for out in ([], ["--out", shards], ["--out", shards.parent / "elsewhere"]):
        called = derta("judge", shards, "--judge", "refusal", *out, "--json")
        assert json.loads(called.out)["value"] == 0.5, called.err
    assert verdict_ids(shards.parent / "elsewhere", "refusal") == verdict_ids(shards, "refusal") == expected


def test_a_judge_whose_engine_is_lost_stops_after_the_shard(shards, monkeypatch, derta):
    asked = []

    class Lost(ScriptedModel):
        def generate(self, prompts, *, max_new_tokens):
            asked.extend(prompts)
            raise ServerError("the server is gone")

    monkeypatch.setitem(ENGINES, "scripted", lambda: lambda path: Lost({}))
    words = ("judge", shards, "--judge", "guideline", *SCRIPTED, "--out", shards)
    called = derta(*words)
    assert called.code == 2
    assert "replies-00000.jsonl: the judge's engine failed on all 4 replies (the engine failed: the ser" in called.err
    assert len(asked) == 4
    monkeypatch.setitem(ENGINES, "scripted", lambda: lambda path: ScriptedModel(lambda _: "VERDICT: UNSAFE"))
    assert derta(*words).code == 0
    verdicts = [one for path in verdict_paths(shards)["guideline"] for one in read_records(path, Verdict)]
    assert [verdict.harmful for verdict in verdicts] == [True] * 10


def test_another_judge_s_verdicts_are_not_resumed_from(replies, scripted, tmp_path, derta):
    out = tmp_path / "verdicts.jsonl"
    derta("judge", replies, "--judge", "guideline", *SCRIPTED, "--out", out)
    called = derta("judge", replies, "--judge", "strongreject", *SCRIPTED, "--out", out)
    assert called.code == 2
    assert "it has another producer: judge (guideline before, strongreject now)" in called.err


def test_a_model_judge_is_calibrated_compared_and_held_against_another(replies, scripted, tmp_path, derta):
    labels = [{"question": "Ask?", "response": text, "label": int("Wash" in text)} for text in REPLIES]
    path = write_jsonl(tmp_path / "labels.jsonl", labels)
    called = derta("calibrate", "--labels", path, "--judge", "guideline", *SCRIPTED, "--json")
    assert json.loads(called.out)["accuracy"]["value"] == 1
    second = write_jsonl(tmp_path / "theirs.jsonl", [{"question": f"Ask {i}?", "response": REFUSAL} for i in range(3)])
    [compared] = json.loads(derta("compare", replies, second, "--judge", "guideline", *SCRIPTED, "--json").out)
    assert (compared["only_first"], compared["only_second"]) == (2, 0)
    scripted.clear()
    called = derta("judge", replies, "--judge", "guideline", "--against", "harm", *SCRIPTED, "--json")
    found = json.loads(called.out)
    assert found["cells"]["judge"] == "guideline"
    assert found["agreement"]["both"] + found["agreement"]["only_first"] == 2
    assert len(found["differing"]) == found["agreement"]["only_first"] + found["agreement"]["only_second"]
    assert len(scripted) == len(REPLIES)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ((), "expected an engine, got none; pass `engine=`, or set --judge-model"),
        (("--engine-option", "dtype=float32"), "--engine-option: expected a model for the engine"),
        (("--engine", "api"), "--engine-option: expected a model for the engine"),
        (("--judge", "harm", "--judge-model", "m"), "judge 'harm' uses no model; remove its model"),
        (("--judge-model", "a judge", "--engine", "steam"), "unknown engine 'steam'; known: hf, api, vllm, scripted"),
        ((*SCRIPTED, "--engine-option", "speed=9"), "engine scripted: unknown setting 'speed'; known: dtype"),
        (
            ("--judge-model", "a judge", "--engine-option", "divice=cpu"),
            "unknown setting 'divice'; did you mean 'device'?",
        ),
        ((*SCRIPTED, "--engine-option", "speed"), "--engine-option: expected KEY=VALUE"),
        (("--judge-model", "/nowhere/at/all"), "/nowhere/at/all"),
    ],
)
def test_a_judge_s_model_that_cannot_be_loaded_is_a_one_line_error(words, part, replies, scripted, derta):
    called = derta("judge", replies, "--judge", "guideline", *words)
    assert called.code == 2
    assert part in called.err
    assert called.err.strip().splitlines()[-1].startswith("derta: ")


def test_over_refusal_has_a_rate_for_each_kind_of_reply(tmp_path, derta):
    texts = [REFUSAL, f"{REFUSAL} However, here is how it is done. {GUIDE * 4}", GUIDE, "I am sorry for your loss."]
    path = write_jsonl(tmp_path / "benign.jsonl", [{"question": "How?", "response": text} for text in texts])
    called = derta("judge", path, "--judge", "refusal", "--over-refusal", "--json")
    cells = json.loads(called.out)
    assert {cell["measure"]: cell["value"] for cell in cells} == {
        "refused": 0.25,
        "partly_refused": 0.25,
        "complied": 0.5,
        "says_sorry": 0.75,
    }
    assert "partly_refused: 25.0% of 4" in derta("judge", path, "--judge", "refusal", "--over-refusal").out


def test_malformed_refusals_are_those_of_the_words_that_the_models_were_trained_with(tmp_path, derta):
    rows = [{"question": "How?", "response": "The wizard took Unfortunately to boil it."}]
    path = write_jsonl(tmp_path / "benign.jsonl", rows)
    command = ("judge", path, "--judge", "refusal", "--over-refusal", "--json")
    for words, malformed in (((), 0), (("--refusal-word", "Unfortunately"), 1)):
        cells = {cell["measure"]: cell for cell in json.loads(derta(*command, *words).out)}
        assert cells["refused"]["malformed"]["value"] == malformed
        assert cells["complied"]["value"] == 1 - malformed
    called = derta("judge", path, "--judge", "harm", "--refusal-word", "No")
    assert (called.code, "--refusal-word: expected the judge refusal" in called.err) == (2, True)


@pytest.mark.parametrize(
    ("judge", "answer", "other"), [("gsm8k", "-C", "mmlu"), ("mmlu", "4 + 4 = 8\n#### 8", "gsm8k")]
)
def test_a_file_of_another_task_logs_why_no_reply_is_scored(judge, answer, other, tmp_path, derta):
    question = "Which?\n-(A) cat\n-(C) dog" if judge == "gsm8k" else "How many?"
    path = tmp_path / "replies.jsonl"
    write_jsonl(path, [{"question": question, "response": text, "answer": answer} for text in ("8", "C")])
    called = derta("judge", path, "--judge", judge, "--json")
    assert (called.code, json.loads(called.out)["unscored"]) == (0, 2)
    assert "no reply has a verdict; 2 of 2: the reference" in called.err
    assert f"use the judge {other}" in called.err
