"""Building attacks: validation of their options, and attacks from a user's functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import wraps
from inspect import Parameter, Signature, signature
from random import Random
from typing import Any, ParamSpec, cast

from pydantic import ValidationError, validate_call

from derta.attacks.base import Attack, per_request
from derta.attacks.prompts import after_context, craft_prompt
from derta.errors import DataError, RecipeError, did_you_mean
from derta.files import format_validation_error
from derta.records import Prompt, Request

P = ParamSpec("P")
AttackFunction = Callable[..., str | Prompt | Iterable[str | Prompt]]
"""A user's attack: `fn(request)`, with a keyword argument `rng` if it needs randomness, and others as options."""
RENAMED = {"tries": "attacker_attempts"}
"""Former names of options, for the suggestion in the error message."""


def factory(function: Callable[P, Attack]) -> Callable[P, Attack]:
    """Decorate a function that builds an attack: its options are validated, and stored on the attack."""

    @wraps(function)
    def build(*args: P.args, **options: P.kwargs) -> Attack:
        if args:
            raise RecipeError(f"attack {function.__name__}: expected options by name, got {args[0]!r:.60}; name it")
        return call_factory(function, options)

    return build


def call_factory(function: Callable[..., Attack], options: Mapping[str, object], *, name: str | None = None) -> Attack:
    """Build an attack with its factory, and store the options (defaults included) on it.

    Raises:
        RecipeError: an unknown option (the message names the nearest), a missing option, or an invalid value.
        DataError: a file that an option names is missing or malformed.
    """
    name = name or function.__name__
    parameters = signature(function).parameters
    _check_options(name, options, parameters)
    try:
        attack = cast("object", validate_call(function)(**options))
    except ValidationError as error:
        raise RecipeError(f"attack {name}: option {format_validation_error(error)}") from error
    if not isinstance(attack, Attack):
        raise RecipeError(
            f"attack {name}: expected a function of a request, or one of options that returns an attack, got one that "
            f"returns {attack!r:.60}"
        )
    defaults = {option: one.default for option, one in parameters.items() if one.default is not Parameter.empty}
    return replace(attack, options={**defaults, **options})


def _check_options(name: str, options: Mapping[str, object], parameters: Mapping[str, Parameter]) -> None:
    for option in options:
        if option not in parameters:
            raise RecipeError(
                f"attack {name}: unknown option {option!r}; {did_you_mean(RENAMED.get(option, option), parameters)}"
            )
    for option, parameter in parameters.items():
        if parameter.default is Parameter.empty and option not in options:
            raise RecipeError(f"attack {name}: expected the option `{option}`, got none; give it")


def from_function(
    function: AttackFunction,
    *,
    name: str | None = None,
    version: str | None = None,
    options: Mapping[str, object] | None = None,
) -> Attack:
    """Build an attack from a user's function of a request.

    The function returns a text for the user message, a `Prompt`, or an iterable of either. The items of an iterable
    become variants, numbered from 1. Ids, the request and its reference fields are added to each prompt.

    >>> def politely(request):
    ...     return f"Please: {request.text}"
    >>> [prompt] = from_function(politely).craft([Request(id="7", text="Why?")])
    >>> prompt.id, prompt.messages[0].content
    ('politely:7', 'Please: Why?')

    Args:
        function: `fn(request)`; a keyword argument `rng` receives a random generator for the request.
        name: The attack's name. By default, the function's name.
        version: An identifier of the function that a resumed run compares. By default, the function's source code.
        options: Additional keyword arguments of the function.

    Raises:
        RecipeError: the function has no name, or an option is not an argument of it.
        DataError: (from `craft`) the function returned something else.
    """
    attack = name or str(getattr(function, "__name__", "<unnamed>"))
    if attack.startswith("<"):
        raise RecipeError("attack: expected a function with a name, got a lambda or an object; give `name=`")
    options = dict(options or {})
    keywords = dict([*signature(function).parameters.items()][1:])
    takes_rng = keywords.pop("rng", None) is not None
    if not any(one.kind is Parameter.VAR_KEYWORD for one in keywords.values()):
        _check_options(attack, options, keywords)

    def craft_one(request: Request, rng: Random) -> Iterator[Prompt]:
        result = cast("object", function(request, **options, **({"rng": rng} if takes_rng else {})))
        if isinstance(result, Iterable) and not isinstance(result, (str, Prompt)):
            for number, one in enumerate(cast("Iterable[object]", result), start=1):
                yield _as_prompt(one, request, attack=attack, variant=str(number))
        else:
            yield _as_prompt(result, request, attack=attack, variant=None)

    return replace(per_request(attack, craft_one), options=options, function=function, version=version)


def _as_prompt(result: object, request: Request, *, attack: str, variant: str | None) -> Prompt:
    if isinstance(result, str) and result.strip():
        return craft_prompt(request, attack=attack, variant=variant, messages=after_context(request, result))
    if isinstance(result, Prompt):
        base = craft_prompt(request, attack=attack, variant=result.variant or variant, messages=request.conversation)
        overrides = result.model_dump(include={"mode", "messages", "text", "prefill", "depth", "decoding", "cost"})
        tools = result.tools or (request.tools if result.mode == "chat" else None)
        return Prompt.model_validate(base.model_dump() | overrides | {"tools": tools})
    raise DataError(
        f"attack {attack}: expected a text that is not empty, a Prompt, or several of them for request {request.id!r}, "
        f"got {result!r:.60}; let the function return one"
    )


def _is_factory(function: Callable[..., Any]) -> bool:
    """Return whether a function builds an attack from options, rather than taking a request."""
    callable_signature = signature(function)
    if callable_signature.return_annotation is not Signature.empty:
        return str(
            getattr(callable_signature.return_annotation, "__name__", callable_signature.return_annotation)
        ).endswith("Attack")
    return all(
        one.kind in (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD) or one.default is not Parameter.empty
        for one in callable_signature.parameters.values()
    )


def build_from(
    attack: Attack | Callable[..., Any], options: Mapping[str, object], *, name: str | None = None
) -> Attack:
    """Build an attack from a user's object: an attack, a factory of attacks, or a function of a request.

    Raises:
        RecipeError: the object is none of these, or has no such option.
    """
    if isinstance(attack, Attack):
        if options:
            raise RecipeError(
                f"attack {attack.name}: expected no options for an attack that is already built, got {[*options]}"
            )
        return attack
    if not callable(attack):
        raise RecipeError(f"attack: expected a name, an attack or a function, got {attack!r:.60}")
    if _is_factory(attack):
        return replace(call_factory(attack, options, name=name), function=attack)
    return from_function(attack, name=name, options=options)
