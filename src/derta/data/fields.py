"""Fields of a row that somebody else wrote: there or not, text or not, true or false; and which format a row has."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import chain
from typing import Any, Protocol, TypeVar

from derta.errors import DataError
from derta.sources import Row, fields_of


class Format(Protocol):
    """A layout of rows, known by the fields that each of them must have."""

    @property
    def fields(self) -> Collection[str]:
        """The fields every row must have."""
        ...


logger = logging.getLogger(__name__)
F = TypeVar("F", bound=Format)


def value_of(row: Row, name: str) -> Any:
    """A field's value.

    Raises:
        DataError: the field is missing.
    """
    fields = fields_of(row)
    if name not in fields:
        raise DataError(
            f"{row.where}: expected a field {name!r}, got {', '.join(fields) or 'none'}; mend or remove the row"
        )
    return fields[name]


def text_of(row: Row, name: str) -> str:
    """A field's text without the blanks around it; empty where the field is null.

    >>> text_of(Row("a.jsonl:1", {"prompt": " How do I bake bread? "}), "prompt")
    'How do I bake bread?'

    Raises:
        DataError: the field is missing or holds something else.
    """
    value = value_of(row, name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(
            f"{row.where}: {name}: expected text, got a {type(value).__name__} ({str(value)[:40]!r}); mend the row"
        )
    return value.strip()


def flag_of(row: Row, name: str) -> bool:
    """A yes or no, as JSON, CSV and parquet files write it.

    >>> flag_of(Row("a.csv:2", {"is_safe": "False"}), "is_safe")
    False

    Raises:
        DataError: the field is missing, or neither true, false, 1 nor 0.
    """
    value = value_of(row, name)
    known = {"true": True, "1": True, "false": False, "0": False}
    flag = known.get(str(value).lower())
    if flag is None:
        raise DataError(f"{row.where}: {name}: expected true or false, got {value!r}; mend or remove the row")
    return flag


def pick_format(
    rows: Iterator[Row], formats: Mapping[str, F], *, name: str, source: object
) -> tuple[str, F, Iterator[Row]]:
    """The format called `name`, or with `auto` the first whose fields the first row has; and all the rows again.

    Raises:
        DataError: no such format, or none that fits; the message lists them all.
    """
    if name != "auto":
        if name not in formats:
            raise DataError(f"{source}: expected a format of {', '.join(('auto', *formats))}, got {name!r}")
        return name, formats[name], rows
    first = next(rows, None)
    if first is None:
        raise DataError(f"{source}: expected rows, the file holds none; check that it was written whole")
    fields = fields_of(first)
    for key, known in formats.items():
        if all(field in fields for field in known.fields):
            return key, known, chain([first], rows)
    listed = "; ".join(f"{key} ({', '.join(known.fields)})" for key, known in formats.items())
    raise DataError(
        f"{first.where}: no known format has the fields {', '.join(fields)}; expected one of: {listed}; "
        "rename the fields"
    )


def log_dropped(source: object, *, kept: str, dropped: Counter[str]) -> None:
    """Log how much of a source was dropped, by reason; nothing is logged where nothing was."""
    if dropped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))
        logger.warning("%s: %s; dropped: %s", source, kept, reasons)
