"""Rows of tables: CSV, TSV and Parquet files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from derta.errors import DataError
from derta.files import decode
from derta.sources.compression import COMPRESSED, read_contents
from derta.sources.rows import Row

_DELIMITERS = (",", ";", "\t", "|")
_MAX_CELL = 2**31 - 1
"""Limit of `csv` for the length of a cell; its default is 128 Ki, less than a long answer."""


def csv_records(text: str, *, where: str, delimiter: str = ",") -> Iterator[tuple[str, list[str]]]:
    """Parse CSV text and yield (file:line, cells) of each record; the line is the record's last."""
    csv.field_size_limit(_MAX_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if cells:
                yield f"{where}:{reader.line_num}", cells
    except csv.Error as error:
        raise DataError(f"{where}:{reader.line_num}: not CSV ({error}); fix the quotes or fetch it again") from error


def csv_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV file with a header."""
    return _delimited_rows(path, ",")


def tsv_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file with columns that tabs separate, with a header."""
    return _delimited_rows(path, "\t")


def _delimited_rows(path: Path, delimiter: str) -> Iterator[Row]:
    """Yield the rows; a column without a name, such as the index that pandas writes, is called `unnamed N`.

    The columns of a header without the delimiter are those of another one, as programs for tables write them.
    """
    text = decode(read_contents(path), where=str(path))
    header_line = text[: text.find("\n") + 1] or text
    if delimiter not in header_line:
        delimiter = max((delimiter, *_DELIMITERS), key=header_line.count)
    records = csv_records(text, where=str(path), delimiter=delimiter)
    first, names = next(records, ("", list[str]()))
    header = [name if name.strip() else f"unnamed {number}" for number, name in enumerate(names, start=1)]
    if len(set(header)) < len(header):
        raise DataError(f"{first}: expected columns of different names, got {', '.join(header)}; rename one")
    for where, cells in records:
        if len(cells) != len(header):
            raise DataError(
                f"{where}: expected {len(header)} columns as in the header, got {len(cells)}; fix or remove the row"
            )
        yield Row(where, dict(zip(header, cells, strict=True)))


def parquet_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a Parquet file."""
    import pyarrow as pa  # slow to import, and most sources are not parquet
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(f"{path}: cannot read it (No such file or directory); check the path")
    source = pa.BufferReader(read_contents(path)) if path.suffix.lower() in COMPRESSED else path
    try:
        with pq.ParquetFile(source) as file:
            rows = (value for batch in file.iter_batches() for value in batch.to_pylist())
            for index, value in enumerate(rows):
                yield Row(f"{path}[{index}]", value)
    except (OSError, ValueError) as error:  # base classes of pyarrow's errors
        raise DataError(f"{path}: not a parquet file ({' '.join(str(error).split())[:200]}); fetch it again") from error
