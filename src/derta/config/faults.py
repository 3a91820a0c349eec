"""All faults of a recipe's values at once, and the recipe without the faulty ones, so that the rest can be checked."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, NamedTuple, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from derta.config.recipe import Recipe, format_fault
from derta.config.train import check_field
from derta.config.training import setting_faults
from derta.errors import RecipeError

_STAND_INS: Mapping[tuple[int | str, ...], Any] = {
    ("model",): {"path": ""},
    ("model", "path"): "",
    ("data",): {"triples": [], "helpful": []},
    ("data", "triples"): [],
    ("data", "helpful"): [],
}
"""Values in place of the required ones that are missing or faulty."""
_ROUNDS = 50


class ParsedRecipe(NamedTuple):
    """A recipe without its faulty values, the faults, and the original index of each entry of `evaluate`.

    The recipe is None if a fault concerns it as a whole.
    """

    recipe: Recipe | None
    faults: list[str]
    evaluate: list[int]


def parse_with_faults(values: dict[str, Any]) -> ParsedRecipe:
    """Validate the values of a recipe; a faulty value is reported, and replaced by its default.

    >>> parsed = parse_with_faults({"titel": "x", "model": {"path": "org/m"}, "train": {"bf16": 1.5, "epochs": 2}})
    >>> for fault in parsed.faults:
    ...     print(fault)
    unknown key `train.epochs`; did you mean 'num_train_epochs'?
    `train.bf16`: Input should be a valid boolean, got 1.5
    `data`: expected a value, got none
    unknown key `titel`; did you mean 'title'?
    """
    left, faults = deepcopy(values), list[str]()
    train = left.get("train")
    if isinstance(train, dict):
        faults += _take_settings(cast("dict[Any, Any]", train))
    entries = left.get("evaluate")
    numbers = list(range(len(cast("list[Any]", entries)))) if isinstance(entries, list) else []
    for _ in range(_ROUNDS):
        try:
            return ParsedRecipe(Recipe.model_validate(left), faults, numbers)
        except ValidationError as error:
            found = error.errors(include_url=False)
            faults += dict.fromkeys(format_fault(_with_number(details, numbers)) for details in found)
            if any(not details["loc"] for details in found):
                break
            for details in reversed(found):  # from the last, because indices are those of the list before
                _remove(left, details, numbers)
    return ParsedRecipe(None, faults, numbers)


def _take_settings(train: dict[Any, Any]) -> list[str]:
    """Remove the faulty settings from a `train` section, and return their faults."""
    settings = {str(name): value for name, value in train.items() if name != "lora"}
    faults = [*setting_faults(settings, where="train")]
    for name in settings:
        if not _is_allowed(name) or any(fault.key == f"`train.{name}`" for fault in faults):
            del train[name]
    return [str(fault) for fault in faults]


def _is_allowed(name: str) -> bool:
    try:
        check_field(name)
    except RecipeError:
        return False
    return True


def _with_number(details: ErrorDetails, numbers: list[int]) -> ErrorDetails:
    """Return the details of a fault with the original index of its entry of `evaluate`."""
    first, index = (*details["loc"], "", "")[:2]
    if first == "evaluate" and isinstance(index, int) and index < len(numbers):
        return cast("ErrorDetails", {**details, "loc": (first, numbers[index], *details["loc"][2:])})
    return details


def _remove(values: dict[str, Any], details: ErrorDetails, numbers: list[int]) -> None:
    """Remove the value that a fault is about, or the part that lacks one."""
    cause = details.get("ctx", {}).get("error")
    if details["loc"] == ("train",) and isinstance(cause, RecipeError) and isinstance(values.get("train"), dict):
        names = (cause.key or "").strip("`").removeprefix("train.").split(", ")
        if found := [name for name in names if name in values["train"]]:
            for name in found:
                del values["train"][name]
            return
    path = _path_of(values, details["loc"])
    target = (*path, details["loc"][-1]) if details["type"] == "missing" else tuple(path)
    stand_in = deepcopy(_STAND_INS.get(target))
    path = [*target] if stand_in is not None else path
    parent: Any = values
    for part in path[:-1]:
        parent = parent[part]
    if stand_in is not None:
        parent[path[-1]] = stand_in
    elif path:
        del parent[path[-1]]
        if path[0] == "evaluate" and len(path) == 2:
            del numbers[int(path[1])]


def _path_of(values: Any, loc: tuple[int | str, ...]) -> list[Any]:
    """Return the keys of the innermost value in a location; names that pydantic adds to it are left out."""
    path: list[Any] = []
    for part in loc:
        keys: Any = values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
        if part in keys:
            path.append(part)
            values = cast("Any", values)[part]
    return path
