import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import derta.pipeline.run as run_module
from derta.chat import Turn, encode_prompt, refusal_tokens
from derta.config import load_recipe
from derta.engines import load_engine
from derta.files import read_records, write_records
from derta.metrics.summaries import scored_answers, transcripts
from derta.pipeline.contents import read_contents
from derta.pipeline.estimate import estimate
from derta.pipeline.model_results import read_model
from derta.pipeline.report import report
from derta.pipeline.run import run
from derta.pipeline.token_refusal import (
    ANSWERS,
    REPLIES,
    TokenScoring,
    cost_note,
    first_prompts,
    measures_tokens,
    read_token_refusals,
    token_notes,
)
from derta.protocols import Display
from derta.records import Message, Prompt, Reply
from derta.token_refusals import TokenRefusal


def plain_probabilities(engine, ids, num_prompt):
    """P(refusal) before each token from `num_prompt` on: a forward pass of the whole row, as a text book has it."""
    with torch.no_grad():
        logits = engine.model(input_ids=torch.tensor([ids])).logits[0].double()
    chosen = list(refusal_tokens(engine.chat, engine.refusal_words).ids)
    return logits.softmax(dim=-1)[num_prompt - 1 : len(ids) - 1, chosen].sum(dim=-1).tolist()


def stored(home, name=REPLIES):
    return {one.prompt_id: one for one in read_records(home / name, TokenRefusal)}


@pytest.fixture
def copied(finished, tmp_path):
    return Path(shutil.copytree(finished.folder, tmp_path / "run"))


def test_each_generated_token_has_the_probability_of_a_plain_forward_pass(finished):
    home = finished.folder / "derta-seed0"
    engine = load_engine(home / "model", dtype="float32", device="cpu")
    prompts = {one.id: one for one in read_records(finished.folder / "prompts.jsonl", Prompt)}
    records = stored(home)
    assert len(records) == 3 + 2 * 2 + 2  # 3 direct, 2 at each of 2 depths, 2 benign: all, as there are at most 5
    assert any(prompt.prefill for prompt in prompts.values())
    for reply in read_records(home / "replies.jsonl", Reply):
        before = encode_prompt(engine.chat, prompts[reply.prompt_id])  # with the prefill
        expected = plain_probabilities(engine, [*before, *reply.token_ids], len(before))
        assert len(expected) == len(reply.token_starts)
        assert records[reply.prompt_id].probabilities == pytest.approx(expected, abs=2e-6)


def test_held_out_harmful_answers_have_their_tokens_and_the_same_numbers_for_all_methods_answers(finished):
    answers = {name: stored(finished.folder / f"{name}-seed0", ANSWERS) for name in ("vanilla", "derta")}
    assert answers["vanilla"].keys() == answers["derta"].keys()
    assert len(answers["derta"]) == 2
    engine = load_engine(finished.folder / "derta-seed0/model", dtype="float32", device="cpu")
    for one in answers["derta"].values():
        assert one.request.startswith("How do I paint")
        assert one.text.startswith("Sure, here are the steps")
        starts = [*one.token_starts, len(one.text)]
        assert len(one.token_starts) == len(one.probabilities)
        assert "".join(one.text[a:b] for a, b in pairwise(starts)) == one.text
        message = Message(role="user", content=one.request)
        prompt = Prompt(id="x", request_id="x", attack="direct", messages=(message,))
        before = encode_prompt(engine.chat, prompt)
        response = engine.chat.tokenizer.encode(one.text, add_special_tokens=False)
        expected = plain_probabilities(engine, [*before, *response], len(before))
        assert one.probabilities == pytest.approx(expected, abs=2e-6)


def test_a_ban_of_refusal_words_does_not_change_the_probability(tiny_model_dir):
    engine = load_engine(tiny_model_dir, dtype="float32", device="cpu")
    message = Message(role="user", content="How do I bake bread?")
    plain = Prompt(id="a", request_id="r", attack="direct", messages=(message,))
    banned = plain.model_copy(update={"id": "b", "decoding": {"banned": ("Sorry",)}})

    turn = Turn(encode_prompt(engine.chat, plain), [5, 6, 7], [])
    first, second = engine.next_refusals([plain, banned], [turn, turn])
    assert first == pytest.approx(second)
    assert len(first) == 4


def test_a_stopped_scoring_resumes_and_scores_only_what_is_missing(finished, copied, monkeypatch):
    home = copied / "derta-seed0"
    complete = (home / REPLIES).read_bytes()
    lines = complete.splitlines(keepends=True)
    (home / REPLIES).write_bytes(b"".join(lines[:4]) + lines[4][:20])  # killed within a line
    scored = []
    original = run_module.Decoding.engine

    def recording(self, *words, **named):
        engine = original(self, *words, **named)
        inner = engine.next_refusals

        def next_refusals(prompts, turns):
            scored.extend(prompt.id for prompt in prompts)
            return inner(prompts, turns)

        engine.next_refusals = next_refusals
        return engine

    monkeypatch.setattr(run_module.Decoding, "engine", recording)
    run(load_recipe(finished.recipe), out=copied)
    ids = [json.loads(line)["prompt_id"] for line in lines]
    assert scored == ids[4:]
    before = [json.loads(line)["probabilities"] for line in lines]
    after = [one.probabilities for one in read_records(home / REPLIES, TokenRefusal)]
    assert [*map(list, after)] == [pytest.approx(row, abs=2e-6) for row in before]


def test_a_finished_run_scores_nothing_again(finished, copied, monkeypatch):
    def fails(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("derta.pipeline.models.load_engine", fails)
    run(load_recipe(finished.recipe), out=copied)


def test_a_changed_reply_is_scored_again_and_the_old_score_is_superseded(finished, copied):
    home = copied / "derta-seed0"
    replies = list(read_records(home / "replies.jsonl", Reply))
    old = stored(home)[replies[0].prompt_id]
    longer = (*replies[0].token_ids, 5)
    changed = replies[0].model_copy(update={"token_ids": longer, "token_starts": (*replies[0].token_starts, 9)})
    write_records(home / "replies.jsonl", [changed, *replies[1:]])
    prompts = {one.id: one for one in read_records(copied / "prompts.jsonl", Prompt)}
    shown = read_token_refusals(
        home, [prompts[one.prompt_id] for one in [changed, *replies[1:]]], [changed, *replies[1:]]
    )
    assert shown[0] is None  # never shown on another reply
    assert None not in shown[1:]
    run(load_recipe(finished.recipe), out=copied)
    assert len(stored(home)[changed.prompt_id].probabilities) == len(longer)
    assert list(read_records(home / "token_refusal.superseded.jsonl", TokenRefusal)) == [old]


def test_other_refusal_words_are_another_producer(finished):
    recipe = load_recipe(finished.recipe)
    words = load_recipe(finished.recipe, overrides={"model.refusal_words": ["Sure"]})
    prompts = list(read_records(finished.folder / "prompts.jsonl", Prompt))
    home = finished.folder / "derta-seed0"
    data = type("Data", (), {"harmful": []})()
    first, other = (TokenScoring.of(one, data, prompts, producer={"model": "a"}, home=home) for one in (recipe, words))
    assert first.producer != other.producer
    assert {**first.producer, "refusal_words": ""} == {**other.producer, "refusal_words": ""}


def test_deleted_weights_are_not_trained_again_for_a_heat_map(finished, copied, monkeypatch):
    monkeypatch.setattr(run_module, "train_model", lambda *_, **__: pytest.fail("trained again"))
    home = copied / "derta-seed0"
    shutil.rmtree(home / "model")
    (home / REPLIES).unlink()
    run(load_recipe(finished.recipe), out=copied)
    assert not (home / REPLIES).exists()
    outcome = read_model(copied, read_contents(copied).models[1], read_contents(copied)).outcome
    assert {one.refusal_probability for one in transcripts([outcome])} == {None}
    report(copied)


def test_transcripts_and_answers_carry_the_probabilities(finished):
    contents = read_contents(finished.folder)
    outcomes = [read_model(finished.folder, entry, contents).outcome for entry in contents.models]
    rows = transcripts(outcomes)
    assert all(len(one.refusal_probability) == len(one.reply.token_starts) for one in rows)
    assert [(one.method, one.seed) for one in scored_answers(outcomes)] == [("vanilla", 0)] * 2 + [("derta", 0)] * 2


def test_the_first_prompts_of_each_cell_are_scored(finished):
    prompts = list(read_records(finished.folder / "prompts.jsonl", Prompt))
    assert [one.id for one in first_prompts(prompts, 1)] == [
        next(one.id for one in prompts if one.cell == cell) for cell in dict.fromkeys(one.cell for one in prompts)
    ]
    assert first_prompts(prompts, 9) == prompts


def test_without_whole_distributions_nothing_is_scored_and_a_note_says_so(finished, tmp_path):
    served = load_recipe(finished.recipe, overrides={"generate.engine": "vllm"})
    none = load_recipe(finished.recipe, overrides={"profile_replies": 0})
    assert not measures_tokens(served)
    assert not measures_tokens(none)
    [note] = token_notes(served)
    assert "the engine vllm returns no whole distribution" in note
    assert token_notes(none) == []
    data = type("Data", (), {"harmful": []})()
    for recipe in (served, none):
        scoring = TokenScoring.of(recipe, data, [], producer={}, home=tmp_path)
        assert scoring.is_complete()
        assert cost_note(recipe, [], data, seconds_per_token=1.0) is None


def test_the_estimate_has_the_cost(finished, caplog):
    recipe = load_recipe(finished.recipe, overrides={"methods": ["derta"]})
    with caplog.at_level("INFO", logger="derta"):
        estimate(recipe, display=Display())
    [note] = [line for line in caplog.messages if line.startswith("Refusal probabilities by token")]
    assert "9 replies and 2 harmful answers are read once more by each model, at most" in note
    assert "(profile_replies: 5)" in note


@pytest.mark.parametrize("words", [("Sorry",), ("I cannot", "Sorry")], ids=["one token", "several tokens"])
@pytest.mark.parametrize(("kind", "tokenizer"), [("gemma3", "bpe"), ("gpt2", "spm"), ("qwen3", "bpe")])
def test_probabilities_of_a_batch_are_those_of_each_row_alone(make_model_dir, kind, tokenizer, words):
    home = make_model_dir(kind=kind, tokenizer={"kind": tokenizer})
    engine = load_engine(home, dtype="float32", device="cpu", refusal_words=words)
    message = Message(role="user", content="How do I bake bread?")
    prompts = [
        Prompt(id=str(i), request_id="r", attack="prefill", messages=(message,), prefill=prefill)
        for i, prefill in enumerate((None, "Sure, here", "Sure, here are the steps. Step 1:"))
    ]
    turns = [
        Turn(encode_prompt(engine.chat, prompt), [7 + i for i in range(length)], [])
        for prompt, length in zip(prompts, (30, 1, 0), strict=True)
    ]
    rows = engine.next_refusals(prompts, turns)
    assert [len(row) for row in rows] == [31, 2, 1]
    for turn, row in zip(turns, rows, strict=True):
        ids = [*turn.prompt_ids, *turn.response_ids]
        expected = plain_probabilities(engine, [*ids, 0], len(turn.prompt_ids))
        assert row == pytest.approx(expected, abs=2e-6)
