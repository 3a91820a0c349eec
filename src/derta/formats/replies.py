"""Loading of replies: `Reply` records with their prompts, or rows in published formats."""

from __future__ import annotations

import json
import logging
from array import array
from collections.abc import Callable, Generator, Iterator, Set
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from derta.columns import REPLY, REQUEST, UnreadColumns, columns_of
from derta.errors import DataError
from derta.files import parse_record, read_objects
from derta.protocols import Case
from derta.records import Message, Prompt, Reply, ReplyKey
from derta.sources import Row, read_rows

_LOG = logging.getLogger(__name__)


def read_cases(path: Path, *, prompts_path: Path | None = None) -> Iterator[Case]:
    """Load replies with their prompts and yield them as cases, without loading all replies or prompts into memory.

    A row is a `Reply` record, an object with a request and a reply in columns of `derta.columns` and optionally an
    `answer`, or a string with the reply. Columns that are not read are named in a log message. The prompt of a `Reply`
    is loaded from `prompts_path`, by default `prompts.jsonl` in the folder of the file or its parent. Prompts of that
    file without any reply are counted in a log message.

    Raises:
        DataError: a row is none of these, its prompt is missing, or two rows are the same sample of one prompt.
    """
    with ExitStack() as open_files:
        prompts: PromptFile | None = None
        seen: set[ReplyKey] = set()
        unread = UnreadColumns(path)
        for number, row in enumerate(read_rows(path)):
            if isinstance(row.value, dict) and "prompt_id" in row.value:
                prompts = prompts or open_files.enter_context(open_prompts(prompts_path or _prompts_beside(path)))
                case = _case_of_reply(row, prompts.find)
                if case.reply.key in seen:
                    raise DataError(
                        f"{row.where}: expected one reply to each prompt and sample, got prompt id "
                        f"{case.reply.prompt_id!r} (sample {case.reply.sample}) twice; delete one of the two lines"
                    )
                seen.add(case.reply.key)
                yield case
            else:
                yield _foreign_case(row, number, unread)
        unread.log()
        if prompts is not None:
            _log_missing(path, prompts.ids - {prompt_id for prompt_id, _ in seen}, total=len(prompts.ids))


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


def _prompts_beside(path: Path) -> Path:
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


def _foreign_case(row: Row, number: int, unread: UnreadColumns) -> Case:
    if isinstance(row.value, str):
        prompt = foreign_prompt(number, None)
        return Case(prompt, Reply(prompt_id=prompt.id, text=row.value))
    columns = columns_of(row) if isinstance(row.value, dict) else None
    text = None if columns is None else columns.text(REPLY)
    if columns is None or text is None:
        raise DataError(
            f"{row.where}: expected a reply record, an object with a reply ({' or '.join(REPLY)}) and its request "
            f"({' or '.join(REQUEST)}), or a string, got {str(row.value)[:60]!r}"
        )
    prompt = foreign_prompt(number, columns.request(), sent=columns.sent(), answer=columns.text(["answer"]))
    unread.add(columns.values, columns.read, has_request=prompt.request is not None)
    return Case(prompt, Reply(prompt_id=prompt.id, text=text))


def foreign_prompt(
    number: int,
    request: str | None,
    *,
    sent: str | None = None,
    answer: str | None = None,
    attack: str | None = None,
) -> Prompt:
    """Build the prompt of a row in a published format; its request and messages are None if the row has no request.

    `sent` is the text that the model received, by default the request.

    >>> foreign_prompt(7, "How is tea made?").id, foreign_prompt(7, " ").request
    ('row-7', None)
    """
    text = request if request and request.strip() else None
    return Prompt(
        id=f"row-{number}",
        request_id=f"row-{number}",
        request=text,
        foreign=True,
        attack=attack if attack and attack.strip() else "direct",
        messages=(Message(role="user", content=sent or text),) if text else None,
        answer=answer,
    )
