"""Requests of a recipe's sources: the requests of an evaluation, and notes on limits."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from derta.config import EvaluationSection, Recipe, SourceSection
from derta.data.mixture import sample
from derta.data.requests import ReadRequests, read_requests
from derta.errors import DataError
from derta.records import Request
from derta.sources import is_hub_id
from derta.sources.named import access_hint


def layout_of(source: SourceSection) -> dict[str, Any]:
    """Return the arguments of a reader for all rows of a source."""
    return source.model_dump(include={"format", "split", "config", "columns"})


def read_source(source: SourceSection) -> list[Request]:
    """Load all requests of a source; its limit is ignored.

    Raises:
        DataError: The source cannot be read; of a data set by name, the message says how to get it.
    """
    return read_counted(source).requests


def read_counted(source: SourceSection) -> ReadRequests:
    """Load all requests of a source, with the number of repeated rows; its limit is ignored.

    Raises:
        DataError: as in `read_source`.
    """
    try:
        return read_requests(source.path, **layout_of(source))
    except DataError as error:
        if source.name is None or not is_hub_id(source.path):
            raise
        raise DataError(f"{source.name}: {error}; {access_hint(source.name)}") from error


def section_requests(section: EvaluationSection, *, held_out: Sequence[Request], seed: int) -> list[Request]:
    """Return the requests of an evaluation; with a limit, a sample of that size that depends on the seed alone.

    All requests of a source with fewer than its limit are returned (see `limit_notes`).
    """
    if not isinstance(section.requests, SourceSection):
        return list(held_out)
    requests = read_source(section.requests)
    limit = min(section.requests.limit or len(requests), len(requests))
    return sample(requests, limit, rng=Random(f"{seed}:requests"))  # noqa: S311 - a reproducible draw


def limit_notes(recipe: Recipe) -> list[str]:
    """Return a note for each evaluation whose source has fewer requests than its limit, which are all used."""
    sources = [section.requests for section in recipe.evaluate if isinstance(section.requests, SourceSection)]
    limited = [source for source in sources if source.limit is not None]
    notes = [limit_note(source, len(read_source(source)), "requests") for source in limited]
    return list(dict.fromkeys(note for note in notes if note is not None))


def limit_note(source: SourceSection, count: int, what: str) -> str | None:
    """Return a note if a source has fewer records than its limit; None otherwise."""
    if source.limit is None or count >= source.limit:
        return None
    return f"{source.path}: {count} {what} are fewer than the limit of {source.limit}: all are used."
