"""Topic of a response, by a simple rule: whether it shares a content word with its request."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from derta.data.matching import match_key, writes_blanks

STEM = 4
"""Letters that are compared: `kill` and `killing` are the same word."""
_SHORTEST = 3


def shares_topic(request: str, response: str) -> bool | None:
    """Return whether a response has a content word of the request; None if the request has none.

    Content words have at least three letters and are not in `texts/function_words.txt` (English). Words are compared by
    their first four letters, and in scripts without blanks by pairs of characters. The rule measures words and not
    meaning: a response with a synonym or a pronoun counts as off topic, as does a refusal without details.

    >>> shares_topic("How do I pick a lock?", "Locks can be opened by a locksmith.")
    True
    >>> shares_topic("How do I pick a lock?", "Sorry, I can't help with that."), shares_topic("Why?", "No.")
    (False, None)
    """
    wanted = content_words(request)
    return not wanted.isdisjoint(content_words(response)) if wanted else None


def content_words(text: str) -> set[str]:
    """Return the stems of a text's content words.

    >>> sorted(content_words("How do I bake bread?"))
    ['bake', 'brea']
    """
    stems: set[str] = set()
    for word in match_key(text).split():
        if not writes_blanks(word):
            stems.update(word[i : i + 2] for i in range(max(1, len(word) - 1)))
        elif len(word) >= _SHORTEST and word not in _function_words():
            stems.add(word[:STEM])
    return stems


@cache
def _function_words() -> frozenset[str]:
    """Load the words that are no content words (cached)."""
    text = (files("derta.data") / "texts" / "function_words.txt").read_text(encoding="utf-8")
    return frozenset(word for line in text.splitlines() if not line.startswith("#") for word in line.split())
