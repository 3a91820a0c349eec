"""Expansion of the environment variables in a recipe's paths, while messages and files contain the original text."""

from __future__ import annotations

import logging
from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from derta.config import EvaluationSection, Recipe, Section, expand_section, expand_variables, unexpand
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
def expanded_paths(recipe: Recipe, registry: Registry = Registry()) -> Generator[ExpandedRecipe]:
    """Expand the environment variables in a recipe's paths while the block runs.

    Errors and log records of the block contain the original text.

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
    try:
        with _original_in_log_records(expanded):
            yield expanded
    except DertaError as error:
        error.args = tuple(expanded.name(part) if isinstance(part, str) else part for part in error.args)
        if isinstance(error, RecipeError):
            error.reason = expanded.name(error.reason)
        raise


@contextmanager
def _original_in_log_records(expanded: ExpandedRecipe) -> Generator[None]:
    """Replace expanded paths in the log records of all loggers, also those of libraries, while the block runs."""
    if not expanded.texts:
        yield
        return
    factory = logging.getLogRecordFactory()

    def make_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = factory(*args, **kwargs)
        message = record.getMessage()
        if (original := expanded.name(message)) != message:
            record.msg, record.args = original, ()
        return record

    logging.setLogRecordFactory(make_record)
    try:
        yield
    finally:
        logging.setLogRecordFactory(factory)
