"""What is exported: a prompt, the reply to it, and what judges said of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from derta.records import Prompt, Reply, Verdict

Measure = Literal["harmful", "refused", "correct"]
MEASURES: tuple[Measure, ...] = ("harmful", "refused", "correct")


class Judged(NamedTuple):
    """A case with its verdicts by judge; a judge that was not asked is not among them."""

    prompt: Prompt
    reply: Reply
    verdicts: Mapping[str, Verdict]


def outcome(case: Judged, judge: str, measure: Measure) -> bool | None:
    """What a judge said; None where it did not or could not say."""
    verdict = case.verdicts.get(judge)
    return None if verdict is None else verdict.model_dump()[measure]


def shown_text(prompt: Prompt) -> str:
    """What the model was shown, as one text without any template: several turns are told apart by their roles.

    A prefill is not part of it.
    """
    messages = prompt.messages or ()
    if len(messages) == 1:
        return messages[0].content
    return prompt.text or "\n\n".join(f"{message.role}: {message.content}" for message in messages)
