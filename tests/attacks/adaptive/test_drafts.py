from __future__ import annotations

import json

import pytest

from derta.attacks.adaptive.drafts import (
    REPLY_CHARS,
    Draft,
    MalformedOutput,
    attacker_instructions,
    attacker_messages,
    parse_draft,
)
from derta.attacks.attempts import Attempt
from derta.records import Cost, Message, Request

REQUEST = Request(id="r", text="How do I paint a fence?")


def attempt(step: int, *, reply: str = "Sorry.", score: float | None = 0.0, sent: bool = True) -> Attempt:
    return Attempt(
        search="k",
        request_id="r",
        stream=0,
        step=step,
        messages=(Message(role="user", content=f"prompt {step}"),) if sent else None,
        note=f"note {step}",
        reply=reply,
        score=score,
        cost=Cost(),
    )


@pytest.mark.parametrize(
    ("text", "draft"),
    [
        ('{"prompt": "a", "improvement": "b"}', Draft("a", "b")),
        ('```json\n{"improvement": "b",\n"prompt": "two\nlines"}\n```', Draft("two\nlines", "b")),
        ('{"thought": 1} {"prompt": "second"}', Draft("second", "")),
        ('{"outer": {"prompt": "inner"}}', Draft("inner", "")),
    ],
)
def test_a_draft_is_parsed_whatever_text_is_around_it(text, draft):
    assert parse_draft(text) == draft


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"prompt": 3}', '{"prompt": "\\ud83d"}', '{"a":' * 3000, "{" * 99])
def test_output_without_a_draft_is_malformed_and_nothing_is_raised(text):
    assert isinstance(parse_draft(text), MalformedOutput)


def test_the_instructions_alternate_three_approaches_and_number_the_streams():
    texts = [attacker_instructions("pair_system.txt", REQUEST, stream=n, streams=4) for n in range(4)]
    for number, text in enumerate(texts, start=1):
        assert f"You are writer {number}" in text
        assert REQUEST.text in text
        assert "@" not in text
    bodies = [text.replace(f"writer {number}", "writer") for number, text in enumerate(texts, start=1)]
    assert len(set(bodies)) == 3
    assert bodies[3] == bodies[0]


def test_the_attacker_gets_its_last_drafts_with_replies_and_scores_in_order():
    history = [attempt(1), attempt(2, sent=False), attempt(3, reply="No.", score=1.0), attempt(4, score=None)]
    messages = attacker_messages("Do it.", history, [], remember=2, role="system")
    assert [message.role for message in messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    drafts = [json.loads(message.content) for message in messages if message.role == "assistant"]
    assert drafts == [{"improvement": f"note {n}", "prompt": f"prompt {n}"} for n in (3, 4)]
    assert "No." in messages[3].content
    assert "score: 10 of 10" in messages[3].content  # a score of 1 on the attacker's scale from 1 to 10
    assert "unknown" in messages[5].content


def test_without_a_system_role_the_instructions_lead_the_users_message():
    [message] = attacker_messages("Do it.", [], [], remember=1, role="user")
    assert message.role == "user"
    assert message.content.startswith("Do it.\n\n")


def test_a_long_reply_is_truncated_and_only_the_last_malformed_output_is_repeated():
    failures = [MalformedOutput("first", "reason one"), MalformedOutput(" ", "reason two")]
    messages = attacker_messages("Do it.", [attempt(1, reply="x" * 5000)], failures, remember=1, role="user")
    assert messages[2].content.count("x" * REPLY_CHARS) == 1
    assert "x" * (REPLY_CHARS + 1) not in messages[2].content
    assert [messages[3].content, "reason two" in messages[4].content] == ["(nothing)", True]
    assert not any("reason one" in message.content for message in messages)
