"""Rank-assisted prefilling: early in the reply, the best candidate that does not begin a refusal is taken instead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Annotated

from pydantic import Field

from derta.attacks.base import Attack, check_values, per_request
from derta.attacks.building import factory
from derta.attacks.prompts import craft_prompt, shipped_lines, user
from derta.records import Decoding, Prompt, Request
from derta.sources import read_texts

Steps = Annotated[int, Field(ge=1)]
Rank = Annotated[int, Field(ge=2)]


@factory
def rank_assisted(
    *, steps: tuple[Steps, ...] = (5, 20, 50), top_k: tuple[Rank, ...] = (20,), openers: str | Path | None = None
) -> Attack:
    """Ask plainly; at each of the first steps take the likeliest of the top k that neither refuses nor ends the reply.

    Where all k would, the model has its way. The variant names steps and k:

    >>> prompts = rank_assisted(steps=(5,), top_k=(5, 20)).craft([Request(id="7", text="Why?")])
    >>> [p.id for p in prompts]
    ['rank_assisted@5-of-top5:7', 'rank_assisted@5-of-top20:7']

    Args:
        steps: at how many tokens of the reply the attacker chooses.
        top_k: among how many candidates; the paper's is 20.
        openers: texts that count as refusals, in place of the shipped ones; a `.json` list, `.jsonl`, `.csv`,
            or a text file with lines of ===== between them.

    Raises:
        RecipeError: no value, or one twice.
        DataError: the file cannot be read.

    Source: Vega and Singh 2025, arXiv 2512.05518 (RAP). There the attacker picks harmful tokens among the top 20 by
    eye or with a model; here a list of openers stands in for the eye, which is weaker.
    """
    check_values("rank_assisted", steps=steps, top_k=top_k)
    banned = shipped_lines("refusal_openers.txt") if openers is None else read_texts(openers, what="opener")

    def craft_one(request: Request, rng: Random) -> Iterator[Prompt]:
        for count in steps:
            for width in top_k:
                yield craft_prompt(
                    request,
                    attack="rank_assisted",
                    variant=f"{count}-of-top{width}",
                    messages=user(request.text),
                    decoding=Decoding(banned=banned, steps=count, top_k=width, ban_end=True),
                )

    return per_request("rank_assisted", craft_one)
