"""Environment variables, `~` and shipped data sets in the paths of a recipe.

Of variables, `DERTA_*` and those that the user allows are expanded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from os.path import exists
from pathlib import Path
from typing import Any, TypeVar, cast

from derta.config.sections import Section
from derta.errors import DataError, RecipeError
from derta.sources.shipped import PREFIX as SHIPPED
from derta.sources.shipped import expand_name

S = TypeVar("S", bound=Section)
Expand = Callable[[str, str], str]
"""Function of a recipe's key and its text that returns the expanded text."""

PREFIX = "DERTA_"
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})", re.ASCII)
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def check_names(env: Collection[str]) -> frozenset[str]:
    """Validate the names of environment variables that a user allows.

    >>> sorted(check_names(["MODELS", "HOME"]))
    ['HOME', 'MODELS']

    Raises:
        RecipeError: a name is not valid, or `env` is one text.
    """
    names = [env] if isinstance(env, str) else [*env]
    for name in names:
        if isinstance(env, str) or not _NAME.fullmatch(name):
            raise RecipeError(f"env: expected names of environment variables, such as [MODELS], got {name!r:.80}")
    return frozenset(names)


def is_allowed(name: str, env: Collection[str]) -> bool:
    """Return whether a recipe may use an environment variable."""
    return name.startswith(PREFIX) or name in env


def unset_variables(text: str) -> list[str]:
    """Return the names of the environment variables in a path that are not set; none if the path itself exists."""
    names = [match[1] or match[2] for match in _VARIABLE.finditer(text)]
    unset = [name for name in names if _NAME.fullmatch(name) and name not in os.environ]
    return [] if not unset or exists(text) else unset  # noqa: PTH110 - raises on a long text


def expand_variables(text: str, *, key: str, env: Collection[str]) -> str:
    """Expand `$NAME`, `${NAME}`, and a leading `~/` or `derta:NAME` in a path.

    The text of a path that exists, and `$` before a digit or another sign, are left.

    Raises:
        RecipeError: a variable is not set, or is not allowed (the message does not contain its value), or no data set
            of the package has the name.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not _NAME.fullmatch(name):
            return match[0]
        if name in os.environ and not is_allowed(name, env):
            raise RecipeError(
                f"expected only variables {PREFIX}* or variables that you allow, got {match[0]}; if you trust the "
                f"recipe, pass --env {name} (in Python env=[{name!r}]), or rename the variable",
                key=f"`{key}`",
            )
        if name not in os.environ:
            allow = "" if is_allowed(name, env) else f" and pass --env {name}"
            raise RecipeError(
                f"the environment variable {name} is not set, got {text!r:.120}; run `export {name}=PATH`{allow}, or "
                "write the path itself",
                key=f"`{key}`",
            )
        return os.environ[name]

    expanded = text if "$" in text and exists(text) else _VARIABLE.sub(value, text)  # noqa: PTH110 - raises on a long text
    if not text.startswith(("~/", SHIPPED)):
        return expanded
    try:
        return expand_name(expanded)
    except DataError as error:
        raise RecipeError(str(error), key=f"`{key}`") from error


def expand_section(
    section: S, expand: Expand, *, path_options: Callable[[Section], Collection[str]], key: str = ""
) -> S:
    """Return a section with expanded paths: the `PATHS` of its class and of the sections in it.

    Args:
        section: The section.
        expand: Function that expands one path.
        path_options: Names of the `options` of a section that are paths.
        key: Key of the section in the recipe.
    """

    def expand_value(value: object, name: str) -> object:
        if isinstance(value, Section):
            return expand_section(value, expand, path_options=path_options, key=name)
        if isinstance(value, tuple):
            return tuple(expand_value(item, f"{name}.{i}") for i, item in enumerate(value))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        if isinstance(value, dict):
            items = cast("dict[str, object]", value).items()
            return {key: expand_value(item, f"{name}.{key}") for key, item in items}
        return value

    prefix = f"{key}." if key else ""
    updates = {name: expand_value(getattr(section, name), prefix + name) for name in type(section).model_fields}
    paths = [*type(section).PATHS, *(f"options.{option}" for option in path_options(section))]
    for path in paths:
        name, _, inner = path.partition(".")
        updates[name] = _expand_path(updates[name], inner, lambda text, path=path: expand(prefix + path, text))
    return section.model_copy(
        update={name: value for name, value in updates.items() if value != getattr(section, name)}
    )


def _expand_path(value: Any, inner: str, expand: Callable[[str], str]) -> Any:
    if inner:
        return value | {inner: _expand_path(value[inner], "", expand)} if inner in value else value
    return expand(value) if isinstance(value, str) else value


def unexpand(text: str, texts: Mapping[str, str]) -> str:
    """Replace each expanded path in a text by its original, for messages and files.

    >>> unexpand("/data/a.csv:3: not CSV", {"/data/a.csv": "$DERTA_DATA/a.csv"})
    '$DERTA_DATA/a.csv:3: not CSV'

    Args:
        text: The text.
        texts: The original text of each expanded path.
    """
    variants = dict(texts) | {str(Path(path)): original for path, original in texts.items()}
    paths = sorted((path for path in variants if path), key=len, reverse=True)
    if not paths:
        return text
    pattern = rf"(?<![\w./-])(?:{'|'.join(map(re.escape, paths))})(?![\w-])"
    return re.sub(pattern, lambda match: variants[match[0]], text)
