from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from derta.config import HarmfulSection
from derta.pipeline.triples.asking import Models
from derta.pipeline.triples.harmful import HarmfulResponses, harmful_prompts, make_harmful
from derta.records import Message, Prompt, Request
from scripted_writers import STEPS, Scripts
from small_run import write_jsonl

FENCE = Request(id="a", text="I have a fence. How do I paint the garden fence?")


def made(tmp_path: Path, **values: Any) -> HarmfulResponses:
    section = HarmfulSection(model="writer", engine="scripted", **values)
    return make_harmful([FENCE], section, refusal_words=("Sorry",), out=tmp_path / "made", models=Models())


def reasons(responses: HarmfulResponses) -> dict[str, str]:
    return {one.id: one.reason for one in responses.dropped}


def test_each_form_prompts_a_model_in_its_way() -> None:
    section = HarmfulSection(model="w", form=("direct", "prefill", "completing"), starts=("Step 1:", "First,"))
    prompts = [one.prompt for one in harmful_prompts([FENCE], section).prompts]
    assert [(one.id, one.mode, one.prefill) for one in prompts] == [
        ("direct:a", "chat", None),
        ("prefill@start1:a", "chat", "Step 1:"),
        ("prefill@start2:a", "chat", "First,"),
        ("completing@rules:a", "raw", None),
    ]


def test_a_response_begins_with_the_start_of_the_answer_and_not_with_the_request(
    scripts: Scripts, tmp_path: Path
) -> None:
    [completed] = made(tmp_path, form="completing").kept["a"]
    assert completed.text == f"I will explain the steps to paint the garden fence:\n Step 1:{STEPS}"
    [prefilled] = made(tmp_path, form="prefill", starts="Sure, I will help.").kept["a"]
    assert prefilled.text == f"Sure, I will help.{STEPS}"


def test_a_users_sentences_are_completed_in_place_of_the_rules(scripts: Scripts, tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "A guide to fences. 1."}, {"id": "a", "text": "Fence paint: 1.", "opening": ""}]
    texts = str(write_jsonl(tmp_path / "texts.jsonl", rows))
    kept = made(tmp_path, form="completing", texts=texts, keep=2).kept["a"]
    assert sorted(one.text for one in kept) == [STEPS, f"A guide to fences. 1.{STEPS}"]
    other = Request(id="b", text="How do I fly the kite?")
    section = HarmfulSection(model="w", form=("completing",), texts=texts)
    assert [one.reason for one in harmful_prompts([other], section).dropped] == ["no_text_to_complete"]


def test_raw_text_has_no_turns_so_a_conversation_is_dropped_and_counted() -> None:
    turns = (Message(role="user", content="Hello."), Message(role="assistant", content="Hello!"))
    section = HarmfulSection(model="w", form=("completing",))
    result = harmful_prompts([FENCE.model_copy(update={"messages": turns})], section)
    assert (result.prompts, [one.reason for one in result.dropped]) == ([], ["completing_without_turns"])


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "empty"),
        ("I'm sorry, but I can't help with painting the garden fence.", "refused"),
        ("The weather in the north was cold and rainy in spring. " * 2, "harmless"),
        ("paint the fence " * 40, "degenerate"),
    ],
)
def test_a_reply_without_harm_is_dropped_with_its_reason(
    scripts: Scripts, tmp_path: Path, reply: str, reason: str
) -> None:
    scripts["writer"] = lambda prompt: reply
    responses = made(tmp_path)
    assert (responses.kept, reasons(responses)) == ({}, {"direct:a": reason})


def test_a_response_on_another_topic_is_dropped_unless_the_user_keeps_it(scripts: Scripts, tmp_path: Path) -> None:
    scripts["writer"] = lambda prompt: "Take soot. Mix it with tar."
    scripts["judge"] = lambda prompt: "VERDICT: UNSAFE"
    judge = {"name": "guideline", "model": "judge", "engine": "scripted"}
    assert reasons(made(tmp_path, judge=judge)) == {"direct:a": "off_topic"}
    assert made(tmp_path, judge=judge, on_topic=False).kept["a"][0].text == "Take soot. Mix it with tar."


def test_the_best_responses_are_kept_and_each_text_once(scripts: Scripts, tmp_path: Path) -> None:
    def reply(prompt: Prompt) -> str:
        return f"{STEPS} Paint the garden fence twice." if prompt.id.startswith("prefill@start2") else STEPS

    scripts["writer"] = reply
    responses = made(tmp_path, form=["direct", "prefill"], starts=["Sure.", "Well."], keep=1)
    assert len(responses.kept["a"]) == 1
    assert sorted(one.reason for one in responses.dropped) == ["beyond_keep", "beyond_keep"]
    scores = [responses.kept["a"][0].score]
    several = made(tmp_path, form=["direct", "prefill"], starts=["Sure.", "Well."], keep=3)
    assert scores == [max(one.score or 0 for one in several.kept["a"])]


def test_samples_are_replies_of_their_own_with_their_seeds(scripts: Scripts, tmp_path: Path) -> None:
    scripts["writer"] = lambda prompt: f"{STEPS} It takes {len(scripts.asked)} days to paint the garden fence."
    responses = made(tmp_path, temperature=0.8, num_samples=3, keep=3).kept["a"]
    assert sorted(one.origin.sample for one in responses) == [0, 1, 2]
    assert len({one.origin.seed for one in responses}) == 3
