"""Completion and counter rows of a recipe's methods: checks before any data is loaded, notes, and their identity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from derta.config import Recipe
from derta.data.preparation import PreparedData
from derta.errors import RecipeError
from derta.methods import Method, check_settings
from derta.methods.ingredients import num_additional


def check_counter(recipe: Recipe, method: Method, settings: Mapping[str, Any]) -> None:
    """Validate that a recipe has counter examples if the settings of one of its methods require some.

    Raises:
        RecipeError: it has none.
    """
    per_triple = settings["counter_per_triple"]
    if per_triple and _has_rows(method) and not recipe.data.counter:
        raise RecipeError(
            f"data.counter: expected sources of counter examples for {method.name}, which has {per_triple:g} for each "
            "triple, got none; add benign requests that look like harmful ones, with answers, or set "
            f"method_settings.{method.name}.counter_per_triple to 0"
        )


def _has_rows(method: Method) -> bool:
    return method.trains and method.trainer is None


def num_counter(recipe: Recipe, method: Method, *, prepared: PreparedData) -> int:
    """Return how many counter examples, in the order of the seed, a method's training or its own refusals use."""
    settings = check_settings(method, recipe.train, recipe.settings_of(method.name))
    if method.own_refusals:
        config: Any = None if method.config is None else method.config()
        return settings.get("counter_examples", config.counter_examples)
    return _num_rows(method, settings, prepared=prepared).counter if _has_rows(method) else 0


class _NumRows(NamedTuple):
    completion: int
    counter: int


def _num_rows(method: Method, settings: Mapping[str, Any], *, prepared: PreparedData) -> _NumRows:
    counts = prepared.counts
    triples = (counts.vanilla_triples if method.triples_per_unit > 1 else None) or counts.triples
    names = ("completion_per_triple", "counter_per_triple")
    return _NumRows(*(num_additional(settings[name], num_triples=triples) for name in names))


def method_defaults(methods: Iterable[Method]) -> dict[str, Any]:
    """Return the methods' own defaults, for the origin of a training; empty if no method has any."""
    defaults = {method.name: dict(method.defaults) for method in methods if method.defaults}
    return {"method_defaults": defaults} if defaults else {}


def ingredient_notes(recipe: Recipe, methods: Iterable[Method], *, prepared: PreparedData) -> list[str]:
    """Return a note for each of a recipe's methods that has completion or counter rows."""
    notes = (_note(recipe, method, prepared=prepared) for method in methods if _has_rows(method))
    return [note for note in notes if note is not None]


def _note(recipe: Recipe, method: Method, *, prepared: PreparedData) -> str | None:
    settings = check_settings(method, recipe.train, recipe.settings_of(method.name))
    completions, counter = _num_rows(method, settings, prepared=prepared)
    if not completions and not counter:
        return None
    different = min(counter, len(prepared.counter))
    return (
        f"{method.name} has in addition {completions} completion rows and {counter} counter examples "
        f"({different} different)."
    )
