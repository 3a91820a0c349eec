"""Rows of any file or hub data set, each with the place it stands at, so that a fault can be told by file and line."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from derta.errors import DataError
from derta.files import json_fault, parse_json, read_objects


class Row(NamedTuple):
    """One parsed row, and where it stands (`file:line`, or `data set, row n`)."""

    where: str
    value: Any


def read_rows(source: str | Path, *, split: str = "train") -> Iterator[Row]:
    """Yield the rows of a `.json` list, `.jsonl`, `.csv`, `.parquet` file, or of a hub data set (`org/name`).

    Args:
        source: a path, or a hub id where no file of that name exists.
        split: which split of a hub data set; a file has none.

    Raises:
        DataError: nothing of that name, a kind of file that is not read here, malformed content, or no rows at all.
    """
    count = 0
    for row in _rows_of(source, split=split):
        count += 1
        yield row
    if not count:
        raise DataError(f"{source}: expected rows, the file holds none; check that it was written whole")


def _rows_of(source: str | Path, *, split: str) -> Iterator[Row]:
    path = Path(source)
    suffix = path.suffix.lower()
    if path.is_dir():
        raise DataError(f"{source}: expected a file ({' '.join(FILE_KINDS)}), got a folder; name one file in it")
    if suffix in FILE_KINDS:
        return FILE_KINDS[suffix](path)
    if path.exists():
        raise DataError(f"{source}: expected a file ending in {' '.join(FILE_KINDS)}, got {suffix!r}; convert it")
    if _is_hub_id(source):
        return _hub_rows(str(source), split=split)
    raise DataError(
        f"{source}: expected an existing file ({' '.join(FILE_KINDS)}) or a hub data set `org/name`, found neither; "
        "check the path"
    )


def source_name(source: str | Path) -> str:
    """What a record's `source` says: a file's name without its ending, or a hub id."""
    return str(source) if _is_hub_id(source) else Path(source).stem


def _is_hub_id(source: str | Path) -> bool:
    return (
        isinstance(source, str)
        and re.fullmatch(r"[\w.-]+/[\w.-]+", source) is not None
        and Path(source).suffix.lower() not in FILE_KINDS
        and not Path(source).exists()
    )


def read_bytes(path: Path) -> bytes:
    """A whole file.

    Raises:
        DataError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror}); check the path") from error


def decode(raw: bytes, *, where: str) -> str:
    """UTF-8 text, with or without a byte-order mark; a wrong byte is told by its line."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{where}:{line}: expected UTF-8 text, got byte 0x{raw[error.start]:02x}; convert the file to UTF-8"
        ) from error


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
            f"{path}: expected a JSON list of rows, got one that cannot be read ({json_fault(error)}); mend it"
        ) from error
    if not isinstance(value, list):
        raise DataError(f"{path}: expected a JSON list of rows, got a {type(value).__name__}; keep only the list")
    for index, item in enumerate(cast("list[Any]", value)):
        yield Row(f"{path}[{index}]", item)


def csv_records(text: str, *, where: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (file:line, cells) of each CSV record; the line is the record's last."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if cells:
                yield f"{where}:{reader.line_num}", cells
    except csv.Error as error:
        raise DataError(f"{where}:{reader.line_num}: not CSV ({error}); mend the quotes or fetch it again") from error


def _csv_rows(path: Path) -> Iterator[Row]:
    records = csv_records(decode(read_bytes(path), where=str(path)), where=str(path))
    _, header = next(records, ("", list[str]()))
    for where, cells in records:
        if len(cells) != len(header):
            raise DataError(
                f"{where}: expected {len(header)} columns as in the header, got {len(cells)}; mend or remove the row"
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
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
        raise DataError(f"{path}: not a parquet file ({_one_line(error)}); fetch it again") from error


def _hub_rows(name: str, *, split: str) -> Iterator[Row]:
    from datasets import load_dataset  # slow to import, and most sources are files

    try:
        rows: Any = load_dataset(name, split=split)
    except (OSError, ValueError) as error:  # not found, no network, unknown split or configuration
        raise DataError(
            f"{name}: no file of that name, and the hub data set's split {split!r} cannot be loaded "
            f"({_one_line(error)}); check the name, the split and the network"
        ) from error
    for index, value in enumerate(rows):
        yield Row(f"{name}[{split}], row {index}", value)


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


FILE_KINDS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".json": _json_rows,
    ".jsonl": _jsonl_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
