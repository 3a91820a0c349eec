"""Columns with the context of a request: `system`, `messages`, `harmful_turns` and `tools`."""

from __future__ import annotations

from typing import Any, cast

from derta.data.conversations import as_turns, messages_of
from derta.data.fields import DroppedRowError, text_of
from derta.errors import DataError, kind_of
from derta.files import format_json_error, parse_json
from derta.sources import Row, fields_of

CONTEXT_FIELDS = ("system", "messages", "harmful_turns", "tools")


def context_of(row: Row) -> dict[str, object]:
    """Return the context of a row as fields of a record; a text in `system` becomes the first message.

    Lists may be JSON in a text, as CSV files and many Parquet files have them. Messages are unchanged, but those with
    content parts or of ShareGPT, which become messages.

    >>> row = Row("a.csv:2", {"query": "And?", "system": "Be brief.", "messages": '[{"role": "user", "content": "q"}]'})
    >>> context_of(row)["messages"]
    [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'q'}]

    Raises:
        DataError: A column is no list, or a text that is not JSON.
    """
    messages, turns, tools = (_list_of(row, name) for name in ("messages", "harmful_turns", "tools"))
    messages = [_message(turn, where=f"{row.where}: messages[{index}]") for index, turn in enumerate(messages)]
    system = text_of(row, "system") if "system" in fields_of(row) else ""
    if system:
        messages = [{"role": "system", "content": system}, *messages]
        turns = [turn + 1 if isinstance(turn, int) else turn for turn in turns]
    return {"messages": messages, "harmful_turns": turns, "tools": tools or None}


def _message(turn: Any, *, where: str) -> Any:
    """Return a turn with content parts, or with ShareGPT's keys, as a message; others are unchanged."""
    if not isinstance(turn, dict) or not ("from" in turn or isinstance(cast("Any", turn).get("content"), list)):
        return turn
    try:
        [message] = messages_of([cast("dict[str, Any]", turn)], where=where)
    except DroppedRowError as error:
        raise DataError(
            f"{where}: expected a known role and parts with texts ({error.reason}); fix or remove it"
        ) from error
    return message


def tools_of(row: Row) -> tuple[Any, ...] | None:
    """Return the tool definitions of a row, or None if it has none.

    Raises:
        DataError: The column is no list, or a text that is not JSON.
    """
    return tuple(_list_of(row, "tools")) or None


def _list_of(row: Row, name: str) -> list[Any]:
    """Return the list in a column; empty if the column is missing, null or an empty text."""
    value = fields_of(row).get(name)
    if isinstance(value, dict) and all(isinstance(cells, list) for cells in cast("dict[str, Any]", value).values()):
        value = as_turns(cast("object", value))
    if isinstance(value, str) and value.strip():
        try:
            value = parse_json(value)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{row.where}: {name}: expected a JSON list, got text that is not JSON ({format_json_error(error)}); "
                "fix the row"
            ) from error
    if value in (None, ""):
        return []
    if not isinstance(value, list):
        raise DataError(f"{row.where}: {name}: expected a list, got {kind_of(value)}; fix the row")
    return cast("list[Any]", value)
