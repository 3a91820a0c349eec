"""Clauses of a written policy: Markdown or text with headings or list items, or YAML with `id` and `clause`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from derta.config import parse_yaml
from derta.data.matching import match_key
from derta.errors import DataError, escape_hidden
from derta.files import decode, read_bytes

LONGEST = 4000
"""Maximum length of a clause in characters."""
_ID_WORDS = 5
_ID_LENGTH = 60
_HEADING = re.compile(r"(#{1,6})(?:[ \t]+(.*))?")
_ITEM = re.compile(r"([ \t]*)(?:[-*+•]|\d{1,4}[.)])(?:[ \t]+(.*))?$")


class Clause(NamedTuple):
    """A rule of a policy: its id, which is the category of its requests, and its text."""

    id: str
    text: str


class _Part(NamedTuple):
    """A heading or list item with the text below it, and its line in the file."""

    title: str
    body: list[str]
    line: int

    def text(self) -> str:
        """Return the whole text in one line."""
        words = " ".join(" ".join(self.body).split())
        title = self.title.strip()
        return f"{title}{'' if title.endswith(('.', ':', '?', '!')) else ':'} {words}" if words and title else title


def read_clauses(path: str | Path) -> list[Clause]:
    """Return the clauses of a policy file.

    In YAML (`.yaml`, `.yml`) they are a list of `{id: ..., clause: ...}`. In any other text, each list item is a
    clause, and so is each heading without list items and headings below it, with the text below it.

    Raises:
        DataError: the file cannot be read, or has no clause, an empty, long or repeated clause, or an id twice.
    """
    text = decode(read_bytes(Path(path)), where=str(path))
    is_yaml = Path(path).suffix.lower() in (".yaml", ".yml")
    found = list(_of_yaml(text, where=str(path)) if is_yaml else parts_of(text, where=str(path)))
    if not found:
        raise DataError(
            f"{path}: expected a policy with clauses, got none; write each as a list item or under a heading of its own"
        )
    _check(found, where=str(path))
    return [clause for clause, _ in found]


def parts_of(text: str, *, where: str) -> Iterator[tuple[Clause, str]]:
    r"""Yield the clauses of a text with headings and list items, and their places.

    >>> policy = "# Policy\nWe help.\n## Locks\nNo picking\nof locks.\n## Paint\n- Theft of paint.\n- Forgery."
    >>> [(clause.id, clause.text) for clause, _ in parts_of(policy, where="policy.md")]
    [('locks', 'Locks: No picking of locks.'), ('theft-of-paint', 'Theft of paint.'), ('forgery', 'Forgery.')]

    Raises:
        DataError: a heading or list item without text.
    """
    ids: dict[str, int] = {}
    for part in _leaves(text.splitlines(), where=where):
        yield Clause(_unique(_slug(part.title), ids), part.text()), f"line {part.line}"


def _leaves(lines: Iterable[str], *, where: str) -> Iterator[_Part]:
    """Yield the list items, and the headings that have neither list items nor headings below them."""
    heading: _Part | None = None
    level, item, indent = 0, None, 0
    for number, line in enumerate(lines, start=1):
        if match := _HEADING.fullmatch(line):
            depth = len(match[1])
            if item is not None:
                yield item
            elif heading is not None and depth <= level:
                yield heading
            heading, level, item = _Part(_titled(match[2], number, "heading", where), [], number), depth, None
        elif match := _ITEM.fullmatch(line):
            if item is not None and len(match[1].expandtabs()) > indent:
                item.body.append(match[2] or "")  # a nested list belongs to its item
                continue
            if item is not None:
                yield item
            item = _Part(_titled(match[2], number, "list item", where), [], number)
            indent = len(match[1].expandtabs())
        elif item is not None and (not line.strip() or line[0] in " \t" or item.body[-1:] != [""]):
            item.body.append(line.strip())
        elif heading is not None:
            heading.body.append(line.strip())
    if (last := item or heading) is not None:
        yield last


def _titled(text: str | None, line: int, what: str, where: str) -> str:
    title = (text or "").replace("**", "").strip().rstrip("#").strip("*_ \t")
    if not match_key(title):
        raise DataError(f"{where}, line {line}: expected a clause, got an empty {what}; write it, or remove the line")
    return title


def _of_yaml(text: str, *, where: str) -> Iterator[tuple[Clause, str]]:
    try:
        rows = parse_yaml(text)
    except ValueError as error:
        raise DataError(f"{where}: expected a list of {{id, clause}} in YAML: {error}") from error
    if not isinstance(rows, list):
        raise DataError(f"{where}: expected a list of {{id, clause}}, got another kind of value; see docs/triples.md")
    for number, row in enumerate(cast("list[Any]", rows), start=1):
        place = f"clause {number}"
        values = cast("dict[Any, Any]", row) if isinstance(row, dict) else {}
        if values.keys() != {"id", "clause"}:
            raise DataError(f"{where}, {place}: expected the keys id and clause, got {escape_hidden(str(row))!r:.80}")
        name, clause = (" ".join(str(values[key] or "").split()) for key in ("id", "clause"))
        if not match_key(name) or not match_key(clause):
            raise DataError(f"{where}, {place}: expected an id and a clause, got an empty text; write it, or remove it")
        yield Clause(name, clause), place


def _check(found: list[tuple[Clause, str]], *, where: str) -> None:
    """Check that clauses are unique and not too long.

    Raises:
        DataError: one is not; the message names its place.
    """
    seen: dict[str, str] = {}
    ids: dict[str, str] = {}
    for clause, place in found:
        if len(clause.text) > LONGEST:
            raise DataError(
                f"{where}, {place}: expected a clause of at most {LONGEST} characters, got {len(clause.text)}; split it"
            )
        if (first := seen.setdefault(match_key(clause.text), place)) != place:
            raise DataError(f"{where}, {place}: expected each clause once, got that of {first} again; remove one")
        if (first := ids.setdefault(clause.id, place)) != place:
            raise DataError(
                f"{where}, {place}: expected each id once, got {clause.id!r:.80} of {first} again; rename it"
            )


def _slug(title: str) -> str:
    """Return the id of a clause: its first words, or those before a colon or a full stop.

    >>> _slug("Weapons: how to build them"), _slug("No instructions for the picking of locks, ever.")
    ('weapons', 'no-instructions-for-the-picking')
    """
    start = re.split(r"[:.](?:\s|$)|\s[-–—]\s", title, maxsplit=1)[0]
    words = match_key(start if match_key(start) else title).split()
    return "-".join(words[:_ID_WORDS])[:_ID_LENGTH]


def _unique(name: str, ids: dict[str, int]) -> str:
    ids[name] = ids.get(name, 0) + 1
    return name if ids[name] == 1 else f"{name}-{ids[name]}"
