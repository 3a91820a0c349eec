"""Asking engines in a search: what one prompt costs is its own matter, and what it took is counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from derta.errors import ModelError
from derta.protocols import Engine
from derta.records import Message, Prompt, Reply, Request


class Answers(NamedTuple):
    """Replies by prompt id; a prompt that the engine cannot take has none."""

    by_id: dict[str, Reply]

    def tokens(self, prompt_id: str) -> int:
        """How many tokens a reply has; 0 where the engine does not tell."""
        reply = self.by_id.get(prompt_id)
        return len(reply.token_ids or ()) if reply else 0


def ask_prompt(request: Request, name: str, messages: tuple[Message, ...], *, attack: str) -> Prompt:
    """A prompt in the middle of a search; `name` tells it from the others of its request."""
    return Prompt(
        id=f"{request.id}/{name}",
        request_id=request.id,
        request=request.text,
        attack=attack,
        messages=messages,
        category=request.category,
        answer=request.answer,
    )


def ask_all(engine: Engine, prompts: Sequence[Prompt], *, max_new_tokens: int) -> Answers:
    """Ask all at once, or where the engine cannot take one of them, one by one.

    Raises:
        ModelError: it can take none of them.
    """
    try:
        return Answers({reply.prompt_id: reply for reply in engine.generate(prompts, max_new_tokens=max_new_tokens)})
    except ModelError:
        if len(prompts) < 2:
            raise
    replies: dict[str, Reply] = {}
    fault: ModelError | None = None
    for prompt in prompts:
        try:
            replies[prompt.id] = next(iter(engine.generate([prompt], max_new_tokens=max_new_tokens)))
        except ModelError as error:
            fault = error
    if fault is not None and not replies:
        raise fault
    return Answers(replies)


def mean_likelihoods(engine: Engine, prompts: Sequence[Prompt], continuation: str) -> list[float]:
    """The mean log-probability of a continuation's tokens after each prompt; -inf after one the engine cannot take.

    Raises:
        ModelError: it can take none of them.
    """
    try:
        rows = engine.log_likelihood(prompts, [continuation] * len(prompts))
    except ModelError:
        if len(prompts) < 2:
            raise
        return _one_by_one(engine, prompts, continuation)
    return [sum(row) / len(row) for row in rows]


def _one_by_one(engine: Engine, prompts: Sequence[Prompt], continuation: str) -> list[float]:
    found: list[float] = []
    fault: ModelError | None = None
    for prompt in prompts:
        try:
            found += mean_likelihoods(engine, [prompt], continuation)
        except ModelError as error:
            fault = error
            found.append(float("-inf"))
    if fault is not None and max(found) == float("-inf"):
        raise fault
    return found
