"""Format texts and numbers for the report: visible characters only, truncated texts, fractions as percent."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup

from derta.errors import escape_hidden

MISSING = "–"


class TruncatedText(NamedTuple):
    """A truncated text, with the number of omitted characters."""

    text: str
    num_omitted: int


class Label(NamedTuple):
    """Parts of a cell's name: an attack with its variant and dataset, or a dataset only."""

    base: str
    variant: str | None = None
    dataset: str | None = None


def visible_value(value: object) -> object:
    """Return a template value with hidden characters of text made visible; `Markup` is returned unchanged."""
    return escape_hidden(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def truncate(text: str, limit: int) -> TruncatedText:
    """Return the first `limit` characters of a text.

    >>> truncate("abcdef", 4), truncate("abc", 4)
    (TruncatedText(text='abcd', num_omitted=2), TruncatedText(text='abc', num_omitted=0))
    """
    return TruncatedText(text[:limit], max(0, len(text) - limit))


def format_percent(fraction: float | None) -> str:
    """Format a fraction as percent with one decimal, without the percent sign; a dash for None.

    >>> format_percent(0.125), format_percent(1.0), format_percent(None)
    ('12.5', '100.0', '–')
    """
    return MISSING if fraction is None else f"{100 * fraction:.1f}"


def format_count(number: int) -> str:
    """Format a count with thin spaces as thousands separators.

    >>> format_count(12345) == "12\u202f345"
    True
    """
    return f"{number:,}".replace(",", "\u202f")


def sentence_case(name: str) -> str:
    """Format the name of a measure or suite as words.

    >>> sentence_case("late_refusal")
    'Late refusal'
    """
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]
