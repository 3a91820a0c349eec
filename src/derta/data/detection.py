"""Detection of a dataset's format by its columns, and the reading of its rows with counts of what is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any, Protocol, TypeVar, cast

from derta.columns import CONTEXT, UnreadColumns
from derta.data.fields import DroppedRowError, name_of
from derta.errors import DataError, did_you_mean
from derta.sources import Row, fields_of


class Format(Protocol):
    """Protocol of a dataset format, which is detected by its required fields."""

    @property
    def fields(self) -> Sequence[str | tuple[str, ...]]:
        """Names of the required fields; of a tuple of names, one is required."""
        ...

    @property
    def optional(self) -> Sequence[str] | None:
        """Names of the other fields that are read."""
        ...


F = TypeVar("F", bound=Format)
R = TypeVar("R")

TURN_KEYS = ("role", "from", "content", "value", "tool_calls", "tool_call_id", "name")
"""Keys of the turn of a conversation that are read."""


def names_of(format: Format) -> list[str]:
    """Return the names of all fields that a format may read."""
    names = [name for names in _alternatives(format) for name in names]
    return [*names, *(format.optional or ()), *(CONTEXT if "instruction" in names else ())]


def required_names(format: Format) -> list[str]:
    """Return the required fields of a format, where the names of which one is needed are joined by `|`."""
    return ["|".join(names) for names in _alternatives(format)]


def _read_names(format: Format, row: Row) -> list[str]:
    """Return the names of the fields that a format reads in a row: of alternatives, one."""
    fields = fields_of(row)
    names = [name_of(row, names) for names in _alternatives(format) if any(name in fields for name in names)]
    return [*names, *(format.optional or ()), *(CONTEXT if "instruction" in names else ())]


def _alternatives(format: Format) -> list[tuple[str, ...]]:
    return [(names,) if isinstance(names, str) else names for names in format.fields]


def pick_format(
    rows: Iterator[Row],
    formats: Mapping[str, F],
    *,
    name: str,
    source: object,
    columns: Collection[str] = (),
    uncertain: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> tuple[str, F, Iterator[Row]]:
    """Return the name, the format and all rows; with `auto`, detect the format from the fields of the first row.

    Args:
        rows: The rows of the source.
        formats: The formats by name, in the order in which `auto` tries them.
        name: Name of a format, or `auto`.
        source: Name of the source, for errors.
        columns: Names that a user gives to columns; each must be a field of a format.
        uncertain: Fields that make a detected format uncertain, by its name: then it must be named.

    Raises:
        DataError: Unknown format name, no format matches, or only an uncertain one; the error message lists all
            formats.
    """
    if name not in ("auto", *formats):
        raise DataError(f"{source}: expected a format of {', '.join(('auto', *formats))}, got {name!r}")
    usable = formats if name == "auto" else {name: formats[name]}
    known = [field for format in usable.values() for field in names_of(format)]
    if unknown := [field for field in columns if field not in known]:
        raise DataError(f"{source}: columns: unknown name {unknown[0]!r}; {did_you_mean(unknown[0], sorted({*known}))}")
    if name != "auto":
        return name, formats[name], rows
    first = next(rows, None)
    if first is None:
        raise DataError(f"{source}: expected rows, the file holds none; check that it was written whole")
    fields = fields_of(first)
    for key, format in formats.items():
        if _missing(format, fields):
            continue
        if doubts := [field for field in uncertain.get(key, ()) if field in fields]:
            raise DataError(
                f"{first.where}: the fields {_listed(fields)} are those of the format {key}, but {', '.join(doubts)} "
                f"may tell that the rows are no such data; set `format: {key}` if they are"
            )
        return key, format, chain([first], rows)
    raise DataError(
        f"{first.where}: no known format has the fields {_listed(fields)}; expected one of: {_described(formats)}; "
        f"{_nearest(formats, fields)}map the names with `columns: {{NAME: FIELD}}`, or rename the fields"
    )


def _missing(format: Format, fields: Collection[str]) -> list[str]:
    """Return the required fields of a format that are not among the fields."""
    needed = _alternatives(format)
    return [_some_of(names) for names in needed if not any(name in fields for name in names)]


def _described(formats: Mapping[str, Format]) -> str:
    texts: dict[str, list[str]] = {}
    for key, format in formats.items():  # formats of the same columns together
        texts.setdefault(", ".join(map(_some_of, _alternatives(format))), []).append(key)
    return "; ".join(f"{'|'.join(keys)} ({text})" for text, keys in texts.items())


def _some_of(names: Sequence[str]) -> str:
    """Return the names, or the most common one of many."""
    return "|".join(names) if len(names) <= 3 else f"{'prompt' if 'prompt' in names else names[0]}|…"


def _nearest(formats: Mapping[str, Format], fields: Collection[str]) -> str:
    """Return the format with the fewest missing fields, of those with one that is there, as part of a message."""
    missing = {key: _missing(format, fields) for key, format in formats.items()}
    near = [key for key, format in formats.items() if len(missing[key]) < len(format.fields)]
    if not near:
        return ""
    key = min(near, key=lambda key: len(missing[key]))
    return f"the nearest is {key}, without {' and '.join(missing[key])}; "


def _listed(fields: Collection[str]) -> str:
    names = [name[:40] for name in fields] or ["none"]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def parse_rows(
    rows: Iterable[Row], parse: Callable[[Row], R], *, format: Format, source: object, dropped: Counter[str]
) -> Iterator[tuple[Row, R]]:
    """Yield each row with its parsed value; count the rows that are dropped, and log the fields that are not read."""
    unread = UnreadColumns(source)
    for row in rows:
        fields, read = fields_of(row), _read_names(format, row)
        unread.add({**fields, **_turn_keys(fields, read)}, read)
        try:
            value = parse(row)
        except DroppedRowError as error:
            dropped[error.reason] += 1
        else:
            yield row, value
    unread.log()


def _turn_keys(fields: Mapping[str, Any], read: Collection[str]) -> dict[str, Any]:
    """Return the keys of the turns of a row's conversations that are not read, such as `messages[].thinking`."""
    return {
        f"{name}[].{key}": value
        for name in read
        for turn in _turns(fields.get(name))
        for key, value in turn.items()
        if key not in TURN_KEYS
    }


def _turns(value: object) -> list[Mapping[str, Any]]:
    turns = cast("list[Any]", value) if isinstance(value, list) else []
    return [turn for turn in turns if isinstance(turn, Mapping) and ("role" in turn or "from" in turn)]
