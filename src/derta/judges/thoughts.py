"""Replies of models that think: the answer, which judges see, and the thought before it."""

from __future__ import annotations

from typing import NamedTuple

from derta.protocols import Case
from derta.records import Reply
from derta.thoughts import answer_start, is_empty_thought


class ReplyParts(NamedTuple):
    """A reply as the cases that a judge receives: its answer, and its thought if it has one.

    `answer_at` is the offset of the answer in the reply.
    """

    answer: Case
    thought: Case | None
    answer_at: int


def split_reply(case: Case) -> ReplyParts | None:
    """Split a reply at the start of its answer; None if it ends within a thought.

    The engine records the start of the answer in `Reply.answer_at`; in replies of other origin it is located by the
    markers of a thought, which must be at the start of the text or, without an opening one, occur once.

    >>> from derta.records import Prompt
    >>> prompt = Prompt(id="1", request_id="r", request="?", attack="direct", mode="raw", text="?")
    >>> parts = split_reply(Case(prompt, Reply(prompt_id="1", text="<think>Bread.</think>Mix flour.")))
    >>> parts.answer.reply.text, parts.thought.reply.text, parts.answer_at
    ('Mix flour.', '<think>Bread.</think>', 21)
    """
    reply = case.reply
    start = reply.answer_at if reply.answer_at is not None else answer_start(reply.text)
    if start is None or (start == len(reply.text) > 0 and reply.stop_reason == "length"):
        return None
    if start == 0:
        return ReplyParts(case, None, 0)
    thought = _part(reply, 0, start)
    return ReplyParts(
        Case(case.prompt, _part(reply, start, len(reply.text))),
        None if is_empty_thought(thought.text) else Case(case.prompt, thought),
        start,
    )


def _part(reply: Reply, start: int, end: int) -> Reply:
    """Return a part of a reply, without its tokens."""
    text = reply.text[start:end]
    return reply.model_copy(update={"text": text, "token_ids": None, "token_starts": None, "answer_at": 0})
