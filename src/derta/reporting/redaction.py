"""Leave harmful text out of a report: the texts of attacks, and replies that a judge calls harmful.

It works on the records, so that no part of the page ever has the texts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from derta.messages import Message
from derta.records import Prompt, Reply, Verdict
from derta.reporting.text import REDACTED
from derta.results import ScoredAnswer, Transcript


def redacted(transcripts: Iterable[Transcript]) -> list[Transcript]:
    """Return transcripts without the prompts and replies of attacks, and without harmful replies to other prompts.

    Reasons of judges and servers go with the reply that they may quote. Names, ids, categories, verdicts, positions and
    probabilities stay.
    """
    return [_redacted(one) for one in transcripts]


def redacted_answers(answers: Iterable[ScoredAnswer]) -> list[ScoredAnswer]:
    """Return harmful answers without their texts; the probability of each token stays."""
    return [one.model_copy(update={"request": REDACTED, "text": REDACTED, "token_starts": ()}) for one in answers]


def _redacted(one: Transcript) -> Transcript:
    is_attack = one.prompt.suite == "attack"
    is_harmful = any(verdict.harmful or verdict.harmful_thought for verdict in one.verdicts)
    if not is_attack and not is_harmful:
        return one
    changes: dict[str, Any] = {
        "reply": _reply(one.reply),
        "verdicts": tuple(_verdict(verdict) for verdict in one.verdicts),
    }
    return one.model_copy(update=changes | ({"prompt": _prompt(one.prompt)} if is_attack else {}))


def _prompt(prompt: Prompt) -> Prompt:
    """Return an attack's prompt with the roles of its messages, and none of its texts."""
    messages = tuple(Message(role=message.role, content=REDACTED) for message in prompt.messages or ())
    changes: dict[str, Any] = {
        "request": _text(prompt.request),
        "messages": messages or None,
        "text": _text(prompt.text),
        "prefill": _text(prompt.prefill),
        "answer": None,
        "steps": None,
        "tools": None,
    }
    return prompt.model_copy(update=changes)


def _reply(reply: Reply) -> Reply:
    changes = {"text": _text(reply.text), "reason": _text(reply.reason), "token_ids": None, "token_starts": None}
    return reply.model_copy(update=changes)


def _verdict(verdict: Verdict) -> Verdict:
    return verdict.model_copy(update={"reason": _text(verdict.reason)})


def _text(text: str | None) -> str | None:
    return REDACTED if text else text
