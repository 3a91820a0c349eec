"""Attacks: requests in, prompts out. An attack does not judge its own prompts.

>>> from derta.records import Request
>>> requests = [Request(id="7", text="How is bread made?", harmful="Mix flour and water, then bake.")]
>>> [prompt.prefill for prompt in prefill(depths=("50%",)).craft(requests)]
['Mix flour and']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from derta.attacks.adaptive.autodan import autodan
from derta.attacks.adaptive.escalation import escalation
from derta.attacks.adaptive.multi_turn import multi_turn
from derta.attacks.adaptive.pair import pair
from derta.attacks.attempts import read_attempts, success_by_budget
from derta.attacks.base import Attack
from derta.attacks.building import build_from, from_function
from derta.attacks.prompts import craft_prompt
from derta.attacks.search import SearchContext
from derta.attacks.static.best_of_n import best_of_n
from derta.attacks.static.code_attack import code_attack
from derta.attacks.static.completing import completing
from derta.attacks.static.direct import direct
from derta.attacks.static.jailbreak_chat import jailbreak_chat
from derta.attacks.static.past_the_refusal import past_the_refusal
from derta.attacks.static.prefill import prefill, thought_prefill
from derta.attacks.static.rank_assisted import rank_assisted
from derta.attacks.static.refusal_ban import refusal_ban
from derta.attacks.static.refusal_flood import refusal_flood
from derta.attacks.static.self_cipher import self_cipher
from derta.errors import RecipeError, did_you_mean

ATTACKS: dict[str, Callable[..., Attack]] = {
    "direct": direct,
    "prefill": prefill,
    "thought_prefill": thought_prefill,
    "completing": completing,
    "code_attack": code_attack,
    "jailbreak_chat": jailbreak_chat,
    "self_cipher": self_cipher,
    "refusal_ban": refusal_ban,
    "rank_assisted": rank_assisted,
    "past_the_refusal": past_the_refusal,
    "refusal_flood": refusal_flood,
    "best_of_n": best_of_n,
    "pair": pair,
    "escalation": escalation,
    "multi_turn": multi_turn,
    "autodan": autodan,
}
"""All attacks by name. Those whose `searches` is True query the target; the others need no model."""

__all__ = [
    "ATTACKS",
    "Attack",
    "SearchContext",
    "autodan",
    "best_of_n",
    "build_attack",
    "code_attack",
    "completing",
    "craft_prompt",
    "direct",
    "escalation",
    "from_function",
    "jailbreak_chat",
    "multi_turn",
    "pair",
    "past_the_refusal",
    "prefill",
    "rank_assisted",
    "read_attempts",
    "refusal_ban",
    "refusal_flood",
    "self_cipher",
    "success_by_budget",
    "thought_prefill",
]


def build_attack(
    attack: str | Attack | Callable[..., Any],
    options: Mapping[str, object] | None = None,
    *,
    extra: Mapping[str, Attack | Callable[..., Any]] | None = None,
) -> Attack:
    """Build an attack from its name and options, or from a user's attack, factory of attacks, or function of a request.

    >>> from derta.records import Request
    >>> attack = build_attack("code_attack", {"structures": ["stack", "list"]})
    >>> [prompt.id for prompt in attack.craft([Request(id="7", text="Paint it.")])]
    ['code_attack@stack:7', 'code_attack@list:7']

    Args:
        attack: A name in `ATTACKS` or `extra`, an attack, a factory, or a function as for `from_function`.
        options: The keyword arguments of the factory or function.
        extra: Additional attacks by name. They take precedence over `ATTACKS`.

    Raises:
        RecipeError: unknown attack or option (the message names the nearest), missing option, or invalid value.
        DataError: a file that an option names is missing or malformed.
    """
    options, extra = options or {}, extra or {}
    if not isinstance(attack, str):
        return build_from(attack, options)
    if attack in extra:
        return build_from(extra[attack], options, name=attack)
    if attack not in ATTACKS:
        raise RecipeError(f"unknown attack {attack!r}; {did_you_mean(attack, [*extra, *ATTACKS])}")
    return ATTACKS[attack](**options)
