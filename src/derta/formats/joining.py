"""Requests of replies whose file has none: from another file, by the ids of the rows or by the start of their text."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from derta.columns import REQUEST, Columns, columns_of
from derta.errors import DataError
from derta.formats.conversations import message_text
from derta.sources import Row, read_rows

_LOG = logging.getLogger(__name__)
_ID = ("behaviorid", "request_id", "custom_id", "id", "index")


class RequestTable(NamedTuple):
    """The requests of a file: by id, and as texts, the longest first."""

    path: Path
    by_id: Mapping[str, str]
    texts: tuple[str, ...]


def read_requests(path: Path) -> RequestTable:
    """Load the requests of a file: texts, or rows with a column of the request and optionally an id.

    Raises:
        DataError: the file is missing or malformed, a row has no request, or two requests have one id.
    """
    by_id: dict[str, str] = {}
    texts: dict[str, None] = {}
    for row in read_rows(path):
        columns = columns_of(row) if isinstance(row.value, dict) else None
        text = row.value if isinstance(row.value, str) else columns and _request(columns)
        if not text or not text.strip():
            continue
        texts[text] = None
        name = columns.name(_ID) if columns is not None else None
        if name is not None and by_id.setdefault(name, text) != text:
            raise DataError(
                f"{row.where}: expected one request for each id, got {name!r} twice; remove one of the rows"
            )
    if not texts:
        raise DataError(f"{path}: expected requests (a column {' or '.join(REQUEST)}), found none; pass another file")
    return RequestTable(path, by_id, tuple(sorted(texts, key=len, reverse=True)))


def _request(columns: Columns) -> str | None:
    """Return the request of a row; a contextual behaviour of HarmBench is below its context, as in its baselines."""
    if (body := columns.values.get("body", columns.values.get("params"))) is not None:
        return _batched_request(Row(columns.row.where, body))
    text, context = columns.request() or columns.text(["text"]), columns.text(["contextstring"])
    return f"{context}\n\n---\n\n{text}" if text and context else text


def _batched_request(body: Row) -> str | None:
    """Return the last user message of a request in a batch's input (OpenAI's `body`, Anthropic's `params`)."""
    fields = cast("dict[str, Any]", body.value) if isinstance(body.value, dict) else {}
    messages = cast("list[Any]", fields.get("messages")) if isinstance(fields.get("messages"), list) else []
    users = [Row(body.where, one) for one in messages if isinstance(one, dict) and one.get("role") == "user"]
    return message_text(users[-1]) if users else None


def join_requests(rows: Iterator[Row], table: RequestTable, *, quiet: bool = False) -> Iterator[Row]:
    r"""Yield the rows with the requests of a table, and log the number of rows that have none there.

    A row with the id of a request gets that request, and its own text is the prompt as sent. A text that starts with a
    request is a raw prompt and its continuation.

    >>> table = RequestTable(Path("r.csv"), {"tea": "Tea?"}, ("I will explain tea:",))
    >>> rows = [Row("a:1", {"request_id": "tea", "prompt": "Pretend. Tea?"}), Row("a:2", "I will explain tea: Boil.")]
    >>> [row.value["request"] for row in join_requests(iter(rows), table)]
    ['Tea?', 'I will explain tea:']
    """
    missing = num_rows = 0
    for row in rows:
        num_rows += 1
        joined = _joined(row.value, table)
        missing += joined is None and _should_join(row.value)
        yield row if joined is None else Row(row.where, joined)
    if missing and not quiet:
        _LOG.warning("%s: %d of %d rows have no request there", table.path, missing, num_rows)


def _should_join(value: Any) -> bool:
    """Return whether a row is a text, has an id of a request, or has no request."""
    if not isinstance(value, dict):
        return True
    columns = columns_of(Row("", value), numbers=True)
    return columns.name(("request_id", "id")) is not None or not any(columns.values.get(name) for name in REQUEST)


def _joined(value: Any, table: RequestTable) -> dict[str, Any] | None:
    if isinstance(value, str):
        prompt = next((text for text in table.texts if value.startswith(text)), None)
        if prompt is None:
            return None
        return {"request": prompt, "prompt": prompt, "mode": "raw", "response": value[len(prompt) :]}
    if not isinstance(value, dict):
        return None
    columns = columns_of(Row("", value), numbers=True)
    request = table.by_id.get(columns.name(("request_id", "id")) or "")
    return None if request is None else {**columns.values, "request": request}
