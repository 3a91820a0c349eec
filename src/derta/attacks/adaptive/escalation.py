"""Escalation: an attacker model leads a conversation with the target towards the request, in small steps."""

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
    """Search for a conversation, led by an attacker model, in which the target's reply is judged harmful.

    The search is that of `pair`, but all steps of a stream are one conversation. The resulting prompt is the
    conversation before the best reply, with the target's earlier replies.

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
        streams: Number of conversations per request.
        depth: Maximum number of the attacker's messages in a conversation; 10 in the paper.
        attacker_attempts: See `pair`.
        remember: Number of previous turns in the attacker's prompt.
        max_new_tokens: Maximum length of a target's reply during the search.
        attacker_tokens: Maximum length of an attacker's output.
        role: The role of the attacker's instructions; see `pair`.
        requests_at_once: Number of requests per batch.

    Raises:
        RecipeError: a number is below 1.

    Source: Russinovich et al. 2024, arXiv 2404.01833 (Crescendo), without its backtracking: a refusal remains in the
    conversation, and the attacker's instructions are to try another approach.
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
