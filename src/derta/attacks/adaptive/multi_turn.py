"""Multi-turn: a scripted conversation with the target, followed by the request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Annotated

from pydantic import Field

from derta.attacks.attempts import Attempt, total
from derta.attacks.base import Attack, check_values
from derta.attacks.building import factory
from derta.attacks.prompts import craft_prompt, shipped_lines, user
from derta.attacks.search import SearchContext, generate_all, query_prompt
from derta.errors import RecipeError
from derta.records import Cost, Message, Prompt, Request
from derta.sources import read_texts

PLACEHOLDER = "@REQUEST@"
Turns = Annotated[int, Field(ge=1)]


@factory
def multi_turn(
    *, turns: tuple[Turns, ...] = (1, 2, 4), script: str | Path | None = None, max_new_tokens: int = 256
) -> Attack:
    """Run the first turns of a script with the target, then add the plain request.

    >>> from derta.engines.scripted import ScriptedModel
    >>> target = ScriptedModel(lambda prompt: "Hello to you.")
    >>> [prompt] = multi_turn(turns=(1,)).search([Request(id="7", text="Why?")], target=target)
    >>> prompt.id, [message.role for message in prompt.messages], prompt.messages[-1].content
    ('multi_turn@1:7', ['user', 'assistant', 'user'], 'Why?')

    Args:
        turns: The numbers of turns before the request; each gives one prompt, such as `multi_turn@2`.
        script: The user's turns, in a `.json` list, `.jsonl`, `.csv` (field `text` of each row), or a text file with
            lines of ===== between them. `@REQUEST@` in a turn is replaced by the request. The default is the four
            neutral turns of `texts/multi_turn.txt`.
        max_new_tokens: Maximum length of a target's reply before the request.

    Raises:
        RecipeError: `turns` is empty, has duplicates, or exceeds the length of the script.
        DataError: the script cannot be read.
    """
    check_values("multi_turn", turns=turns)
    lines = shipped_lines("multi_turn.txt")
    if script is not None:
        lines = read_texts(script, what="turn")
    if max(turns) > len(lines) or max_new_tokens < 1:
        raise RecipeError(
            f"multi_turn: expected turns up to {len(lines)}, the length of the script, and max_new_tokens of at least "
            f"1, got {list(turns)} and {max_new_tokens}"
        )

    def search(requests: Sequence[Request], *, context: SearchContext, rng: Random) -> Iterator[Prompt]:
        for step, line in enumerate(lines[: max(turns)], start=1):
            _take_turn(requests, context, line=line, step=step, max_new_tokens=max_new_tokens)
        for request in requests:
            for count in turns:
                attempts = context.log.attempts(request)[:count]
                yield craft_prompt(
                    request,
                    attack="multi_turn",
                    variant=str(count),
                    messages=(*_conversation(request, attempts), *user(request.text)),
                    cost=total(attempts),
                )

    return Attack("multi_turn", searching=search)


def _conversation(request: Request, attempts: Sequence[Attempt]) -> tuple[Message, ...]:
    if not attempts:
        return request.messages
    return (*(attempts[-1].messages or ()), Message(role="assistant", content=attempts[-1].reply))


def _take_turn(
    requests: Sequence[Request], context: SearchContext, *, line: str, step: int, max_new_tokens: int
) -> None:
    """Generate the replies to one turn, in one batch, for all conversations that lack them."""
    pending = [request for request in requests if len(context.log.attempts(request)) < step]
    if not pending:
        return
    prompts = [
        query_prompt(
            request,
            str(step),
            (*_conversation(request, context.log.attempts(request)), *user(line.replace(PLACEHOLDER, request.text))),
            attack="multi_turn",
            tools=request.tools,
        )
        for request in pending
    ]
    started = context.clock()
    batch = generate_all(context.target, prompts, max_new_tokens=max_new_tokens)
    seconds = (context.clock() - started) / len(pending)
    context.log.extend(
        Attempt(
            search=context.log.key,
            request_id=request.id,
            stream=0,
            step=step,
            messages=prompt.messages,
            reply=batch.by_id[prompt.id].text if prompt.id in batch.by_id else "",
            cost=Cost(target_queries=int(prompt.id in batch.by_id), tokens=batch.tokens(prompt.id), seconds=seconds),
        )
        for request, prompt in zip(pending, prompts, strict=True)
    )
