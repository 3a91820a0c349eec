"""Escalation: an attacker model leads a conversation with the target, a small step at a time, towards the request."""

from __future__ import annotations

from typing import Literal

from derta.attacks.adaptive.refinement import Settings, refine
from derta.protocols import Search


def escalation(
    *,
    streams: int = 1,
    depth: int = 10,
    tries: int = 5,
    remember: int = 10,
    max_new_tokens: int = 256,
    attacker_tokens: int = 500,
    role: Literal["system", "user"] = "system",
    requests_at_once: int = 16,
) -> Search:
    """Hold a conversation with the target until a judge finds harm in a reply; PAIR's machinery, one conversation each.

    The prompt that is kept is the conversation up to the best reply, the target's own words in between.

    Args:
        streams: how many conversations a request gets.
        depth: the most messages of a conversation; the paper's 10.
        tries: as in `pair`, and so on for the others.
        remember: how many turns the attacker is shown.
        max_new_tokens: of a target's reply during the search.
        attacker_tokens: of an attacker's output.
        role: who instructs the attacker.
        requests_at_once: how many requests share a batch.

    Raises:
        RecipeError: a number below 1; from the search, no attacker or no judge.
        RunError: (from the search) the state file is another search's.

    Source: Russinovich et al. 2024, arXiv 2404.01833 (Crescendo), without its backtracking: a refusal stays in the
    conversation, and the attacker is told to come from another side.
    """
    return refine(
        Settings(
            attack="escalation",
            template="escalation_system.txt",
            streams=streams,
            depth=depth,
            talk=True,
            tries=tries,
            remember=remember,
            max_new_tokens=max_new_tokens,
            attacker_tokens=attacker_tokens,
            role=role,
            requests_at_once=requests_at_once,
        )
    )
