"""Replies from anywhere: ours with their prompts, or rows that others published."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from derta.errors import DataError
from derta.files import parse_record, read_objects
from derta.protocols import Case
from derta.records import Message, Prompt, Reply
from derta.sources import Row, read_rows

QUESTION = ("question", "instruction")
RESPONSE = ("response", "output")


def read_cases(path: Path, *, prompts_path: Path | None = None) -> Iterator[Case]:
    """Read replies in bounded memory: of our prompts, where they are needed, only the places are held.

    A row may be one of our replies (its prompt is looked up in `prompts_path`, or in a `prompts.jsonl` beside the file
    or one folder up), a `{"question", "response"[, "answer"]}` object (or `{"instruction", "output"}`), or a bare
    string, which is a reply.

    Raises:
        DataError: a row is none of these, or its prompt is missing.
    """
    with ExitStack() as open_files:
        find: Callable[[str], Prompt | None] | None = None
        for number, row in enumerate(read_rows(path)):
            if isinstance(row.value, dict) and "prompt_id" in row.value:
                find = find or open_files.enter_context(open_prompts(prompts_path or _prompts_beside(path)))
                yield _own_case(row, find)
            else:
                yield _foreign_case(row, number)


@contextmanager
def open_prompts(path: Path) -> Generator[Callable[[str], Prompt | None]]:
    """A function that reads the prompt of an id from a file of prompts; None where the file has none.

    Raises:
        DataError: the file is missing or malformed; a prompt that is no prompt is told when it is asked for.
    """
    lines: dict[str, int] = {}
    for number, value in read_objects(path):
        named = isinstance(value, dict) and isinstance(value.get("id"), str)
        lines[value["id"] if named else parse_record(Prompt, value, where=f"{path}:{number}").id] = number
    with path.open("rb") as file:
        starts = array("q", [0])
        starts.extend(file.tell() for _ in iter(file.readline, b""))

        def find(prompt_id: str) -> Prompt | None:
            if (number := lines.get(prompt_id)) is None:
                return None
            file.seek(starts[number - 1])
            text = file.readline().decode("utf-8-sig")
            return parse_record(Prompt, json.loads(text), where=f"{path}:{number}")

        yield find


def _prompts_beside(path: Path) -> Path:
    for folder in (path.parent, path.parent.parent):
        if (folder / "prompts.jsonl").exists():
            return folder / "prompts.jsonl"
    raise DataError(f"{path}: expected prompts.jsonl beside our replies, found none; give it with --prompts")


def _own_case(row: Row, find: Callable[[str], Prompt | None]) -> Case:
    reply = parse_record(Reply, row.value, where=row.where)
    prompt = find(reply.prompt_id)
    if prompt is None:
        raise DataError(f"{row.where}: no prompt has the id {reply.prompt_id!r}; give the right file with --prompts")
    return Case(prompt, reply)


def _foreign_case(row: Row, number: int) -> Case:
    value: Any = {"response": row.value} if isinstance(row.value, str) else row.value
    text = _first(value, RESPONSE) if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise DataError(
            f'{row.where}: expected our reply, {{"question", "response"[, "answer"]}} or a string, '
            f"got {str(row.value)[:60]!r}"
        )
    question, answer = _first(value, QUESTION), value.get("answer")
    if not isinstance(question, str | None) or not isinstance(answer, str | None):
        raise DataError(f"{row.where}: question and answer: expected text, got {question!r:.40} and {answer!r:.40}")
    prompt = foreign_prompt(number, question, answer=answer)
    return Case(prompt, Reply(prompt_id=prompt.id, text=text))


def foreign_prompt(number: int, asked: str | None, *, answer: str | None = None, attack: str | None = None) -> Prompt:
    """Return the prompt of a row that others published, as far as the row tells it.

    >>> foreign_prompt(7, "How is tea made?").id, foreign_prompt(7, " ").request
    ('row-7', None)
    """
    known = asked if asked and asked.strip() else None
    return Prompt(
        id=f"row-{number}",
        request_id=f"row-{number}",
        request=known,
        foreign=True,
        attack=attack if attack and attack.strip() else "direct",
        messages=(Message(role="user", content=known),) if known else None,
        answer=answer,
    )


def _first(value: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((value[name] for name in names if name in value), None)
