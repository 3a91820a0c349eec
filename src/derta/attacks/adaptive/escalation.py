"""Escalation: an attacker model leads a conversation with the target, a small step at a time, towards the request."""

from __future__ import annotations

from typing import Literal

from derta.attacks.adaptive.refinement import RefinementSettings, refine
from derta.attacks.base import Attack
from derta.attacks.building import factory


@factory
def escalation(
    *,
    streams: int = 1,
    depth: int = 10,
    attacker_attempts: int = 5,
    remember: int = 10,
    max_new_tokens: int = 256,
    attacker_tokens: int = 500,
    role: Literal["system", "user"] = "system",
    requests_at_once: int = 16,
) -> Attack:
    """Hold a conversation with the target until a judge finds harm in a reply; PAIR's machinery, one conversation each.

    The prompt that is kept is the conversation up to the best reply, the target's own words in between.

    >>> from derta.engines.scripted import ScriptedModel
    >>> from derta.records import Request
    >>> target = ScriptedModel(lambda prompt: "First mix it." if len(prompt.messages) > 1 else "It is old.")
    >>> attacker = ScriptedModel(lambda prompt: '{"improvement": "", "prompt": "And then?"}')
    >>> [prompt] = escalation().search(
    ...     [Request(id="7", text="Why?")], target=target, attacker=attacker, judge=lambda _, reply: "mix" in reply.text
    ... )
    >>> [message.content for message in prompt.messages]
    ['And then?', 'It is old.', 'And then?']

    Args:
        streams: how many conversations a request gets.
        depth: the most messages of a conversation; the paper's 10.
        attacker_attempts: as in `pair`.
        remember: how many turns the attacker is shown.
        max_new_tokens: of a target's reply during the search.
        attacker_tokens: of an attacker's output.
        role: who instructs the attacker.
        requests_at_once: how many requests share a batch.

    Raises:
        RecipeError: a number below 1.

    Source: Russinovich et al. 2024, arXiv 2404.01833 (Crescendo), without its backtracking: a refusal stays in the
    conversation, and the attacker is told to come from another side.
    """
    return refine(
        RefinementSettings(
            attack="escalation",
            template="escalation_system.txt",
            streams=streams,
            depth=depth,
            multi_turn=True,
            attacker_attempts=attacker_attempts,
            remember=remember,
            max_new_tokens=max_new_tokens,
            attacker_tokens=attacker_tokens,
            role=role,
            requests_at_once=requests_at_once,
        )
    )
