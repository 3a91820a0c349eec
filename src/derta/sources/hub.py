"""Rows of hub datasets and of folders of `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from derta.errors import DataError
from derta.sources.rows import Row


def hub_rows(name: str, *, config: str | None, split: str) -> Iterator[Row]:
    """Yield the rows of a hub dataset (`org/name`), or of its files that match a pattern (`org/name:data/*.jsonl`)."""
    from datasets import load_dataset  # slow to import, and most sources are files
    from datasets.exceptions import DatasetsError

    repository, _, files = name.partition(":")
    try:
        rows: Any = load_dataset(*_named(repository, config), split=split, **({"data_files": files} if files else {}))
    except (OSError, ValueError, DatasetsError) as error:  # not found, no network, unknown split or configuration
        raise DataError(
            f"{name}: no file of that name, and the hub dataset's split {split!r}{_of(config)} cannot be loaded "
            f"({_one_line(error)}); check the name, `config`, `split` and the network"
        ) from error
    return _rows(rows, f"{name}[{split}]")


def folder_rows(folder: Path, *, config: str | None, split: str) -> Iterator[Row]:
    """Yield the rows of a folder: the output of `save_to_disk`, or files that `load_dataset` can load."""
    from datasets import load_dataset, load_from_disk
    from datasets.exceptions import DatasetsError

    saved = any((folder / name).exists() for name in ("state.json", "dataset_dict.json"))
    if saved and config is not None:
        raise DataError(f"{folder}: expected no `config` for the output of save_to_disk, got {config!r}; remove it")
    try:
        rows: Any = load_from_disk(str(folder)) if saved else load_dataset(*_named(str(folder), config), split=split)
    except (OSError, ValueError, DatasetsError) as error:
        raise DataError(
            f"{folder}: expected a folder of `datasets` with a split {split!r}{_of(config)}, got one that cannot be "
            f"loaded ({_one_line(error)}); name one file in it, or another split"
        ) from error
    if isinstance(rows, dict):  # of several splits
        if split not in rows:
            raise DataError(f"{folder}: expected a split of {', '.join(map(str, rows))}, got {split!r}; set `split`")
        rows = rows[split]
    return _rows(rows, f"{folder}[{split}]")


def _rows(values: Any, where: str) -> Iterator[Row]:
    return (Row(f"{where}, row {index}", value) for index, value in enumerate(values))


def _named(name: str, config: str | None) -> list[str]:
    """Return the first arguments of `load_dataset`."""
    return [name] if config is None else [name, config]


def _of(config: str | None) -> str:
    return "" if config is None else f" of configuration {config!r}"


def _one_line(error: Exception) -> str:
    """Return the message in one line; `datasets` lists the configurations of a dataset on the second line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
