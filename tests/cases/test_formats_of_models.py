"""Training and judging in the format of any model: thoughts, dates, markup in data, answers of several turns."""

import json
import shutil

import pytest
import yaml

from small_run import small_recipe, write_jsonl

PLAIN = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
THINK = PLAIN.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}").replace(
    "<|assistant|>\n{% endif %}", "<|assistant|>\n<think>\n{% endif %}"
)
DATED = "{{ bos_token }}<|system|>\nToday is {{ strftime_now('%d %b %Y %H:%M:%S') }}<|end|>\n" + PLAIN.removeprefix(
    "{{ bos_token }}"
)


@pytest.fixture
def export(derta, tmp_path, make_model_dir):
    """Return a function that exports the rows of a recipe, with a template and helpful rows."""

    def call(template=PLAIN, helpful=None, method="derta", **settings):
        model = shutil.copytree(
            make_model_dir(tokenizer={"chat_template": template}), tmp_path / "model", dirs_exist_ok=True
        )
        path = small_recipe(tmp_path, model, methods=[method], seeds=[0])
        values = yaml.safe_load(path.read_text())
        if helpful is not None:
            source = write_jsonl(tmp_path / "helpful.jsonl", helpful)
            values["data"] |= {"helpful": [{"path": str(source)}], "num_helpful": len(helpful), "held_out_helpful": 0}
        for section, fields in settings.items():
            values[section] |= fields
        path.write_text(yaml.safe_dump(values))
        out = tmp_path / "rows.jsonl"
        out.unlink(missing_ok=True)
        called = derta("data", path, "--method", method, "--out", out)
        assert called.code == 0, called.err
        return [json.loads(line) for line in out.read_text().splitlines()], called.err

    return call


def learned(tokenizer, row):
    return tokenizer.decode([label for label in row["labels"] if label != -100])


def test_no_answer_lies_in_a_thought_that_is_never_closed(export, tiny_tokenizer):
    rows, _ = export(THINK)
    for row in rows:
        text = tiny_tokenizer.decode(row["input_ids"])
        assert "<think>\n\n</think>\n\n" in text
        assert "</think>" not in learned(tiny_tokenizer, row)


def test_two_exports_of_a_dated_template_are_equal_and_the_date_is_named(export, tiny_tokenizer):
    first, log = export(DATED)
    assert "writes a date: 2024-07-26 is used (template_date)" in log
    second, _ = export(DATED)
    assert first == second
    assert "Today is 26 Jul 2024 00:00:00" in tiny_tokenizer.decode(first[0]["input_ids"])
    other, _ = export(DATED, model={"template_date": "2026-11-26"})
    assert "Today is 26 Nov 2026 00:00:00" in tiny_tokenizer.decode(other[0]["input_ids"])


def test_text_that_spells_a_special_token_is_learned_as_text(export, tiny_tokenizer):
    helpful = [{"instruction": f"Tell me story {i}.", "output": "A kite flew."} for i in range(9)]
    marked = "The marker <|end|> closes a turn.</s> And <|user|> begins one."
    helpful.append({"instruction": "What does <|end|> mean?", "output": marked})
    rows, _ = export(helpful=helpful)
    special = set(tiny_tokenizer.all_special_ids)
    for row in rows:
        assert not special.intersection([label for label in row["labels"] if label != -100][:-1])
    assert any(marked in learned(tiny_tokenizer, row) for row in rows)


def test_every_answer_of_a_conversation_is_learned_unless_the_recipe_wants_the_last(export, tiny_tokenizer):
    def turns(i):
        texts = [("user", f"Hello {i}"), ("assistant", "Good day."), ("user", "More"), ("assistant", "Sure, more.")]
        return {"messages": [{"role": role, "content": text} for role, text in texts]}

    helpful = [turns(i) for i in range(8)]
    for setting, expected in (
        ({}, "Good day.<|end|>Sure, more.<|end|>"),
        ({"assistant_turns": "last"}, "Sure, more.<|end|>"),
    ):
        rows, _ = export(helpful=helpful, method="vanilla", train=setting)
        assert {learned(tiny_tokenizer, row) for row in rows if row["term"] == "helpful"} == {expected}


def test_answers_that_max_length_cuts_are_counted(export):
    helpful = [{"instruction": f"Tell me story {i}.", "output": "A kite flew. " * 40} for i in range(8)]
    _, log = export(helpful=helpful, method="vanilla", train={"max_length": 64})
    assert "max_length 64: 8 of 8 helpful rows lose their closing token, and 0 of their 8 answers" in log


def test_judges_see_the_answer_of_a_reply_with_a_thought(derta, tmp_path):
    answer = "Mix the flour with the water and the salt, knead the dough for ten minutes, and bake it."
    refusal = "I can't help with that."
    rows = [
        {"question": "How do I bake bread?", "response": f"<think>\nMaybe: {refusal} But no.\n</think>\n\n{answer}"},
        {"question": "How do I bake bread?", "response": f"<think>\n{answer} But no baking.\n</think>\n\n{refusal}"},
    ]
    replies = write_jsonl(tmp_path / "replies.jsonl", rows)
    out = tmp_path / "verdicts.jsonl"
    assert derta("judge", replies, "--judge", "refusal", "--out", out).code == 0
    verdicts = [json.loads(line) for line in out.read_text().splitlines()]
    assert [one["reply_class"] for one in verdicts] == ["comply", "refuse"]


def test_a_run_trains_and_attacks_a_model_that_thinks_in_its_thoughts(derta, tmp_path, make_model_dir):
    model = shutil.copytree(make_model_dir(tokenizer={"chat_template": THINK}), tmp_path / "model")
    evaluate = [
        {"attack": name, "requests": "held_out", "options": {"depths": ["50%"]}}
        for name in ("prefill", "thought_prefill")
    ]
    path = small_recipe(tmp_path, model, methods=["derta"], seeds=[0], evaluate=evaluate)
    values = yaml.safe_load(path.read_text())
    values["train"]["refuse_in"] = "both"
    path.write_text(yaml.safe_dump(values))
    called = derta("run", path, "--out", tmp_path / "run")
    assert called.code == 0, called.err
    prompts = [json.loads(line) for line in (tmp_path / "run/prompts.jsonl").read_text().splitlines()]
    assert {prompt["attack"]: prompt.get("prefill_in", "answer") for prompt in prompts} == {
        "prefill": "answer",
        "thought_prefill": "thought",
    }
    replies = [json.loads(line) for line in (tmp_path / "run/derta-seed0/replies.jsonl").read_text().splitlines()]
    by_attack = {reply["prompt_id"].partition("@")[0]: reply["answer_at"] for reply in replies}
    assert by_attack["prefill"] == 0
    assert by_attack["thought_prefill"] > 0
