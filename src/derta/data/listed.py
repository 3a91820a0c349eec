"""Lists in the reply of a model: JSON lists, numbered lines and bullets; the reply is hostile text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, cast

LONGEST_REPLY = 100_000
"""Number of characters of a reply that are read."""
MOST_ITEMS = 1000
"""Number of items that are read."""
_JSON_STARTS = 5
_MARKER = re.compile(r"[ \t]{0,20}(?:[-*+•]|[(\[]?\d{1,4}[.):\]])[ \t]+(.*)")
_FIELDS = ("request", "text", "prompt", "message", "question")
_QUOTES = "\"'“”«»`*_ \t"


def list_items(text: str) -> list[str]:
    r"""Return the items of a list in a text, each as one line without markers and quotation marks.

    A JSON list of texts (or of objects with `request` or `text`) is read first; else the numbered lines and bullets;
    else the lines that are quoted, or several lines that are questions. Other prose is no list.

    >>> list_items('Sure!\n1. "Bake bread?"\n2) **Boil** tea?')
    ['Bake bread?', 'Boil tea?']
    >>> list_items('```json\n["Bake bread?", {"request": "Boil tea?"}]\n```')
    ['Bake bread?', 'Boil tea?']
    >>> list_items("I cannot do that.")
    []
    """
    text = text[:LONGEST_REPLY]
    found = _json_items(text)
    if found is None:
        lines = text.splitlines()
        found = [match[1] for line in lines if (match := _MARKER.fullmatch(line))]
        found = found or _plain_lines(lines)
    items = (_clean(item) for item in found[:MOST_ITEMS])
    return [item for item in items if item]


def _clean(item: str) -> str:
    words = " ".join(item.replace("**", "").split())
    if words[:1] in ("'", '"') and words.endswith(("',", '",')):  # a line of a JSON list that was cut off
        words = words[:-1]
    return words.strip(_QUOTES)


def _plain_lines(lines: list[str]) -> list[str]:
    """Return the entries of a JSON list that was cut off, else the questions, if there are several."""
    quoted = [line for line in lines if line.strip().startswith('"') and line.rstrip().endswith(('"', '",'))]
    questions = [line for line in lines if line.rstrip(_QUOTES).endswith("?")]
    return quoted or (questions if len(questions) > 1 else [])


def _json_items(text: str) -> list[str] | None:
    """Return the texts of the first JSON list with some; None without one."""
    decoder = json.JSONDecoder()
    start = -1
    for _ in range(_JSON_STARTS):
        start = text.find("[", start + 1)
        if start < 0:
            return None
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if items := list(_texts(value)):
            return items
    return None


def _texts(value: object) -> Iterator[str]:
    for one in cast("list[Any]", value) if isinstance(value, list) else ():
        named = cast("dict[str, Any]", one) if isinstance(one, dict) else {}
        text = next((named[name] for name in _FIELDS if name in named), one)
        if isinstance(text, str):
            yield text
