"""The same rows in files of every kind that the readers of training data take."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

CELLS = {"a.csv": (",", json.dumps), "a.tsv": ("\t", str)}
"""Tables, with their separator and the function that writes a list or an object in a cell."""


def every_kind(folder: Path, rows: Sequence[dict[str, Any]]) -> Iterator[Path]:
    """Write the rows as a JSON list, JSON Lines (plain, compressed, called `.json`), tables, Parquet and a folder."""
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    for name, contents in {
        "a.json": json.dumps(rows, indent=1).encode(),
        "a.jsonl": b"\xef\xbb\xbf" + lines,
        "lines/a.json": lines,
        "a.jsonl.gz": gzip.compress(lines),
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(contents)
        yield folder / name
    for name, (separator, cell) in CELLS.items():
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter=separator)
            writer.writerow(["", *rows[0]])
            for index, row in enumerate(rows):
                cells = ["" if value is None else value for value in row.values()]
                writer.writerow([index, *(cell(value) if isinstance(value, list | dict) else value for value in cells)])
        yield folder / name
    pq.write_table(pa.Table.from_pylist([*rows]), folder / "a.parquet")
    yield folder / "a.parquet"
    datasets.Dataset.from_list([*rows]).save_to_disk(folder / "a")
    yield folder / "a"
