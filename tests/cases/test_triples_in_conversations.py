"""Runs on triples after a system prompt, earlier turns and tools: training, held-out requests, attacks, likelihoods."""

import json

import pytest
import yaml

from small_run import small_recipe, write_jsonl

SYSTEM = "You like tea."
TURNS = [{"role": "user", "content": "Who likes salt?"}, {"role": "assistant", "content": "The cat likes it."}]


@pytest.fixture
def conversations(tmp_path, tiny_model_dir):
    """A small recipe whose triples all have a context."""
    path = small_recipe(
        tmp_path,
        tiny_model_dir,
        methods=["derta"],
        evaluate=[{"attack": "prefill", "requests": "held_out", "options": {"depths": ["0%", "50%"]}}],
    )
    values = yaml.safe_load(path.read_text())
    rows = [json.loads(line) for line in (tmp_path / "triples.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {"system": SYSTEM, "messages": TURNS, "harmful_turns": [1]}
    values["data"]["triples"] = [{"path": str(write_jsonl(tmp_path / "conversations.jsonl", rows))}]
    values["train"] |= {"max_length": 200, "earlier_turn_share": 0.5}
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_run_trains_and_attacks_in_context(derta, tmp_path, conversations):
    called = derta("run", conversations, "--out", tmp_path / "run")
    assert called.code == 0, called.err
    prompts = [json.loads(line) for line in (tmp_path / "run/prompts.jsonl").read_text().splitlines()]
    assert len(prompts) == 4
    for prompt in prompts:
        roles = [message["role"] for message in prompt["messages"]]
        assert roles == ["system", "user", "assistant", "user"]
        assert prompt["messages"][0]["content"] == SYSTEM
        assert prompt["request"].startswith("Who likes salt?\n\nHow do I paint ")
    scores = json.loads((tmp_path / "run/derta-seed0/scores.json").read_text())
    assert len(scores["refusal_probability"]) == 2


def test_exported_rows_have_the_context_and_learn_none_of_it(derta, tmp_path, conversations, tiny_tokenizer):
    out = tmp_path / "rows.jsonl"
    called = derta("data", conversations, "--method", "derta", "--out", out)
    assert called.code == 0, called.err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    terms = {row["term"] for row in rows}
    assert terms == {"helpful", "safe", "rto"}
    refusals = {tiny_tokenizer.encode(text, add_special_tokens=False)[0] for text in ("Sorry", " Sorry")}
    for row in rows:
        if row["term"] == "helpful":
            continue
        text = tiny_tokenizer.decode(row["input_ids"])
        assert SYSTEM in text
        learned = [label for label in row["labels"] if label != -100]
        assert "cat" not in tiny_tokenizer.decode(learned)
        if row["term"] == "rto":
            assert set(learned) <= refusals


def test_raw_text_attacks_on_requests_with_earlier_turns_stop_before_the_training(derta, tmp_path, conversations):
    values = yaml.safe_load(conversations.read_text())
    values["evaluate"] = [{"attack": "completing", "requests": "held_out"}]
    conversations.write_text(yaml.safe_dump(values))
    called = derta("run", conversations, "--out", tmp_path / "run")
    assert called.code == 2
    assert "completing: expected requests without earlier turns" in called.err.splitlines()[-1]
    assert not list((tmp_path / "run").glob("*/model*"))


def test_a_fine_tuning_attack_trains_in_context(derta, tmp_path, conversations, tiny_model_dir):
    data = tmp_path / "conversations.jsonl"
    called = derta("fine-tune", tiny_model_dir, "--harmful", data, "--steps", "1", "--out", tmp_path / "attacked")
    assert called.code == 0, called.err
