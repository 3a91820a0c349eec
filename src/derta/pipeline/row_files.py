"""Files of training rows for other trainers: JSON Lines, or a folder of the library `datasets`. Rows are streamed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

from derta.data.train_row import TrainRow
from derta.errors import RecipeError, RunError, did_you_mean
from derta.files import write_lines

RowFormat = Literal["jsonl", "datasets"]
EpochRow = tuple[int, TrainRow]
"""An epoch and a row that it draws."""


def row_format(out: Path, name: str | None) -> RowFormat:
    """Return the format of an output: the named one; else a folder of `datasets` for a name without suffix, or JSONL.

    >>> row_format(Path("rows.jsonl"), None), row_format(Path("rows"), None), row_format(Path("rows"), "jsonl")
    ('jsonl', 'datasets', 'jsonl')

    Raises:
        RecipeError: there is no such format.
        RunError: the folder exists already, or is a file.
    """
    formats: tuple[RowFormat, ...] = get_args(RowFormat)
    found = name or ("jsonl" if out.suffix else "datasets")
    chosen: RowFormat | None = next((one for one in formats if one == found), None)
    if chosen is None:
        raise RecipeError(
            f"--format: expected {' or '.join(formats)}, got {found!r:.80}; {did_you_mean(found, formats)}"
        )
    if chosen == "datasets" and out.exists():
        raise RunError(f"{out}: expected a new folder for the data set, got one that exists; choose another --out")
    if chosen == "jsonl" and out.is_dir():
        raise RunError(f"{out}: expected a file, got a folder; add .jsonl to --out, or choose --format datasets")
    return chosen


def write_rows(out: Path, rows: Iterable[EpochRow], *, format: RowFormat, with_epoch: bool) -> int:
    """Write rows and return their number; one row at a time is in memory.

    Args:
        out: The output file, or the new folder, which `datasets.load_from_disk` loads.
        rows: The rows of each epoch.
        format: The format.
        with_epoch: Write the epoch of each row.
    """
    count = 0

    def fields() -> Iterator[dict[str, Any]]:
        nonlocal count
        for epoch, row in rows:
            count += 1
            yield {
                "id": row.id,
                "term": row.term,
                **({"epoch": epoch} if with_epoch else {}),
                "input_ids": row.input_ids,
                "labels": row.labels,
            }

    if format == "jsonl":
        write_lines(out, (json.dumps(values) + "\n" for values in fields()))
    else:
        _write_dataset(out, fields(), with_epoch=with_epoch)
    return count


def _write_dataset(out: Path, rows: Iterable[dict[str, Any]], *, with_epoch: bool) -> None:
    from datasets import Dataset, Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    ids = List(Value("int32"))
    epoch = {"epoch": Value("int32")} if with_epoch else {}
    features = Features({"id": Value("string"), "term": Value("string"), **epoch, "input_ids": ids, "labels": ids})
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out.parent, prefix=f"{out.name}.partial") as folder:
            path = Path(folder) / "rows.arrow"
            with ArrowWriter(path=str(path), features=features) as writer:
                for row in rows:
                    writer.write(row)
                writer.finalize()
            saved = Path(folder) / "saved"
            Dataset.from_file(str(path)).save_to_disk(str(saved))
            shutil.move(saved, out)
    except OSError as error:
        raise RunError(f"{out}: cannot write it ({error.strerror}); free space or choose another folder") from error
