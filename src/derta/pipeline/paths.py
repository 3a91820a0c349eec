"""Expansion of the environment variables in a recipe's paths, while messages and files contain the original text."""

from __future__ import annotations

import logging
from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from derta.config import EvaluationSection, Recipe, Section, expand_section, expand_variables, unexpand
from derta.data.fields import logger as data_logger
from derta.errors import DertaError, RecipeError
from derta.pipeline.registry import Registry


@dataclass(frozen=True, slots=True)
class ExpandedRecipe:
    """A recipe with expanded paths, and the original text of each path that contained a variable."""

    recipe: Recipe
    texts: dict[str, str] = field(default_factory=dict[str, str])

    def name(self, path: Path | str) -> str:
        """Return a text with the original instead of each expanded path."""
        return unexpand(str(path), self.texts)


@contextmanager
def expanded_paths(
    recipe: Recipe, registry: Registry = Registry(), *, logger: logging.Logger | None = None
) -> Generator[ExpandedRecipe]:
    """Expand the environment variables in a recipe's paths while the block runs.

    Errors of the block, and log records of `logger` and of the readers of data, contain the original text.

    Raises:
        RecipeError: a variable is set, but the user does not allow it.
    """
    texts: dict[str, str] = {}

    def expand(key: str, text: str) -> str:
        expanded = expand_variables(text, key=key, env=recipe.env)
        if expanded != text:
            texts[expanded] = text
        return expanded

    def path_options(section: Section) -> Collection[str]:
        return registry.path_options(section) if isinstance(section, EvaluationSection) else ()

    expanded = ExpandedRecipe(expand_section(recipe, expand, path_options=path_options), texts)
    loggers = [data_logger, *([] if logger is None else [logger])]
    unexpander = _Unexpander(expanded)
    try:
        for one in loggers:
            one.addFilter(unexpander)
        yield expanded
    except DertaError as error:
        error.args = tuple(expanded.name(part) if isinstance(part, str) else part for part in error.args)
        if isinstance(error, RecipeError):
            error.reason = expanded.name(error.reason)
        raise
    finally:
        for one in loggers:
            one.removeFilter(unexpander)


class _Unexpander(logging.Filter):
    """Filter that replaces expanded paths in log records by their original text."""

    def __init__(self, expanded: ExpandedRecipe) -> None:
        super().__init__()
        self._expanded = expanded

    def filter(self, record: logging.LogRecord) -> bool:
        if self._expanded.texts:
            record.msg, record.args = self._expanded.name(record.getMessage()), ()
        return True
