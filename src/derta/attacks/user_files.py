"""Lists of texts that a user brings: JSON, JSONL, CSV, or plain text with a line between two entries."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from derta.errors import DataError
from derta.files import read_objects

SEPARATOR = "====="


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: expected UTF-8 text, got byte 0x{error.object[error.start]:02x}; convert it"
        ) from error


def _json_list(path: Path) -> list[object]:
    try:
        value: object = json.loads(_read(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: expected a JSON list, got text that is not JSON ({error}); mend it") from error
    if not isinstance(value, list):
        raise DataError(f"{path}: expected a JSON list, got {type(value).__name__}; put the entries into [ ]")
    return [*value]


def _csv_rows(path: Path) -> list[object]:
    try:
        return [*csv.DictReader(io.StringIO(_read(path), newline=""), strict=True)]
    except csv.Error as error:
        raise DataError(
            f"{path}: expected CSV with a header line, got what csv cannot read ({error}); mend it"
        ) from error


def _parts(path: Path, separator: str) -> list[object]:
    parts: list[list[str]] = [[]]
    for line in _read(path).splitlines():
        if line.strip() == separator:
            parts.append([])
        else:
            parts[-1].append(line)
    texts = ["\n".join(part).strip() for part in parts]
    return [text for text in texts if text]


def read_entries(path: Path, *, separator: str = SEPARATOR) -> list[object]:
    """The entries of a `.json` list, a `.jsonl` or `.csv` file, or the parts of any other file between separator lines.

    Raises:
        DataError: the file is missing, is not UTF-8, is malformed, or holds nothing.
    """
    match path.suffix.lower():
        case ".json":
            entries = _json_list(path)
        case ".jsonl":
            entries = [value for _, value in read_objects(path)]
        case ".csv":
            entries = _csv_rows(path)
        case _:
            entries = _parts(path, separator)
    if not entries:
        raise DataError(f"{path}: expected at least one entry, got none")
    return entries


def text_of(entry: object, *, fields: tuple[str, ...], where: str) -> str:
    """The text of an entry: the entry itself, or the first of the fields that it has.

    >>> text_of({"name": "a", "prompt": "Ask"}, fields=("text", "prompt"), where="file, entry 1")
    'Ask'

    Raises:
        DataError: there is none, or it is empty.
    """
    value: object = entry
    if isinstance(entry, dict):
        value = next((entry[field] for field in fields if field in entry), None)
    if not isinstance(value, str) or not value.strip():
        got = f"the fields {[str(field) for field in entry]}" if isinstance(entry, dict) else type(entry).__name__
        raise DataError(f"{where}: expected text, or text under {' or '.join(fields)}, got {got} without it")
    return value
