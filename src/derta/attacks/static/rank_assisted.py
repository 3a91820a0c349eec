"""Rank-assisted prefilling: early in the reply, the best candidate that does not begin a refusal is taken instead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Annotated

from pydantic import Field

from derta.attacks.base import check_values, craft_prompt, per_request, shipped_lines, user
from derta.protocols import Attack
from derta.records import Decoding, Prompt, Request
from derta.sources import read_entries, text_of

Steps = Annotated[int, Field(ge=1)]
Rank = Annotated[int, Field(ge=2)]


def rank_assisted(
    *, steps: tuple[Steps, ...] = (5, 20, 50), top_k: tuple[Rank, ...] = (20,), openers: Path | None = None
) -> Attack:
    """Ask plainly; at each of the first steps take the likeliest of the top k that neither refuses nor ends the reply.

    Where all k would, the model has its way. The variant names steps and k:

    >>> asked = rank_assisted(steps=(5,), top_k=(5, 20))([Request(id="7", text="Why?")], target=None, rng=Random(0))
    >>> [p.id for p in asked]
    ['rank_assisted@5-of-top5:7', 'rank_assisted@5-of-top20:7']

    Args:
        steps: at how many tokens of the reply the attacker chooses.
        top_k: among how many candidates; the paper's is 20.
        openers: texts that count as refusals, in place of the shipped ones; see `read_entries` for the forms of file.

    Raises:
        RecipeError: no value, or one twice.
        DataError: the file cannot be read.

    Source: Vega and Singh 2025, arXiv 2512.05518 (RAP). There the attacker picks harmful tokens among the top 20 by
    eye or with a model; here a list of openers stands in for the eye, which is weaker.
    """
    check_values("rank_assisted", steps=steps, top_k=top_k)
    banned = shipped_lines("refusal_openers.txt")
    if openers is not None:
        entries = enumerate(read_entries(openers), start=1)
        banned = tuple(
            text_of(entry, fields=("text",), where=f"{openers}, opener {number}") for number, entry in entries
        )

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

    return per_request(craft_one)
