"""Loading of rows from files, `datasets` folders and hub datasets, with a location (file and line) for errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from os.path import exists, isdir
from pathlib import Path

from derta.errors import DataError, kind_of
from derta.sources.archives import read_zip as read_zip
from derta.sources.compression import COMPRESSED, plain_name
from derta.sources.hub import folder_rows, hub_rows
from derta.sources.rows import Row as Row
from derta.sources.rows import fields_of as fields_of
from derta.sources.rows import rename_columns
from derta.sources.shipped import expand_name as expand_name
from derta.sources.tables import csv_records as csv_records
from derta.sources.tables import csv_rows, parquet_rows, tsv_rows
from derta.sources.texts import json_rows, jsonl_rows, line_rows, part_rows

SEPARATOR = "====="

FILE_KINDS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".json": json_rows,
    ".jsonl": jsonl_rows,
    ".csv": csv_rows,
    ".tsv": tsv_rows,
    ".parquet": parquet_rows,
    ".txt": line_rows,
}
"""Readers of files by their suffix, which may be followed by one of a compression (`.jsonl.gz`)."""


def read_rows(
    source: str | Path,
    *,
    split: str = "train",
    config: str | None = None,
    columns: Mapping[str, str] | None = None,
    separator: str | None = None,
) -> Iterator[Row]:
    """Yield the rows of a file, a folder or a hub dataset (`org/name`).

    Files are JSON (a list), JSON Lines, CSV or TSV with a header, Parquet, or text with a row on each line; each may be
    compressed (`.gz`, `.zst`). A folder is the output of `save_to_disk` of `datasets`, or in a format that
    `datasets.load_dataset` can load.

    Args:
        source: A path, where `~` is the home folder, `derta:NAME` for a data set that is part of the package, or a hub
            id if no file or folder has that name; `org/name:FILE` are files of a hub dataset.
        split: The split of a hub dataset or a folder; files have no splits.
        config: The configuration of a hub dataset or a folder.
        columns: Names of columns in the source, by the names that its rows should have.
        separator: Separator line of text files. If set, `.txt` files and files of unknown formats are text, and the
            parts between two separator lines are the rows.

    Raises:
        DataError: the source does not exist, has an unknown format, is malformed, or has no rows.
    """
    path = type(source)(expand_name(str(source)))
    rows = _rows_of(path, split=split, config=config, separator=separator)
    if columns:
        rows = iter(rename_columns(rows, columns, source=source))
    count = 0
    for row in rows:
        count += 1
        yield row
    if not count:
        raise DataError(f"{source}: expected rows, the file holds none; check that it is complete")


def read_entries(path: str | Path, *, separator: str = SEPARATOR) -> list[object]:
    """Load the rows of a user's file, or the parts of a text file between separator lines.

    Raises:
        DataError: the file is missing, not UTF-8, malformed or empty.
    """
    return [row.value for row in read_rows(Path(path), separator=separator)]


def read_texts(
    path: str | Path, *, what: str, fields: tuple[str, ...] = ("text",), separator: str = SEPARATOR
) -> tuple[str, ...]:
    """Load the texts of a user's file: strings, or a field of its rows. `what` is the word for an entry in errors.

    Raises:
        DataError: the file is invalid (see `read_entries`), or an entry has no text; the error has its number, from 1.
    """
    entries = enumerate(read_entries(path, separator=separator), start=1)
    return tuple(text_of_entry(entry, fields=fields, where=f"{path}, {what} {number}") for number, entry in entries)


def text_of_entry(entry: object, *, fields: tuple[str, ...], where: str) -> str:
    """Return the text of an entry: the entry itself, or its first field among `fields`.

    >>> text_of_entry({"name": "a", "prompt": "Ask"}, fields=("text", "prompt"), where="file, entry 1")
    'Ask'

    Raises:
        DataError: the entry has no text, or an empty text.
    """
    value: object = entry
    if isinstance(entry, dict):
        value = next((entry[field] for field in fields if field in entry), None)
    if not isinstance(value, str) or not value.strip():
        got = f"the fields {[str(field) for field in entry]}" if isinstance(entry, dict) else kind_of(entry)
        raise DataError(f"{where}: expected text, or text under {' or '.join(fields)}, got {got} without it")
    return value


def _rows_of(source: str | Path, *, split: str, config: str | None, separator: str | None) -> Iterator[Row]:
    path = Path(source)
    kind = _file_kind(path)
    if isdir(source):  # noqa: PTH112 - Path.is_dir raises on a long text
        return folder_rows(path, config=config, split=split)
    if separator is None and is_hub_id(source):
        return hub_rows(str(source), config=config, split=split)
    if config is not None:
        raise DataError(f"{source}: expected no `config` for a file, got {config!r}; remove it")
    if separator is not None and kind in (None, ".txt"):
        return part_rows(path, separator)
    if kind is not None:
        return FILE_KINDS[kind](path)
    expected = f"{' '.join(FILE_KINDS)} (or with {' '.join(COMPRESSED)} after it)"
    if exists(source):  # noqa: PTH110
        raise DataError(f"{source}: expected a file ending in {expected}, got {path.suffix!r}; convert it")
    raise DataError(
        f"{source}: expected an existing file {expected}, a folder of `datasets`, or a hub dataset `org/name`, found "
        "none; check the path"
    )


def _file_kind(path: Path) -> str | None:
    """Return the key of the file's reader in `FILE_KINDS`; None without one."""
    suffix = plain_name(path).suffix.lower()
    return suffix if suffix in FILE_KINDS else None


def source_name(source: str | Path) -> str:
    """Return the value of a record's `source` field: a file name without its extension, a folder name, or a hub id."""
    return str(source) if is_hub_id(source) else plain_name(Path(source)).stem


def is_hub_id(source: str | Path) -> bool:
    """Return whether a source is a hub dataset (`org/name`, `org/name:FILE`), where no file has that name."""
    if not isinstance(source, str) or (match := re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w./*-]+)?", source)) is None:
        return False
    return (match[1] is not None or _file_kind(Path(source)) is None) and not exists(source)  # noqa: PTH110
