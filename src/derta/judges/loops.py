"""Detection of degenerate replies: loops, and texts without a letter or digit."""

from __future__ import annotations

import re
from collections.abc import Sequence

LOOP_WORDS = 40  # in a shorter text a loop cannot be distinguished from a list
LOOP_SHARE = 0.6  # share of the four-word runs that are repeats
_CONTENT = re.compile(r"[^\W_]")


def is_loop(text: str, words: Sequence[str], distinct: int) -> bool:
    """Return whether a text with so many distinct words is long enough, and `LOOP_SHARE` of its four-word runs repeat.

    A text without blanks is split into characters, in runs of eight.

    >>> [is_loop(text, words := text.split(), len({*words})) for text in ("and so on " * 30, "Take it and go.")]
    [True, False]
    """
    units: Sequence[str] = words
    length = 4
    if len(text) > 30 * len(units):
        units, length, distinct = text, 8, len(set(text))
    num_runs = len(units) - length + 1
    if len(units) < LOOP_WORDS or distinct - length + 1 > (1 - LOOP_SHARE) * num_runs:
        return False  # every unit but the last ones starts a run of its own
    runs = [tuple(units[at : at + length]) for at in range(num_runs)]
    return len(set(runs)) <= (1 - LOOP_SHARE) * num_runs


def has_content(text: str) -> bool:
    """Return whether a text has a letter or digit."""
    return _CONTENT.search(text) is not None
