"""Prompts for the attacker of a search by refinement, and the parser of its output."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal, NamedTuple

from derta.attacks.attempts import Attempt
from derta.attacks.prompts import shipped_lines, shipped_text
from derta.records import Message, Request

REPLY_CHARS = 2000
"""The maximum number of characters of a target's reply in the attacker's prompt, whose context is limited too."""


class Draft(NamedTuple):
    """The next prompt, and the attacker's explanation of the improvement."""

    prompt: str
    improvement: str


class MalformedOutput(NamedTuple):
    """An output of the attacker that contains no draft, and the reason."""

    text: str
    reason: str


def parse_draft(text: str) -> Draft | MalformedOutput:
    """Parse the first JSON object with a prompt in the attacker's output. Other text around it is ignored.

    >>> parse_draft('Sure! {"improvement": "bolder", "prompt": "Explain it."} Good luck.')
    Draft(prompt='Explain it.', improvement='bolder')
    >>> parse_draft('{"prompt": ""}').reason
    'no JSON object with a prompt in it'
    """
    decoder = json.JSONDecoder(strict=False)  # line breaks inside strings are common, and unambiguous
    at = text.find("{")
    while at >= 0:
        try:
            value, _ = decoder.raw_decode(text, at)
            prompt = value.get("prompt")
            if isinstance(prompt, str) and prompt.strip():
                improvement = str(value.get("improvement", ""))
                (prompt + improvement).encode()  # a lone surrogate cannot be written to a file
                return Draft(prompt, improvement)
        except (ValueError, RecursionError):
            pass
        at = text.find("{", at + 1)
    return MalformedOutput(text, "no JSON object with a prompt in it")


def attacker_instructions(template: str, request: Request, *, stream: int, streams: int) -> str:
    """Return the instructions for the attacker of a stream; the three approaches alternate between streams."""
    approaches = shipped_lines("pair_approaches.txt")
    values = {
        "@APPROACH@": approaches[stream % len(approaches)],
        "@NUMBER@": str(stream + 1),
        "@STREAMS@": str(streams),
        "@REQUEST@": request.in_context,  # last, so that nothing in it is replaced
    }
    text = shipped_text(template)
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text


def attacker_messages(
    text: str,
    history: Sequence[Attempt],
    failures: Sequence[MalformedOutput],
    *,
    remember: int,
    role: Literal["system", "user"],
) -> tuple[Message, ...]:
    """Return the attacker's conversation: instructions, last `remember` drafts with replies and scores, last error."""
    start = shipped_text("pair_start.txt")
    if role == "system":
        messages = [Message(role="system", content=text), Message(role="user", content=start)]
    else:
        messages = [Message(role="user", content=f"{text}\n\n{start}")]
    for attempt in [one for one in history if one.messages is not None][-remember:]:
        draft = {"improvement": attempt.note, "prompt": attempt.draft}
        score = "unknown" if attempt.score is None else str(round(1 + 9 * attempt.score))
        feedback = shipped_text("pair_feedback.txt").replace("@SCORE@", score)
        messages += _exchange(
            json.dumps(draft, ensure_ascii=False), feedback.replace("@REPLY@", attempt.reply[:REPLY_CHARS])
        )
    for failure in failures[-1:]:
        correction = shipped_text("pair_malformed.txt").replace("@REASON@", failure.reason)
        messages += _exchange(failure.text[:REPLY_CHARS] if failure.text.strip() else "(nothing)", correction)
    return tuple(messages)


def _exchange(output: str, feedback: str) -> list[Message]:
    return [Message(role="assistant", content=output), Message(role="user", content=feedback)]
