"""Attacks: requests in, prompts out. An attack never scores itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import TypeVar

from pydantic import ValidationError, validate_call

from derta.attacks.adaptive.autodan import autodan
from derta.attacks.adaptive.escalation import escalation
from derta.attacks.adaptive.multi_turn import multi_turn
from derta.attacks.adaptive.pair import pair
from derta.attacks.static.code_attack import code_attack
from derta.attacks.static.completing import completing
from derta.attacks.static.direct import direct
from derta.attacks.static.jailbreak_chat import jailbreak_chat
from derta.attacks.static.past_the_refusal import past_the_refusal
from derta.attacks.static.prefill import prefill
from derta.attacks.static.rank_assisted import rank_assisted
from derta.attacks.static.refusal_ban import refusal_ban
from derta.attacks.static.refusal_flood import refusal_flood
from derta.attacks.static.self_cipher import self_cipher
from derta.errors import RecipeError, did_you_mean
from derta.files import describe
from derta.protocols import Attack, Search

ATTACKS: dict[str, Callable[..., Attack]] = {
    "direct": direct,
    "prefill": prefill,
    "completing": completing,
    "code_attack": code_attack,
    "jailbreak_chat": jailbreak_chat,
    "self_cipher": self_cipher,
    "refusal_ban": refusal_ban,
    "rank_assisted": rank_assisted,
    "past_the_refusal": past_the_refusal,
    "refusal_flood": refusal_flood,
}

SEARCHES: dict[str, Callable[..., Search]] = {
    "pair": pair,
    "escalation": escalation,
    "multi_turn": multi_turn,
    "autodan": autodan,
}
"""Attacks that ask the target on the way: they need its engine, and some an attacker and a judge."""

LED = ("pair", "escalation")
"""Searches that cannot do without an attacker and a judge."""

B = TypeVar("B", Attack, Search)


def build_attack(name: str, options: Mapping[str, object]) -> Attack:
    """Build the attack that a recipe or a command line names; the options are the keyword arguments of its function.

    >>> from derta.records import Request
    >>> from random import Random
    >>> attack = build_attack("code_attack", {"structures": ["stack", "list"]})
    >>> [p.id for p in attack([Request(id="7", text="Paint it.")], target=None, rng=Random(0))]
    ['code_attack@stack:7', 'code_attack@list:7']

    Raises:
        RecipeError: unknown attack or option (the nearest is named), missing option, or a value that cannot be.
        DataError: a file that an option names is not what the attack expects.
    """
    if name in SEARCHES:
        raise RecipeError(f"attack {name} asks the target on the way; `derta attack {name} --target MODEL` runs it")
    return _build(ATTACKS, name, options)


def build_search(name: str, options: Mapping[str, object]) -> Search:
    """Build the search of a name; as `build_attack`."""
    return _build(SEARCHES, name, options)


def _build(family: Mapping[str, Callable[..., B]], name: str, options: Mapping[str, object]) -> B:
    if name not in family:
        raise RecipeError(f"unknown attack {name!r}; {did_you_mean(name, [*ATTACKS, *SEARCHES])}")
    build = family[name]
    known = signature(build).parameters
    for option in options:
        if option not in known:
            raise RecipeError(f"attack {name}: unknown option {option!r}; {did_you_mean(option, known)}")
    for option, parameter in known.items():
        if parameter.default is Parameter.empty and option not in options:
            raise RecipeError(f"attack {name}: expected the option `{option}`, got none; set it in the recipe")
    try:
        return validate_call(build)(**options)
    except ValidationError as error:
        raise RecipeError(f"attack {name}: option {describe(error)}") from error
