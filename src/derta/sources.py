"""Loading of rows from files, `datasets` folders and hub datasets, with a location (file and line) for errors."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from os.path import exists, isdir
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, cast

from derta.errors import DataError
from derta.files import decode, format_json_error, parse_json, read_bytes, read_objects

SEPARATOR = "====="
MAX_ARCHIVE_BYTES = 2**29
"""Maximum size of the unpacked members of a zip archive, which are held in memory."""


class Row(NamedTuple):
    """One parsed row, with its location (`file:line`, or `dataset[split], row n`)."""

    where: str
    value: Any


def read_rows(source: str | Path, *, split: str = "train", separator: str | None = None) -> Iterator[Row]:
    """Yield the rows of a file (`.json` list, `.jsonl`, `.csv`, `.parquet`), a folder or a hub dataset (`org/name`).

    A folder is the output of `save_to_disk` of `datasets`, or in a format that `datasets.load_dataset` can load.

    Args:
        source: A path, or a hub id if no file or folder has that name.
        split: The split of a hub dataset or a folder; files have no splits.
        separator: Separator line of text files. If set, files of all other formats are parsed as text, and the parts
            between two separator lines are the rows.

    Raises:
        DataError: the source does not exist, has an unknown format, is malformed, or has no rows.
    """
    count = 0
    for row in _rows_of(source, split=split, separator=separator):
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
        got = f"the fields {[str(field) for field in entry]}" if isinstance(entry, dict) else type(entry).__name__
        raise DataError(f"{where}: expected text, or text under {' or '.join(fields)}, got {got} without it")
    return value


def fields_of(row: Row) -> Mapping[str, Any]:
    """Return the row as a mapping from field names to values.

    Raises:
        DataError: the row is a string, a number or a list.
    """
    if not isinstance(row.value, dict):
        raise DataError(
            f"{row.where}: expected an object with named fields, got a {type(row.value).__name__}; "
            "fix or remove the row"
        )
    return cast("dict[str, Any]", row.value)


def _rows_of(source: str | Path, *, split: str, separator: str | None) -> Iterator[Row]:
    path = Path(source)
    suffix = path.suffix.lower()
    if isdir(source):  # noqa: PTH112 - Path.is_dir raises on a long text
        return _folder_rows(path, split=split)
    if suffix in FILE_KINDS:
        return FILE_KINDS[suffix](path)
    if separator is not None:
        return _text_rows(path, separator)
    if exists(source):  # noqa: PTH110
        raise DataError(f"{source}: expected a file ending in {' '.join(FILE_KINDS)}, got {suffix!r}; convert it")
    if _is_hub_id(source):
        return _hub_rows(str(source), split=split)
    raise DataError(
        f"{source}: expected an existing file ({' '.join(FILE_KINDS)}), a folder of `datasets`, or a hub dataset "
        "`org/name`, found none; check the path"
    )


def source_name(source: str | Path) -> str:
    """Return the value of a record's `source` field: a file name without its extension, a folder name, or a hub id."""
    return str(source) if _is_hub_id(source) else Path(source).stem


def _is_hub_id(source: str | Path) -> bool:
    return (
        isinstance(source, str)
        and re.fullmatch(r"[\w.-]+/[\w.-]+", source) is not None
        and Path(source).suffix.lower() not in FILE_KINDS
        and not exists(source)  # noqa: PTH110
    )


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for number, value in read_objects(path):
        yield Row(f"{path}:{number}", value)


def _json_rows(path: Path) -> Iterator[Row]:
    text = decode(read_bytes(path), where=str(path))
    try:
        value = parse_json(text) if text.strip() else []
    except json.JSONDecodeError as error:
        advice = "rename it to .jsonl" if error.msg == "Extra data" else "the file may be cut short: fetch it again"
        raise DataError(
            f"{path}:{error.lineno}: expected one JSON list, got text that is not ({error.msg}); {advice}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: expected a JSON list of rows, got one that cannot be read ({format_json_error(error)}); fix it"
        ) from error
    if not isinstance(value, list):
        raise DataError(f"{path}: expected a JSON list of rows, got a {type(value).__name__}; keep only the list")
    for index, item in enumerate(cast("list[Any]", value)):
        yield Row(f"{path}[{index}]", item)


def csv_records(text: str, *, where: str) -> Iterator[tuple[str, list[str]]]:
    """Parse CSV text and yield (file:line, cells) of each record; the line is the record's last."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if cells:
                yield f"{where}:{reader.line_num}", cells
    except csv.Error as error:
        raise DataError(f"{where}:{reader.line_num}: not CSV ({error}); fix the quotes or fetch it again") from error


def _csv_rows(path: Path) -> Iterator[Row]:
    records = csv_records(decode(read_bytes(path), where=str(path)), where=str(path))
    first, header = next(records, ("", list[str]()))
    if len(set(header)) < len(header):
        raise DataError(f"{first}: expected columns of different names, got {', '.join(header)}; rename one")
    for where, cells in records:
        if len(cells) != len(header):
            raise DataError(
                f"{where}: expected {len(header)} columns as in the header, got {len(cells)}; fix or remove the row"
            )
        yield Row(where, dict(zip(header, cells, strict=True)))


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow.parquet as pq  # slow to import, and most sources are not parquet

    if not path.exists():
        raise DataError(f"{path}: cannot read it (No such file or directory); check the path")
    try:
        with pq.ParquetFile(path) as file:
            rows = (value for batch in file.iter_batches() for value in batch.to_pylist())
            for index, value in enumerate(rows):
                yield Row(f"{path}[{index}]", value)
    except (OSError, ValueError) as error:  # base classes of pyarrow's errors
        raise DataError(f"{path}: not a parquet file ({_one_line(error)}); fetch it again") from error


def _text_rows(path: Path, separator: str) -> Iterator[Row]:
    """Yield the parts of a text file between separator lines, stripped of white space; empty parts are skipped."""
    parts: list[tuple[int, list[str]]] = [(1, [])]
    for number, line in enumerate(decode(read_bytes(path), where=str(path)).splitlines(), start=1):
        if line.strip() == separator:
            parts.append((number + 1, []))
        else:
            parts[-1][1].append(line)
    for number, lines in parts:
        if text := "\n".join(lines).strip():
            yield Row(f"{path}:{number}", text)


def _hub_rows(name: str, *, split: str) -> Iterator[Row]:
    from datasets import load_dataset  # slow to import, and most sources are files
    from datasets.exceptions import DatasetsError

    try:
        rows: Any = load_dataset(name, split=split)
    except (OSError, ValueError, DatasetsError) as error:  # not found, no network, unknown split or configuration
        raise DataError(
            f"{name}: no file of that name, and the hub dataset's split {split!r} cannot be loaded "
            f"({_one_line(error)}); check the name, the split and the network"
        ) from error
    for index, value in enumerate(rows):
        yield Row(f"{name}[{split}], row {index}", value)


def _folder_rows(folder: Path, *, split: str) -> Iterator[Row]:
    from datasets import load_dataset, load_from_disk
    from datasets.exceptions import DatasetsError

    saved = any((folder / name).exists() for name in ("state.json", "dataset_dict.json"))
    try:
        rows: Any = load_from_disk(str(folder)) if saved else load_dataset(str(folder), split=split)
    except (OSError, ValueError, DatasetsError) as error:
        raise DataError(
            f"{folder}: expected a folder of `datasets` with a split {split!r}, got one that cannot be loaded "
            f"({_one_line(error)}); name one file in it ({' '.join(FILE_KINDS)}), or another split"
        ) from error
    if isinstance(rows, dict):  # of several splits
        if split not in rows:
            raise DataError(f"{folder}: expected a split of {', '.join(map(str, rows))}, got {split!r}; set `split`")
        rows = rows[split]
    for index, value in enumerate(rows):
        yield Row(f"{folder}[{split}], row {index}", value)


def read_zip(path: Path, *, pattern: str) -> list[tuple[str, bytes]]:
    """Load the members of a zip archive whose names match `pattern`, as (name, bytes), sorted by name.

    Raises:
        DataError: the file is missing or not a zip archive, is encrypted or damaged, no member name matches, a name is
            not a relative path, or the members are larger than `MAX_ARCHIVE_BYTES`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(read_bytes(path))) as archive:
            infos = sorted(
                (info for info in archive.infolist() if PurePosixPath(info.filename).match(pattern)),
                key=lambda info: info.filename,
            )
            _check_members(path, infos)
            members = [(info.filename, archive.read(info)) for info in infos]
    except (zipfile.BadZipFile, RuntimeError, EOFError, zlib.error) as error:  # RuntimeError: encrypted
        raise DataError(f"{path}: expected a zip archive, got another file ({error}); fetch it again") from error
    if not members:
        raise DataError(f"{path}: expected files named {pattern} in the archive, found none")
    return members


def _check_members(path: Path, infos: Sequence[zipfile.ZipInfo]) -> None:
    for info in infos:
        name = info.filename
        if not name.isprintable() or "\\" in name or ":" in name or {"..", "/"} & {*PurePosixPath(name).parts}:
            raise DataError(f"{path}: expected relative paths in the archive, got {name!r:.200}; fetch it again")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{path}: expected deflated members, got {name!r:.200} in another format; pack it again")
    if (size := sum(info.file_size for info in infos)) > MAX_ARCHIVE_BYTES:
        raise DataError(
            f"{path}: expected at most {MAX_ARCHIVE_BYTES >> 20} MiB of files in the archive, got {size >> 20}; unpack"
        )


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


FILE_KINDS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".json": _json_rows,
    ".jsonl": _jsonl_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
