"""Texts and numbers as a reader may safely see them: nothing hidden, nothing endless, percent instead of fractions."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup

from derta.errors import escape_hidden

NOTHING = "–"


class Cut(NamedTuple):
    """The start of a text, and how many of its characters are not shown."""

    text: str
    left_out: int


class Label(NamedTuple):
    """The name of a cell in parts: an attack with its variant and data set, or a data set alone."""

    base: str
    variant: str | None = None
    dataset: str | None = None


def shown(value: object) -> object:
    """What a template prints for a value: text made visible, markup of our own as it is."""
    return escape_hidden(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def cut(text: str, limit: int) -> Cut:
    """The first `limit` characters.

    >>> cut("abcdef", 4), cut("abc", 4)
    (Cut(text='abcd', left_out=2), Cut(text='abc', left_out=0))
    """
    return Cut(text[:limit], max(0, len(text) - limit))


def percent(fraction: float | None) -> str:
    """A fraction as percent with one decimal, without the sign; a dash for what was not measured.

    >>> percent(0.125), percent(1.0), percent(None)
    ('12.5', '100.0', '–')
    """
    return NOTHING if fraction is None else f"{100 * fraction:.1f}"


def p_value(p: float) -> str:
    """A p-value with three decimals.

    >>> p_value(0.0314), p_value(0.0000001)
    ('0.031', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(number: int) -> str:
    """A count with thin spaces between thousands.

    >>> count(12345) == "12\u202f345"
    True
    """
    return f"{number:,}".replace(",", "\u202f")


def plain(name: str) -> str:
    """A measure's or suite's name in words.

    >>> plain("late_refusal")
    'Late refusal'
    """
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]
