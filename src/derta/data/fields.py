"""Values of dataset columns: required fields, text and booleans; and counts of the rows that are dropped."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from derta.errors import DataError, escape_hidden, kind_of
from derta.sources import Row, fields_of


class DroppedRowError(Exception):
    """A valid row that is not used; `reason` is its name in the counts of dropped rows."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


REFUSED = "refused_by_template"
WILDGUARD_HARM = {"harmful": True, "unharmful": False}
WILDGUARD_REFUSAL = {"refusal": True, "compliance": False}
logger = logging.getLogger(__name__)
R = TypeVar("R")


@dataclass
class RefusedRows(Generic[R]):
    """Rows of a file that `fault_of` has a message on, such as that the chat template refuses them.

    They are dropped: `count` is their number, and `first_fault` names the first one with its message.
    """

    fault_of: Callable[[R], str | None] | None
    count: int = 0
    first_fault: str = ""

    def has(self, record: R, *, where: str) -> bool:
        """Return whether a record is refused, and count it."""
        fault = None if self.fault_of is None else self.fault_of(record)
        if not fault:
            return False
        self.count += 1
        self.first_fault = self.first_fault or f"{where}: {fault}"
        return True

    @property
    def dropped(self) -> Counter[str]:
        """The count by reason, empty without refused rows."""
        return Counter({REFUSED: self.count} if self.count else {})

    def log(self) -> None:
        """Log the first refused row and their number as a warning."""
        if self.count:
            logger.warning("%s (%d rows of this file are dropped for such a reason)", self.first_fault, self.count)


def value_of(row: Row, name: str) -> Any:
    """Return the value of a field.

    Raises:
        DataError: The field is missing.
    """
    fields = fields_of(row)
    if name not in fields:
        raise DataError(
            f"{row.where}: expected a field {name!r}, got {', '.join(fields) or 'none'}; map it with `columns`, or fix "
            "or remove the row"
        )
    return fields[name]


def text_of(row: Row, name: str) -> str:
    """Return the text of a field, stripped; an empty string if the field is null.

    >>> text_of(Row("a.jsonl:1", {"prompt": " How do I bake bread? "}), "prompt")
    'How do I bake bread?'

    Raises:
        DataError: The field is missing or is not text.
    """
    value = value_of(row, name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{row.where}: {name}: expected text, got {kind_of(value)} ({str(value)[:40]!r}); fix the row")
    return value.strip()


def flag_of(row: Row, name: str) -> bool:
    """Parse a boolean as JSON, CSV and Parquet files represent it.

    >>> flag_of(Row("a.csv:2", {"is_safe": "False"}), "is_safe")
    False

    Raises:
        DataError: The field is missing, or is not one of true, false, 1 and 0.
    """
    value = value_of(row, name)
    values = {"true": True, "1": True, "false": False, "0": False}
    flag = values.get(str(value).lower())
    if flag is None:
        raise DataError(f"{row.where}: {name}: expected true or false, got {value!r}; fix or remove the row")
    return flag


def label_of(row: Row, name: str, values: Mapping[str, bool]) -> bool | None:
    """Return the value of a label's word; None if the label is empty.

    Raises:
        DataError: The word is not one of `values`.
    """
    word = text_of(row, name).lower()
    if word and word not in values:
        raise DataError(f"{row.where}: {name}: expected {' or '.join(values)}, got {word[:40]!r}; fix the row")
    return values.get(word)


def name_of(row: Row, names: Sequence[str]) -> str:
    """Return the first of the names that is a field with a value, or else the first that is a field.

    Raises:
        DataError: None of them is a field.
    """
    fields = fields_of(row)
    present = [name for name in names if name in fields]
    if not present:
        raise DataError(
            f"{row.where}: expected a field {' or '.join(map(repr, names))}, got {', '.join(fields) or 'none'}; "
            "map it with `columns`, or fix or remove the row"
        )
    return next((name for name in present if fields[name] not in (None, "")), present[0])


def log_dropped(source: object, *, summary: str, dropped: Counter[str]) -> None:
    """Log the number of dropped rows by reason as a warning; without dropped rows, log nothing."""
    if dropped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))
        logger.warning("%s", escape_hidden(f"{source}: {summary}; dropped: {reasons}"))
