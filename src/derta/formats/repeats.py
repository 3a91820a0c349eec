"""Repeated rows: a distributed sampler pads its last batch with rows of the dataset, which are then in a file twice."""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from derta.columns import ATTACK, CONTEXT, REQUEST, SAMPLE
from derta.sources import Row

_PROMPT = {*REQUEST, *CONTEXT, *ATTACK, "messages", "prefill", "mode", "model", "id", "request_id"}
"""Columns of what a reply is to; two rows that agree in them are two samples, or one row twice."""
_REQUEST = (*REQUEST, "messages")
_INDEX = re.compile(r"unnamed_[0-9]+|unnamed:_[0-9]+|index|idx|row|row_id|line|no|number|__index_level_0__", re.ASCII)
"""Columns that may be the number of the row, which the writer of the file counted."""
_PARTS = 16
_MASK = 2**64 - 1


@dataclass(slots=True)
class RowScan:
    """Result of a first pass over a file, and the filter of its repeated rows in the second.

    Attributes:
        repeated: Hashes of the rows that are there several times.
        num_equal: Number of rows that equal an earlier one.
        sampled: Most prompts have several rows with different replies, so that equal rows are samples of one prompt,
            and none is left out.
        has_unique_ids: Every row has an id of its own.
        counters: Columns with the number of the row, in which two equal rows differ.
    """

    repeated: frozenset[int] = frozenset()
    num_equal: int = 0
    sampled: bool = False
    has_unique_ids: bool = True
    counters: frozenset[str] = frozenset()
    seen: set[int] = field(default_factory=set[int])

    def is_repeat(self, row: Row) -> bool:
        """Return whether a row repeats an earlier one that this method received."""
        if not self.repeated or self.sampled or not _has_request(row):
            return False
        value = _hash_without(row.value, self.counters)
        if value not in self.repeated:
            return False
        is_repeat = value in self.seen
        self.seen.add(value)
        return is_repeat


class _Counters:
    """Columns whose value is the number of the row plus a constant, in every row so far."""

    def __init__(self) -> None:
        self._first: dict[str, int] | None = None
        self.names: frozenset[str] = frozenset()

    def add(self, values: Mapping[str, Any], position: int) -> None:
        """Read the next row."""
        if self._first is None:
            numbers = {name: _integer(value) for name, value in values.items() if _INDEX.fullmatch(name)}
            self._first = {name: number - position for name, number in numbers.items() if number is not None}
        elif self.names:
            self._first = {name: n for name, n in self._first.items() if _integer(values.get(name)) == n + position}
        self.names = frozenset(self._first)


def _integer(value: object) -> int | None:
    text = str(value).strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def scan_rows(rows: Iterable[Row]) -> RowScan:
    """Find the rows that repeat an earlier one in all columns; a row without a request repeats none.

    A column with the number of the row, such as the index that pandas writes, is none of them. 16 bytes a row are in
    memory, and 8 more if there may be such a column.

    >>> rows = [Row(f"a.jsonl:{i}", {"question": q, "response": "No."}) for i, q in enumerate(["Tea?", "Rye?", "Tea?"])]
    >>> scan = scan_rows(rows)
    >>> scan.num_equal, [scan.is_repeat(row) for row in rows]
    (1, [False, False, True])
    """
    wholes, bare, prompts, ids = (array("Q") for _ in range(4))
    counters = _Counters()
    candidates: frozenset[str] | None = None
    num_rows = 0
    for row in rows:
        num_rows += 1
        if not isinstance(row.value, dict):
            continue
        values: dict[str, Any] = row.value
        if values.get("id") not in (None, ""):
            ids.append(_hash([(name, values[name]) for name in ("id", *SAMPLE) if name in values]))
        counters.add(values, num_rows)
        candidates = counters.names if candidates is None else candidates
        if _has_request(row):
            wholes.append(_hash(values.items()))
            if candidates:
                bare.append(_hash_without(values, candidates))
            prompts.append(_hash([(name, value) for name, value in values.items() if name in _PROMPT]))
    names = counters.names if counters.names == candidates else frozenset[str]()
    wholes = bare if names else wholes
    equal, num_wholes = _repeated(wholes)
    several, num_prompts = _repeated(prompts)
    return RowScan(
        equal,
        len(wholes) - num_wholes,
        sampled=num_wholes > num_prompts and len(several) >= num_prompts / 2,
        has_unique_ids=num_rows == len(ids) and not _repeated(ids)[0],
        counters=names,
    )


def _repeated(hashes: array[int]) -> tuple[frozenset[int], int]:
    """Return the values that are there several times, and the number of different values.

    A part of the values at a time is in a table: the array is a tenth of the size of a table of all.
    """
    repeated: set[int] = set()
    num_different = 0
    for part in range(_PARTS):
        counts = Counter(value for value in hashes if value % _PARTS == part)
        num_different += len(counts)
        repeated.update(value for value, count in counts.items() if count > 1)
    return frozenset(repeated), num_different


def _has_request(row: Row) -> bool:
    return isinstance(row.value, dict) and any(row.value.get(name) for name in _REQUEST)


def _hash_without(values: Mapping[str, Any], names: Container[str]) -> int:
    return _hash([(name, value) for name, value in values.items() if name not in names] if names else values.items())


def _hash(items: Iterable[tuple[str, object]]) -> int:
    """Return 64 bits of a hash of named values, which differs between processes, as the hash of a text does."""
    texts = [name if isinstance(value, str) else f"{name}={json.dumps(value, default=str)}" for name, value in items]
    return hash((*texts, *(value for _, value in items if isinstance(value, str)))) & _MASK
