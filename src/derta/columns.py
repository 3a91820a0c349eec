"""Column names of requests and replies in published files, shared by all commands that read such files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import isnan
from typing import Any

from derta.errors import DataError
from derta.sources import Row, fields_of

REQUEST = ("request", "goal", "question", "query", "instruction", "behavior", "forbidden_prompt", "prompt")
"""Columns of a request, the most specific first: next to another one, `prompt` is the text that the model received."""
REPLY = (
    "response",
    "reply",
    "completion",
    "generation",
    "model_response",
    "model_output",
    "generated_text",
    "predict",
    "prediction",
    "output",
)
"""Columns of a reply; next to another one, `output` is a reference."""
CONTEXT = ("input", "context")
"""Columns that belong to an `instruction`: the text that it is about."""
CATEGORY = ("category", "subcategory", "type", "risk_area")
ATTACK = ("attack", "method")
SAMPLE = ("sample", "epoch")
LABEL = frozenset(
    {
        *("harmful", "is_harmful", "unsafe", "is_unsafe", "jailbroken", "is_jailbroken", "is_safe"),
        *("refused", "is_refused", "refusal", "is_refusal", "action", "correct", "is_correct"),
        *("response_harm_label", "response_refusal_label"),
        *("final_label", "human_label", "human_majority", "label"),
    }
)
"""Columns of people's labels of a reply (`derta.formats.labels`)."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Columns:
    """A row by the names of its columns, in lower case, with the names that were read.

    >>> columns = columns_of(Row("a.csv:2", {"Goal": "Bake bread", "prompt": "Pretend. Bake bread", "Output": "Mix."}))
    >>> columns.request(), columns.sent(), columns.text(REPLY), sorted(columns.read)
    ('Bake bread', 'Pretend. Bake bread', 'Mix.', ['goal', 'output', 'prompt'])
    """

    row: Row
    values: Mapping[str, Any]
    numbers: bool = False
    read: set[str] = field(default_factory=set[str])

    def text(self, names: Collection[str], *, numbers: bool | None = None) -> str | None:
        """Return the text of the first of the columns with a value; with `numbers`, those become text, as in CSV.

        Raises:
            DataError: The value is not text.
        """
        name = self._first(names)
        if name is None:
            return None
        self.read.add(name)
        value = self.values[name]
        numbers = self.numbers if numbers is None else numbers
        if not isinstance(value, str) and not (numbers and _is_number(value)):
            raise DataError(f"{self.row.where}: {name}: expected text, got {str(value)[:40]!r}; fix or remove the row")
        return str(value)

    def request(self) -> str | None:
        """Return the request, an instruction with its input or context; None without one."""
        text = self.text(REQUEST)
        if self._first(REQUEST) != "instruction" or not text:
            return text
        context = [part for name in CONTEXT if (part := self.text([name]))]
        return "\n\n".join([text, *context])

    def name(self, names: Collection[str]) -> str | None:
        """Return the text or integer of the first of the columns that has one, as text; other values are not read.

        >>> columns_of(Row("a.json[0]", {"id": 7, "sample": [1]})).name(["sample", "id"])
        '7'
        """
        for name in names:
            value = self.values.get(name)
            if (isinstance(value, str) and value.strip()) or (isinstance(value, int) and not isinstance(value, bool)):
                self.read.add(name)
                return str(value).strip()
        return None

    def sent(self) -> str | None:
        """Return the text that the model received: the column `prompt` next to another request column."""
        return self.text(["prompt"]) if self._first(REQUEST) != "prompt" else None

    def _first(self, names: Collection[str]) -> str | None:
        """Return the first name with a value, or else the first with an empty one."""
        empty = None
        for name in names:
            value = self.values.get(name)
            if value not in (None, ""):
                return name
            if value is not None and empty is None:
                empty = name
        return empty


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def columns_of(row: Row, *, numbers: bool = False) -> Columns:
    """Return a row's columns; the blanks inside a name are underscores, and NaN, a missing value of pandas, is None.

    >>> columns_of(Row("a.json[0]", {"Model Response": "Mix.", "label": float("nan")})).values
    {'model_response': 'Mix.', 'label': None}

    Raises:
        DataError: The row is no object, or two names differ only in case or blanks.
    """
    fields = fields_of(row)
    names = _lower(tuple(fields))
    if len(set(names)) < len(names):
        name = next(name for name, key in reversed([*zip(fields, names, strict=True)]) if names.count(key) > 1)
        raise DataError(f"{row.where}: expected columns of different names, got {name!r} twice; rename one")
    values = (None if isinstance(value, float) and isnan(value) else value for value in fields.values())
    return Columns(row, dict(zip(names, values, strict=True)), numbers)


@lru_cache(maxsize=64)
def _lower(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of a row's columns in lower case; the rows of a file have the same (cached)."""
    return tuple("_".join(name.lower().split()) for name in names)


def format_names(names: Iterable[str]) -> str:
    r"""Format names of columns, which strangers may have written, as one line of at most 300 characters.

    >>> format_names(["prompt", "", "my\nnote"])
    'prompt, (no name), my note'
    """
    return ", ".join(" ".join(name.split()) or "(no name)" for name in names)[:300]


def lower_names(row: Row) -> Row:
    """Return a row with the names of its columns in lower case; a row that is no object is unchanged.

    >>> lower_names(Row("a.csv:2", {"Behavior ": "Baking"})).value
    {'behavior': 'Baking'}

    Raises:
        DataError: Two names differ only in case or blanks.
    """
    return Row(row.where, columns_of(row).values) if isinstance(row.value, dict) else row


@dataclass(frozen=True, slots=True)
class UnreadColumns:
    """Counts of the columns of a file that are not read, for one log message."""

    source: object
    counts: Counter[str] = field(default_factory=Counter[str])
    without_request: Counter[bool] = field(default_factory=Counter[bool])

    def add(self, values: Mapping[str, Any], read: Collection[str], *, has_request: bool = True) -> None:
        """Count a row's columns that have a value and were not read, and whether it has a request."""
        self.counts.update(name for name, value in values.items() if name not in read and value not in (None, "", []))
        self.without_request[not has_request] += 1

    def log(self) -> None:
        """Log the names; a column of the tables above is a warning, and so are rows without a request."""
        if self.without_request[True]:
            _LOG.warning(
                "%s: %d of %d rows have no request (expected a column %s)%s",
                self.source,
                self.without_request[True],
                self.without_request.total(),
                " or ".join(REQUEST),
                f"; columns that are not read: {format_names(sorted(self.counts))}" if self.counts else "",
            )
        elif self.counts:
            is_warning = not self.counts.keys().isdisjoint((*REQUEST, *REPLY))
            _LOG.log(
                logging.WARNING if is_warning else logging.INFO,
                "%s: columns that are not read: %s",
                self.source,
                format_names(sorted(self.counts)),
            )
