"""Parsing of a row with the columns of docs/replies.md as a case: a prompt with its reply."""

from __future__ import annotations

import re
from typing import Any, NamedTuple, cast, get_args

from derta.columns import ATTACK, CATEGORY, REPLY, REQUEST, SAMPLE, Columns, format_names
from derta.errors import DataError, kind_of
from derta.files import parse_record
from derta.formats.conversations import message_text
from derta.protocols import Case
from derta.records import Message, Prompt, Reply, Unanswered
from derta.sources import Row

_SAMPLE = re.compile("[0-9]{1,9}")
_ROLES = {"developer": "system", "human": "user", "model": "assistant"}


class PublishedReply(NamedTuple):
    """A case, the location of its row, and the row's columns; None for a `Reply` record or a string."""

    where: str
    case: Case
    columns: Columns | None


def parse_reply(row: Row, position: int, *, has_unique_ids: bool = False) -> PublishedReply | None:
    """Return the case of a row of our schema, with names in lower case; None if its column of the reply is null or NaN.

    The id of the prompt is the row's, if the ids of the file are unique, and else its position in the file.

    Raises:
        DataError: the row has no column of a reply, or a value of the wrong type.
    """
    if isinstance(row.value, str):
        name = f"row-{position}"
        prompt = Prompt(id=name, request_id=name, foreign=True, attack="direct")
        return PublishedReply(row.where, Case(prompt, Reply(prompt_id=name, text=row.value)), None)
    columns = Columns(row, row.value, numbers=True) if isinstance(row.value, dict) else None
    if columns is None or not any(name in columns.values for name in REPLY):
        got = format_names(columns.values) if columns is not None else repr(row.value)[:60]
        raise DataError(
            f"{row.where}: expected a reply record, a text, or an object with a column {' or '.join(REPLY)} and its "
            f"request ({' or '.join(REQUEST)}), got {got}; rename the columns (docs/replies.md)"
        )
    text = columns.text(REPLY, numbers=False)
    if text is None:
        columns.read.update(REPLY)
        return None
    prompt = _prompt(columns, position, has_unique_ids=has_unique_ids)
    return PublishedReply(row.where, Case(prompt, _reply(columns, prompt.id, text)), columns)


def _reply(columns: Columns, prompt_id: str, text: str) -> Reply:
    sample, model, unanswered = columns.name(SAMPLE), columns.name(["model"]), columns.name(["unanswered"])
    missing = unanswered in get_args(Unanswered)
    fields = {
        "prompt_id": prompt_id,
        "text": text,
        "sample": int(sample) if sample is not None and _SAMPLE.fullmatch(sample) else 0,
        "producer": {"model": model} if model else None,
        "unanswered": unanswered if missing else None,
        "reason": (columns.name(["reason"]) or "") if missing else "",
    }
    return parse_record(Reply, fields, where=columns.row.where)


def _prompt(columns: Columns, position: int, *, has_unique_ids: bool) -> Prompt:
    """Build the prompt of a row; its request and messages are None if the row has no request."""
    name = columns.name(["id"])
    request, prefill = _nonblank(columns.request()), _nonblank(columns.text(["prefill"]))
    sent = _nonblank(columns.sent()) or request
    messages = _messages(columns)
    if messages and messages[-1].role == "assistant":
        messages, prefill = messages[:-1], prefill or _nonblank(messages[-1].content)
    if request is None and messages:
        request = next((_nonblank(one.content) for one in reversed(messages) if one.role == "user"), None)
    fields: dict[str, Any] = {
        "id": name if name and has_unique_ids else f"row-{position}",
        "request_id": columns.name(["request_id"]) or name or f"row-{position}",
        "request": request,
        "foreign": True,
        "attack": columns.name(ATTACK) or "direct",
        "category": columns.name(CATEGORY),
        "answer": columns.text(["answer"]),
    }
    if columns.name(["mode"]) == "raw":
        sent = messages[-1].content if messages else sent
        if not sent:
            raise DataError(f"{columns.row.where}: mode: a raw prompt needs its text, got none; add a column prompt")
        fields |= {"mode": "raw", "text": sent + (prefill or "")}
    else:
        fields["messages"] = messages or ((Message(role="user", content=sent),) if sent else None)
        fields["prefill"] = prefill
    return parse_record(Prompt, fields, where=columns.row.where)


def _messages(columns: Columns) -> tuple[Message, ...]:
    """Return the messages of a prompt; content parts are joined."""
    value = columns.values.get("messages")
    if value is None:
        return ()
    columns.read.add("messages")
    if not isinstance(value, list):
        raise DataError(f"{columns.row.where}: messages: expected a list, got {kind_of(value)}; fix the row")
    return tuple(
        _message(Row(f"{columns.row.where}: messages[{index}]", one))
        for index, one in enumerate(cast("list[Any]", value))
    )


def _message(row: Row) -> Message:
    if not isinstance(row.value, dict):
        raise DataError(
            f"{row.where}: expected a message of {{role, content}}, got {str(row.value)[:40]!r}; fix the row"
        )
    known = {name: one for name, one in row.value.items() if name in Message.model_fields and one is not None}
    role = known.get("role")
    return parse_record(
        Message, known | {"role": _ROLES.get(str(role), role), "content": message_text(row)}, where=row.where
    )


def _nonblank(text: str | None) -> str | None:
    return text if text and text.strip() else None
