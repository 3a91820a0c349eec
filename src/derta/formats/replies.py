"""Loading of replies: `Reply` records with their prompts, or the rows of published files (docs/replies.md)."""

from __future__ import annotations

import json
import logging
from array import array
from collections.abc import Callable, Generator, Iterator, Set
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from derta.columns import UnreadColumns
from derta.errors import DataError
from derta.files import parse_record, read_objects
from derta.formats.documents import read_documents
from derta.formats.foreign import PublishedReply, parse_reply
from derta.formats.joining import join_requests, read_requests
from derta.formats.repeats import RowScan, scan_rows
from derta.formats.shards import REPLIES, is_sharded, read_shards, shard_path
from derta.protocols import Case
from derta.records import Prompt, Reply, ReplyKey
from derta.sources import Row

_LOG = logging.getLogger(__name__)
_MIN_PROMPT = 8
"""Characters of a prompt from which on a reply that starts with it is no accident."""


def read_cases(path: Path, *, prompts_path: Path | None = None, quiet: bool = False) -> Iterator[Case]:
    """Load replies with their prompts and yield them as cases, without loading all replies or prompts into memory.

    A row is a `Reply` record, an object with the columns of docs/replies.md, or a string with the reply. The prompt of
    a `Reply` is loaded from `prompts_path`, by default `prompts.jsonl` in the folder of the file or its parent. For
    other rows, `prompts_path` is a file of requests: see `derta.formats.joining`. A folder of shards is read like one
    file (`derta.formats.shards`).

    Rows that repeat another one and rows without a reply are left out. They, columns that are not read, rows without a
    request, and prompts of `prompts.jsonl` without any reply are counted in a log message, unless `quiet` is True, for
    a file that is read again.

    Raises:
        DataError: a row is none of these, its prompt is missing, or two rows are the same sample of one prompt.
    """
    for row in read_replies(path, prompts_path=prompts_path, quiet=quiet):
        yield row.case


def read_replies(path: Path, *, prompts_path: Path | None = None, quiet: bool = False) -> Iterator[PublishedReply]:
    """Yield the cases of `read_cases` with the columns of their rows, which may have labels."""
    if is_sharded(path):
        for number, cases in read_shards(path, prompts_path or prompts_beside(path / REPLIES), quiet=quiet):
            where = shard_path(path, REPLIES, number)
            yield from (PublishedReply(f"{where}: {case.prompt.id}", case, None) for case in cases)
        return
    rows, scan = _scanned(path, requests_path=prompts_path, quiet=quiet)
    with ExitStack() as open_files:
        prompts: PromptFile | None = None
        seen: set[ReplyKey] = set()
        unread = UnreadColumns(path)
        num_rows = num_replies = without_reply = with_prompt = 0
        for position, row in enumerate(rows):
            num_rows += 1
            if _is_record(row):
                prompts = prompts or open_files.enter_context(open_prompts(prompts_path or prompts_beside(path)))
                case = _case_of_reply(row, prompts.find)
                _check_first(case.reply, seen, row.where)
                yield PublishedReply(row.where, case, None)
            elif not scan.is_repeat(row):
                reply = parse_reply(row, position, has_unique_ids=scan.has_unique_ids)
                if reply is None:
                    without_reply += 1
                    continue
                num_replies += 1
                with_prompt += _starts_with_prompt(reply.case)
                yield reply
                if reply.columns is not None:
                    has_request = reply.case.prompt.request is not None
                    unread.add(reply.columns.values, reply.columns.read, has_request=has_request)
        if without_reply and not num_replies:
            raise DataError(f"{path}: expected replies, got none in its {num_rows} rows; check the column of the reply")
        if quiet:
            return
        unread.log()
        _log_left_out(path, scan, without_reply=without_reply, num_rows=num_rows)
        if with_prompt > num_replies / 2:
            _LOG.warning(
                "%s: %d of %d replies start with their prompt, which is judged too; remove it from the texts",
                path,
                with_prompt,
                num_replies,
            )
        if prompts is not None:
            _log_missing(path, prompts.ids - {prompt_id for prompt_id, _ in seen}, total=len(prompts.ids))


def _scanned(path: Path, *, requests_path: Path | None, quiet: bool) -> tuple[Iterator[Row], RowScan]:
    """Return the rows of a file and the result of a first pass over them, which a file of `Reply` records has not."""
    rows = read_documents(path)
    first = next(rows, None)
    if first is None or _is_record(first):
        return chain([] if first is None else [first], rows), RowScan()
    if requests_path is None:
        return chain([first], rows), scan_rows(read_documents(path))
    table = read_requests(requests_path)
    scan = scan_rows(join_requests(read_documents(path), table, quiet=True))
    return join_requests(chain([first], rows), table, quiet=quiet), scan


def _check_first(reply: Reply, seen: set[ReplyKey], where: str) -> None:
    if reply.key in seen:
        raise DataError(
            f"{where}: expected one reply to each prompt and sample, got prompt id {reply.prompt_id!r} (sample "
            f"{reply.sample}) twice; delete one of the two lines"
        )
    seen.add(reply.key)


def _starts_with_prompt(case: Case) -> bool:
    """Return whether the text of a reply starts with the prompt as sent, as engines return them together."""
    prompt, reply = case
    sent = prompt.text or (prompt.messages[-1].content if prompt.messages else "")
    return len(sent) >= _MIN_PROMPT and reply.text.lstrip().startswith(sent.strip())


def _is_record(row: Row) -> bool:
    return isinstance(row.value, dict) and "prompt_id" in row.value


def _log_left_out(path: Path, scan: RowScan, *, without_reply: int, num_rows: int) -> None:
    if scan.num_equal and not scan.sampled:
        _LOG.warning("%s: %d of %d rows repeat another row and are left out", path, scan.num_equal, num_rows)
    elif scan.num_equal:
        _LOG.info(
            "%s: %d of %d rows equal another row and are counted: most prompts have several replies",
            path,
            scan.num_equal,
            num_rows,
        )
    if without_reply:
        _LOG.warning("%s: %d of %d rows have no reply and are left out", path, without_reply, num_rows)


def _log_missing(path: Path, missing: Set[str], *, total: int) -> None:
    if missing:
        _LOG.warning(
            "%s: %d of %d prompts have no reply here and are in no rate, first %r; `derta generate` resumes the file",
            path,
            len(missing),
            total,
            min(missing),
        )


class PromptFile(NamedTuple):
    """Ids of a file of prompts, and a function that loads the prompt of an id, or returns None if there is none."""

    ids: Set[str]
    find: Callable[[str], Prompt | None]


@contextmanager
def open_prompts(path: Path) -> Generator[PromptFile]:
    """Open a file of prompts.

    Only ids and line offsets are in memory.

    Raises:
        DataError: the file is missing or malformed. An invalid prompt with a valid id is an error when it is loaded.
    """
    lines: dict[str, int] = {}
    for number, value in read_objects(path):
        has_id = isinstance(value, dict) and isinstance(value.get("id"), str)
        lines[value["id"] if has_id else parse_record(Prompt, value, where=f"{path}:{number}").id] = number
    with path.open("rb") as file:
        starts = array("q", [0])
        starts.extend(file.tell() for _ in iter(file.readline, b""))

        def find(prompt_id: str) -> Prompt | None:
            if (number := lines.get(prompt_id)) is None:
                return None
            file.seek(starts[number - 1])
            text = file.readline().decode("utf-8-sig")
            return parse_record(Prompt, json.loads(text), where=f"{path}:{number}")

        yield PromptFile(lines.keys(), find)


def prompts_beside(path: Path) -> Path:
    """Return the `prompts.jsonl` in the folder of a file of replies, or in its parent.

    Raises:
        DataError: there is none.
    """
    for folder in (path.parent, path.parent.parent):
        if (folder / "prompts.jsonl").exists():
            return folder / "prompts.jsonl"
    raise DataError(f"{path}: expected prompts.jsonl in the folder of the replies, found none; pass it by --prompts")


def _case_of_reply(row: Row, find: Callable[[str], Prompt | None]) -> Case:
    reply = parse_record(Reply, row.value, where=row.where)
    prompt = find(reply.prompt_id)
    if prompt is None:
        raise DataError(f"{row.where}: no prompt has the id {reply.prompt_id!r}; pass the right file by --prompts")
    return Case(prompt, reply)
