"""Rows of data files: their location for errors, and the names of their columns."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

from derta.errors import DataError, did_you_mean, kind_of

_LOG = logging.getLogger(__name__)


class Row(NamedTuple):
    """One parsed row, with its location (`file:line`, or `dataset[split], row n`)."""

    where: str
    value: Any


def fields_of(row: Row) -> Mapping[str, Any]:
    """Return the row as a mapping from field names to values.

    Raises:
        DataError: the row is a string, a number or a list.
    """
    if not isinstance(row.value, dict):
        raise DataError(
            f"{row.where}: expected an object with named fields, got {kind_of(row.value)}; fix or remove the row"
        )
    return cast("dict[str, Any]", row.value)


def rename_columns(rows: Iterator[Row], columns: Mapping[str, str], *, source: object) -> list[Row]:
    """Return the rows with other column names; `columns` maps a name of ours to the name in the file.

    A column of the file with a name of ours, which another one takes, is left out, and this is logged.

    >>> row = Row("a.csv:2", {"Frage": "Bread?", "id": 7})
    >>> rename_columns(iter([row]), {"prompt": "Frage"}, source="a.csv")
    [Row(where='a.csv:2', value={'id': 7, 'prompt': 'Bread?'})]

    Raises:
        DataError: a name is no column of any row.
    """
    listed = list(rows)
    names = list(dict.fromkeys(name for row in listed for name in fields_of(row)))
    for ours, theirs in columns.items():
        if theirs not in names:
            raise DataError(
                f"{source}: columns: expected a column of the file for {ours!r}, got {theirs!r}; "
                f"{did_you_mean(theirs, names)}"
            )
    moved = {*columns.values()}
    if hidden := [name for name in columns if name in names and name not in moved]:
        _LOG.info("%s: columns that are not read, because `columns` names others: %s", source, ", ".join(hidden))

    def renamed(fields: Mapping[str, Any]) -> dict[str, Any]:
        others = {name: value for name, value in fields.items() if name not in moved and name not in columns}
        return others | {ours: fields[theirs] for ours, theirs in columns.items() if theirs in fields}

    return [Row(row.where, renamed(fields_of(row))) for row in listed]
