"""Folders of results in shards, for files of prompts that are too long for one file or for memory.

Shard number i has the results of the prompts number `i * rows` to `(i + 1) * rows - 1` of the file of prompts, so that
results and prompts are joined with one shard in memory. `shards.json` has the number of rows; it is also the lock.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError

from derta.errors import DataError, RunError
from derta.files import drop_torn_line, format_validation_error, read_bytes, read_records
from derta.locks import lock
from derta.protocols import Case
from derta.records import Prompt, Record, Reply, ReplyKey

_LOG = logging.getLogger(__name__)
LAYOUT = "shards.json"
REPLIES = "replies"
T = TypeVar("T")


class Layout(Record):
    """Contents of `shards.json`: the number of prompts of a shard."""

    rows: int = Field(ge=1)


def is_sharded(path: Path) -> bool:
    """Return whether a path is a folder of shards."""
    return (path / LAYOUT).is_file()


def shard_path(folder: Path, stem: str, number: int) -> Path:
    """Return the path of a shard.

    >>> str(shard_path(Path("out"), "replies", 7))
    'out/replies-00007.jsonl'
    """
    return folder / f"{stem}-{number:05d}.jsonl"


def shard_paths(folder: Path, stem: str) -> list[Path]:
    """Return the shards of a folder that exist, in order of their numbers."""
    number = re.compile(rf"{re.escape(stem)}-([0-9]{{5,9}})\.jsonl")
    found = ((number.fullmatch(path.name), path) for path in folder.glob(f"{stem}-*.jsonl"))
    return [path for _, path in sorted((int(match[1]), path) for match, path in found if match is not None)]


def verdict_paths(folder: Path) -> dict[str, list[Path]]:
    """Return the shards of verdicts in a folder by judge, in order of their numbers."""
    matches = (
        re.fullmatch(r"(verdicts\.(.+))-[0-9]{5,9}\.jsonl", path.name) for path in folder.glob("verdicts.*.jsonl")
    )
    stems = {match[2]: match[1] for match in matches if match is not None}
    return {judge: shard_paths(folder, stems[judge]) for judge in sorted(stems)}


def read_layout(folder: Path) -> int:
    """Return the number of prompts of a shard.

    Raises:
        DataError: `shards.json` is missing or invalid.
    """
    path = folder / LAYOUT
    try:
        return Layout.model_validate_json(read_bytes(path)).rows
    except ValidationError as error:
        raise DataError(f"{path}: {format_validation_error(error)}; it is written by `derta generate`") from error


@contextmanager
def writing_shards(folder: Path, rows: int) -> Generator[None]:
    """Hold the lock on a folder of shards, and write its layout if it is new.

    Raises:
        RunError: another process writes the folder, or its shards have another number of rows.
    """
    path = folder / LAYOUT
    with lock(path):
        if path.stat().st_size == 0:
            path.write_text(Layout(rows=rows).model_dump_json() + "\n", encoding="utf-8")
        if (before := read_layout(folder)) != rows:
            raise RunError(f"{folder}: expected --shard-rows {before}, as its shards have, got {rows}; change one")
        yield


def blocks(items: Iterable[T], rows: int) -> Iterator[list[T]]:
    """Yield lists of `rows` items, and a last one of the rest.

    >>> list(blocks("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    remaining = iter(items)
    while block := list(islice(remaining, rows)):
        yield block


def read_shards(folder: Path, prompts_path: Path, *, quiet: bool = False) -> Iterator[tuple[int, list[Case]]]:
    """Yield the number and the cases of each shard of replies; one shard at a time is in memory.

    An incomplete last line, which another process may be writing, is left out. Prompts without a reply are counted in a
    log message, unless `quiet` is True.

    Raises:
        DataError: a reply to another prompt than the shard's, two to one prompt, or a shard without prompts.
    """
    missing, total = 0, 0
    remaining = set(shard_paths(folder, REPLIES))
    for number, prompts in enumerate(blocks(read_records(prompts_path, Prompt), read_layout(folder))):
        path = shard_path(folder, REPLIES, number)
        cases = list(_cases(path, prompts, prompts_path))
        total, missing = total + len(prompts), missing + len(prompts) - len({case.prompt.id for case in cases})
        remaining.discard(path)
        if cases:
            yield number, cases
    for path in sorted(remaining):
        raise DataError(f"{path}: {prompts_path} has no prompts for it; pass the right file by --prompts")
    if missing == total:
        raise DataError(f"{folder}: expected replies, got none; `derta generate` resumes the folder")
    if missing and not quiet:
        _LOG.warning(
            "%s: %d of %d prompts have no reply here and are in no rate; `derta generate` resumes the folder",
            folder,
            missing,
            total,
        )


def _cases(path: Path, prompts: list[Prompt], prompts_path: Path) -> Iterator[Case]:
    by_id = {prompt.id: prompt for prompt in prompts}
    seen: set[ReplyKey] = set()
    for reply in read_records(path, Reply, complete_lines=True) if path.exists() else ():
        if reply.prompt_id not in by_id or reply.key in seen:
            problem = "twice" if reply.key in seen else f"which its part of {prompts_path} has not"
            raise DataError(f"{path}: got prompt id {reply.prompt_id!r} {problem}; pass the right file by --prompts")
        seen.add(reply.key)
        yield Case(by_id[reply.prompt_id], reply)


def drop_torn_lines(folder: Path, stem: str) -> None:
    """Remove the incomplete last lines that a killed process left."""
    for path in shard_paths(folder, stem):
        drop_torn_line(path)
