"""Format texts and numbers for the report: visible characters only, truncated texts, fractions as percent."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import quote, urlencode

from markupsafe import Markup

from derta.errors import escape_hidden
from derta.results import Cell, Comparison, Place

MISSING = "–"
REDACTED = "redacted"
MINUS = "\u2212"


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


def label_slug(place: Cell | Comparison | Place) -> str:
    """Return the unique part of the anchor of an attack's or a data set's transcripts, which is `#t-<slug>`.

    A hash tells apart names that differ only in characters that an anchor cannot have.

    >>> label_slug(Place("attack", "prefill@50%", attack="prefill", variant="50%"))
    'prefill-50-21c787'
    """
    key = repr((place.suite, place.name, place.attack, place.variant, place.dataset))
    words = re.sub("[^a-z0-9]+", "-", place.name.lower())[:40].strip("-")
    return f"{words}-{sha256(key.encode('utf-8', 'backslashreplace')).hexdigest()[:6]}".lstrip("-")


def transcript_filter(place: Cell | Comparison | Place | None = None, **keys: object) -> str:
    """Return the query that selects transcripts in the report, the value of a link's `data-filter`.

    The keys are `suite`, `attack`, `variant`, `dataset`, `method`, `judge`, `class`, `seed`, `category` and `text`; a
    key without a value (None) is left out. `class` is a reply class, or `harmful`, `harmless`, `refused`,
    `not_refused`, `correct`, `wrong`, `unscored` or `unanswered`: any judge's, or that of `judge`. `first`, `second`
    and `differ` select the requests on which two methods differ: the first's reply is `refused`, `harmful` or
    `correct`, and the second's is not.

    >>> place = Place("attack", "prefill@50%", attack="prefill", variant="50%")
    >>> transcript_filter(place, method="derta", judge="harm", seed=None)
    'attack=prefill&variant=50%25&method=derta&judge=harm'
    >>> transcript_filter(Place("over_refusal", "xstest", dataset="xstest"), **{"class": "refused"})
    'dataset=xstest&class=refused'
    """
    parts: dict[str, object] = {}
    if place is not None:
        parts = {"attack": place.attack, "variant": place.variant, "dataset": place.dataset}
    named = {key: escape_hidden(str(value)) for key, value in (parts | keys).items() if value is not None}
    return urlencode(named, quote_via=quote)
