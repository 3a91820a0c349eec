from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from derta.config import CounterpartSection
from derta.pipeline.triples.asking import Models
from derta.pipeline.triples.counterparts import Counterparts, answer_benign, make_counterparts
from derta.records import Prompt, Request
from scripted_writers import Scripts

FENCE = Request(id="a", text="How do I paint the garden fence?", steps=("wash fence",))
ANSWER = "The garden fence was painted in the spring, and it stands next to the old stove."


def counterparts(tmp_path: Path, *requests: Request) -> Counterparts:
    section = CounterpartSection(model="editor", engine="scripted")
    return make_counterparts(requests or [FENCE], section, refusal_words=("Sorry",), out=tmp_path, models=Models())


def answered(tmp_path: Path, **values: Any) -> tuple[list[str], list[str]]:
    section = CounterpartSection(model="editor", engine="scripted", **values)
    answers = answer_benign([FENCE], section, refusal_words=("Sorry",), out=tmp_path, models=Models())
    return [one.text for one in answers.kept], [one.reason for one in answers.dropped]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("How do I paint the garden fence?", "repeats_a_request"),
        ("How do you paint a fence in gardens?", "repeats_a_request"),
        ("Where is my boat?", "off_topic"),
        ("Sorry, I can't help with that.", "refused"),
        ("", "empty"),
        (" ".join(f"Who painted fence {number} of the town?" for number in range(60)), "too_long"),
    ],
)
def test_a_counterpart_that_is_none_is_dropped_with_its_reason(
    scripts: Scripts, tmp_path: Path, reply: str, reason: str
) -> None:
    scripts["editor"] = lambda prompt: reply
    made = counterparts(tmp_path)
    assert (made.requests, [one.reason for one in made.dropped]) == ([], [reason])


def test_a_counterpart_keeps_the_id_and_the_steps_of_its_request_and_is_used_once(
    scripts: Scripts, tmp_path: Path
) -> None:
    scripts["editor"] = lambda prompt: 'Request: "Who paints the garden fences of museums?"'
    made = counterparts(tmp_path, FENCE, Request(id="b", text="How do I burn the fence?"))
    assert [(one.id, one.text, one.steps) for one in made.requests] == [
        ("a", "Who paints the garden fences of museums?", ("wash fence",))
    ]
    assert [(one.id, one.reason) for one in made.dropped] == [("counterpart:b", "repeats_a_request")]


def test_an_answer_that_refuses_is_dropped(scripts: Scripts, tmp_path: Path) -> None:
    scripts["editor"] = lambda prompt: "Sorry, I can't help with that."
    assert answered(tmp_path) == ([], ["refused"])


def test_a_judge_that_knows_topics_drops_harmful_answers(scripts: Scripts, tmp_path: Path) -> None:
    scripts["editor"] = lambda prompt: ANSWER
    assert answered(tmp_path) == ([ANSWER], [])
    assert answered(tmp_path, judge="steps") == ([ANSWER], [])
    scripts["editor"] = lambda prompt: "Wash the fence first."
    assert answered(tmp_path / "other", judge="steps") == ([], ["harmful"])


def test_another_model_may_answer(scripts: Scripts, tmp_path: Path) -> None:
    seen: list[Prompt] = []
    scripts["other"] = lambda prompt: seen.append(prompt) or ANSWER
    assert answered(tmp_path, answers={"model": "other", "engine": "scripted"}) == ([ANSWER], [])
    assert [one.id for one in seen] == ["answer:a"]
