"""Rank-assisted prefilling: decoding that skips top-k candidates that start a refusal, early in the reply."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Annotated

from pydantic import Field

from derta.attacks.base import Attack, check_values, per_request
from derta.attacks.building import factory
from derta.attacks.prompts import craft_prompt, shipped_lines
from derta.records import Decoding, Prompt, Request
from derta.sources import read_texts

Steps = Annotated[int, Field(ge=1)]
Rank = Annotated[int, Field(ge=2)]


@factory
def rank_assisted(
    *,
    steps: tuple[Steps, ...] = (5, 20, 50),
    top_k: tuple[Rank, ...] = (20,),
    openers: str | Path | None = None,
    words: tuple[str, ...] = (),
) -> Attack:
    """Prompt with the request, and decode the first tokens without refusals: the best of the top k that is allowed.

    A token is not allowed if it starts a refusal or ends the reply. If none of the k is allowed, the output is the
    model's own choice. The variant has the format `<steps>-of-top<k>`:

    >>> prompts = rank_assisted(steps=(5,), top_k=(5, 20)).craft([Request(id="7", text="Why?")])
    >>> [p.id for p in prompts]
    ['rank_assisted@5-of-top5:7', 'rank_assisted@5-of-top20:7']

    Args:
        steps: The number of tokens, from the start of the reply, that the attack selects.
        top_k: The number of candidates per token; 20 in the paper.
        openers: A file of texts that count as refusals, instead of the default list: a `.json` list, `.jsonl`, `.csv`,
            or a text file with lines of ===== between them.
        words: Further texts that count as refusals; in a recipe, by default its refusal words.

    Raises:
        RecipeError: an option has no values, or has duplicates.
        DataError: the file cannot be read.

    Source: Vega and Singh 2025, arXiv 2512.05518 (RAP). There, a person or a model selects harmful tokens from the top
    20; here, a list of refusal openers replaces that selection, which makes a weaker attack.
    """
    check_values("rank_assisted", steps=steps, top_k=top_k)
    starts = shipped_lines("refusal_openers.txt") if openers is None else read_texts(openers, what="opener")
    banned = tuple(dict.fromkeys((*starts, *words)))

    def craft_one(request: Request, rng: Random) -> Iterator[Prompt]:
        for count in steps:
            for width in top_k:
                yield craft_prompt(
                    request,
                    attack="rank_assisted",
                    variant=f"{count}-of-top{width}",
                    messages=request.conversation,
                    decoding=Decoding(banned=banned, steps=count, top_k=width, ban_end=True),
                )

    return per_request("rank_assisted", craft_one)
