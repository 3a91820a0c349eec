"""Multi-turn: a scripted conversation that comes to the request step by step, with the target's own replies between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Annotated

from pydantic import Field

from derta.attacks.attempts import Attempt, total, tries_by_request
from derta.attacks.base import check_ids, check_values, craft_prompt, fill, shipped_lines, user
from derta.attacks.search import ask_all, ask_prompt
from derta.errors import RecipeError
from derta.files import Appender
from derta.protocols import Means, Search
from derta.records import Cost, Message, Prompt, Request
from derta.sources import read_entries, text_of

PLACEHOLDER = "@REQUEST@"
Turns = Annotated[int, Field(ge=1)]


def multi_turn(
    *, turns: tuple[Turns, ...] = (1, 2, 4), script: Path | None = None, max_new_tokens: int = 256
) -> Search:
    """Talk the script's first turns through with the target, then ask the request as it is.

    Args:
        turns: how many turns come before the request; each number is a prompt of its own, `multi_turn@2`.
        script: the user's turns, in any form that `read_entries` reads (`text` in rows); `@REQUEST@` in one stands for
            the request. By default the four neutral ones of `texts/multi_turn.txt`.
        max_new_tokens: of a target's reply on the way.

    Raises:
        RecipeError: no number of turns, one twice, or more than the script has.
        DataError: the script cannot be read.
        RunError: (from the search) the state file is another search's.
    """
    check_values("multi_turn", turns=turns)
    lines = shipped_lines("multi_turn.txt")
    if script is not None:
        entries = enumerate(read_entries(script), start=1)
        lines = tuple(text_of(entry, fields=("text",), where=f"{script}, turn {number}") for number, entry in entries)
    if max(turns) > len(lines) or max_new_tokens < 1:
        raise RecipeError(
            f"multi_turn: expected turns up to {len(lines)}, which the script has, and new tokens, got {list(turns)} "
            f"and {max_new_tokens}"
        )

    def search(requests: Sequence[Request], *, means: Means, rng: Random) -> Iterator[Prompt]:
        check_ids(requests)
        known = tries_by_request(means.state, requests, key=means.key)
        for step, line in enumerate(lines[: max(turns)], start=1):
            _take_turn(requests, known, means, line=line, step=step, max_new_tokens=max_new_tokens)
        for request in requests:
            for count in turns:
                talk = known[request.id][:count]
                yield craft_prompt(
                    request,
                    attack="multi_turn",
                    variant=str(count),
                    messages=(*_so_far(talk), *user(request.text)),
                    cost=total(talk),
                )

    return search


def _so_far(talk: Sequence[Attempt]) -> tuple[Message, ...]:
    if not talk:
        return ()
    return (*(talk[-1].messages or ()), Message(role="assistant", content=talk[-1].reply))


def _take_turn(
    requests: Sequence[Request],
    known: dict[str, list[Attempt]],
    means: Means,
    *,
    line: str,
    step: int,
    max_new_tokens: int,
) -> None:
    """One turn of all conversations that have not come so far yet, as one batch."""
    left = [request for request in requests if len(known[request.id]) < step]
    prompts = [
        ask_prompt(
            request,
            str(step),
            (*_so_far(known[request.id]), *user(fill(line, PLACEHOLDER, request.text))),
            attack="multi_turn",
        )
        for request in left
    ]
    begun = means.clock()
    answers = ask_all(means.target, prompts, max_new_tokens=max_new_tokens) if prompts else None
    with Appender(means.state) as file:
        for request, prompt in zip(left, prompts, strict=True):
            reply = answers.by_id.get(prompt.id) if answers else None
            seconds = (means.clock() - begun) / len(left)
            attempt = Attempt(
                search=means.key,
                request_id=request.id,
                stream=0,
                step=step,
                messages=prompt.messages,
                reply=reply.text if reply else "",
                cost=Cost(
                    target_queries=int(reply is not None),
                    tokens=answers.tokens(prompt.id) if answers else 0,
                    seconds=seconds,
                ),
            )
            file.add(attempt)
            known[request.id].append(attempt)
