"""Checks of a recipe's files without loading any data: paths, formats and columns, by the first rows of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from os.path import isdir, isfile
from pathlib import Path
from typing import Any, NamedTuple

from derta.columns import lower_names
from derta.config import AnswerSource, Recipe, SourceSection
from derta.data.detection import pick_format
from derta.data.fields import DroppedRowError
from derta.data.helpful_formats import HELPFUL_FORMATS
from derta.data.helpful_formats import UNCERTAIN as UNCERTAIN_HELPFUL
from derta.data.pair_formats import PAIR_FORMATS
from derta.data.request_formats import REQUEST_FORMATS
from derta.data.triple_formats import TRIPLE_FORMATS
from derta.data.triple_formats import UNCERTAIN as UNCERTAIN_TRIPLES
from derta.errors import DertaError
from derta.files import read_records
from derta.records import Prompt
from derta.sources import Row, is_hub_id, read_rows
from derta.sources.named import licence_note
from derta.sources.rows import rename_columns

ROWS = 200
"""Number of rows of a file that are read for its columns."""


class Kind(NamedTuple):
    """Formats of a kind of data, and the columns next to which a detected format is uncertain."""

    formats: Mapping[str, Any]
    uncertain: Mapping[str, Sequence[str]] = {}


KINDS: Mapping[str, Kind] = {
    "triples": Kind(TRIPLE_FORMATS, UNCERTAIN_TRIPLES),
    "helpful": Kind(HELPFUL_FORMATS, UNCERTAIN_HELPFUL),
    "preferences": Kind(PAIR_FORMATS),
    "requests": Kind(REQUEST_FORMATS),
}


class CheckedSource(NamedTuple):
    """A source of a recipe: its key, the kind of its data (of `KINDS`), and its section."""

    key: str
    kind: str
    section: SourceSection


def recipe_sources(recipe: Recipe, *, numbers: Sequence[int]) -> Iterator[CheckedSource]:
    """Yield the sources of a recipe; `numbers` are the indices of its evaluations in the file."""
    data = recipe.data
    for name, kind in (("triples", "triples"), ("helpful", "helpful"), ("counter", "helpful")):
        for index, source in enumerate(getattr(data, name)):
            yield CheckedSource(f"data.{name}.{index}", _answered_kind(source, kind), source)
    for name, kind in (("preferences", "preferences"), ("exclude", "requests")):
        for index, source in enumerate(getattr(data, name)):
            yield CheckedSource(f"data.{name}.{index}", kind, source)
    for index, section in zip(numbers, recipe.evaluate, strict=True):
        if isinstance(section.requests, SourceSection):
            yield CheckedSource(f"evaluate.{index}.requests", "requests", section.requests)
    for name, kind in (("profile_requests", "requests"), ("profile_examples", "helpful")):
        if (source := getattr(recipe, name)) is not None:
            yield CheckedSource(name, kind, source)
    for index, attack in enumerate(recipe.fine_tuning_attacks):
        for name, kind, sources in (("helpful", "helpful", attack.helpful), ("harmful", "triples", attack.harmful)):
            for number, source in enumerate(sources):
                yield CheckedSource(f"fine_tuning_attacks.{index}.{name}.{number}", kind, source)


def licence_notes(recipe: Recipe) -> list[str]:
    """Return a note with the licence of each data set that a recipe names, once each."""
    sources = recipe_sources(recipe, numbers=range(len(recipe.evaluate)))
    return [licence_note(name) for name in dict.fromkeys(one.section.name for one in sources) if name is not None]


def _answered_kind(source: SourceSection, kind: str) -> str:
    """Return the kind of a source, which has requests alone if the model answers them and the format says so."""
    is_asked = isinstance(source, AnswerSource) and source.answers == "model"
    return "requests" if is_asked and source.format in REQUEST_FORMATS.keys() - HELPFUL_FORMATS.keys() else kind


def is_checked(source: SourceSection) -> bool:
    """Return whether the rows of a source are checked: those of a file, but of no folder and no hub dataset."""
    return not (isdir(source.path) or is_hub_id(source.path) or source.path.endswith(".zip"))  # noqa: PTH112


def source_fault(source: SourceSection, *, kind: str) -> str | None:
    """Return the fault of a source's path, format or columns, as loading it would report; None without one.

    >>> source_fault(SourceSection(path="gone.jsonl"), kind="triples")
    'gone.jsonl: cannot read it (No such file or directory); check the path'
    """
    if not is_checked(source):
        return None if not source.path.endswith(".zip") or isfile(source.path) else f"{source.path}: no such file"  # noqa: PTH113
    try:
        _check_rows(source, KINDS[kind])
    except DertaError as error:
        return str(error)
    return None


def _check_rows(source: SourceSection, kind: Kind) -> None:
    rows: list[Row] = list(islice(read_rows(source.path, split=source.split, config=source.config), ROWS))
    if rows and isinstance(rows[0].value, str):
        return  # lines of a text file, which are requests
    named = rename_columns(iter(rows), source.columns, source=source.path) if source.columns else rows
    _, layout, found = pick_format(
        map(lower_names, named),
        kind.formats,
        name=source.format,
        source=source.path,
        columns=source.columns,
        uncertain=kind.uncertain,
    )
    with suppress(DroppedRowError):  # a valid row that is not used
        layout.read(next(found))


def prompts_fault(path: str) -> str | None:
    """Return the fault of a file of prompts, by its first row; None without one."""
    try:
        for _ in islice(read_records(Path(path), Prompt), 1):
            pass
    except DertaError as error:
        return str(error)
    return None
