"""Rows of one JSON object: a table by columns, rows by id, or a list of rows next to other fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from derta.columns import REPLY
from derta.sources import Row

_OF_A_ROW = {"messages", "conversations", "choices", "outputs", "responses", "completions", "generations", *REPLY}
_MOST_NESTED = 2


def table_rows(document: object, *, where: str) -> Iterator[Row] | None:
    """Return the rows of an object that is no row itself; None for another document.

    >>> def values(document):
    ...     return [row.value for row in table_rows(document, where="a.json")]
    >>> values({"prompt": {"0": "Bread?"}, "response": {"0": "Mix."}})  # pandas
    [{'prompt': 'Bread?', 'response': 'Mix.'}]
    >>> values({"tea": {"prompt": "Tea?", "response": "Boil."}})
    [{'request_id': 'tea', 'prompt': 'Tea?', 'response': 'Boil.'}]
    >>> values({"seed": 1, "results": [{"prompt": "Tea?", "response": "Boil."}]})
    [{'prompt': 'Tea?', 'response': 'Boil.'}]
    """
    if not isinstance(document, dict) or not document:
        return None
    fields = cast("dict[str, Any]", document)
    if _has_reply(fields):
        return _by_column(fields, where)
    if all(isinstance(value, dict) and _has_reply(cast("dict[str, Any]", value)) for value in fields.values()):
        return (Row(f"{where}: {name}", {"request_id": name, **value}) for name, value in fields.items())
    return _nested_list(fields, where, depth=0)


def _has_reply(fields: Mapping[str, Any]) -> bool:
    return any("_".join(name.lower().split()) in REPLY for name in fields)


def _by_column(fields: Mapping[str, Any], where: str) -> Iterator[Row] | None:
    """Return the rows of an object of columns of the same length, lists or mappings by index; None for one row."""
    columns = list(fields.values())
    if all(isinstance(column, list) for column in columns):
        lists = cast("list[list[Any]]", columns)
        keys = [str(number) for number in range(len(lists[0]))]
    elif all(isinstance(column, dict) for column in columns):
        mappings = cast("list[dict[str, Any]]", columns)
        keys = list(mappings[0])
        if any(column.keys() != mappings[0].keys() for column in mappings):
            return None
        lists = [[column[key] for key in keys] for column in mappings]
    else:
        return None
    if any(len(column) != len(keys) for column in lists):
        return None
    rows = zip(*lists, strict=True)
    return (Row(f"{where}[{key}]", dict(zip(fields, row, strict=True))) for key, row in zip(keys, rows, strict=True))


def _nested_list(fields: Mapping[str, Any], where: str, *, depth: int) -> Iterator[Row] | None:
    """Return the rows of the only list of objects in an object, or in its only object with one."""
    if not _OF_A_ROW.isdisjoint(fields) or depth == _MOST_NESTED:
        return None
    lists = {name: value for name, value in fields.items() if _is_rows(value)}
    if len(lists) == 1:
        [(name, rows)] = lists.items()
        return (Row(f"{where}: {name}[{number}]", row) for number, row in enumerate(rows))
    inner = [
        rows
        for name, value in fields.items()
        if isinstance(value, dict)
        and (rows := _nested_list(cast("dict[str, Any]", value), f"{where}: {name}", depth=depth + 1)) is not None
    ]
    return inner[0] if len(inner) == 1 and not lists else None


def _is_rows(value: object) -> bool:
    rows = cast("list[Any]", value) if isinstance(value, list) else []
    return bool(rows) and all(isinstance(row, dict) for row in rows)
