"""Loading of replies: `Reply` records with their prompts, or rows in published formats."""

from __future__ import annotations

import json
import logging
from array import array
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from derta.errors import DataError
from derta.files import parse_record, read_objects
from derta.protocols import Case
from derta.records import Message, Prompt, Reply, ReplyKey
from derta.sources import Row, read_rows

_LOG = logging.getLogger(__name__)
QUESTION = ("question", "instruction")
RESPONSE = ("response", "output")


def read_cases(path: Path, *, prompts_path: Path | None = None) -> Iterator[Case]:
    """Load replies with their prompts and yield them as cases, without loading all replies or prompts into memory.

    A row is a `Reply` record, a `{"question", "response"[, "answer"]}` object (or `{"instruction", "output"}`), or a
    string with the reply. The prompt of a `Reply` is loaded from `prompts_path`, by default `prompts.jsonl` in the
    folder of the file or its parent. Prompts of that file without any reply are counted in a log message.

    Raises:
        DataError: a row is none of these, its prompt is missing, or two rows are the same sample of one prompt.
    """
    with ExitStack() as open_files:
        prompts: PromptFile | None = None
        seen: set[ReplyKey] = set()
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
                yield _foreign_case(row, number)
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


def _foreign_case(row: Row, number: int) -> Case:
    value: Any = {"response": row.value} if isinstance(row.value, str) else row.value
    text = _first(value, RESPONSE) if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise DataError(
            f'{row.where}: expected a reply record, {{"question", "response"[, "answer"]}} or a string, '
            f"got {str(row.value)[:60]!r}"
        )
    question, answer = _first(value, QUESTION), value.get("answer")
    if not isinstance(question, str | None) or not isinstance(answer, str | None):
        raise DataError(f"{row.where}: question and answer: expected text, got {question!r:.40} and {answer!r:.40}")
    prompt = foreign_prompt(number, question, answer=answer)
    return Case(prompt, Reply(prompt_id=prompt.id, text=text))


def foreign_prompt(number: int, request: str | None, *, answer: str | None = None, attack: str | None = None) -> Prompt:
    """Build the prompt of a row in a published format; its request and messages are None if the row has no request.

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
        messages=(Message(role="user", content=text),) if text else None,
        answer=answer,
    )


def _first(value: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((value[name] for name in names if name in value), None)
