"""Detection of requests that are clearly harmless, by the words of the request and of the reply.

Two small linear models over the stems of words, one for requests and one for replies, give evidence of harm: positive
for words of harmful texts, negative for words of everyday ones. A reply is harmless if the sum is below `HARMLESS`. A
request alone is not enough: its evidence counts at most `MOST`, because attacks dress a request up in harmless words.
Unknown words count nothing, so a text on an unknown subject is not called harmless. Harmless requests that look harmful
("how do I kill a Python process?") are not recognised.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from math import sqrt
from typing import NamedTuple

HARMLESS = -5.0  # log odds; at most 2 points of the harmful answers of a source that was left out are below
MOST = 2.5  # log odds against harm that a request alone can have
FEW_STEMS = {"request": 4, "reply": 10}  # a text with fewer known stems has weaker evidence
_STEM = 6  # characters
_CHARACTERS = 4000  # of a request
_WORD = re.compile(r"[^\W\d_]{3,}")


class Lexicon(NamedTuple):
    """Parameters of a linear model over the stems of a text."""

    bias: float
    stems: dict[str, float]


def stems_of(words: Iterable[str], stop: frozenset[str]) -> set[str]:
    """Return the stems of words of three letters or more that are not stop words.

    >>> sorted(stems_of(["the", "dragons", "of", "dragon", "moat"], frozenset({"the"})))
    ['dragon', 'moat']
    """
    return {word[:_STEM] for word in words if len(word) > 2 and word not in stop}


@lru_cache(maxsize=256)
def request_stems(request: str, stop: frozenset[str]) -> frozenset[str]:
    """Return the stems of a request's words.

    >>> sorted(request_stems("What is 2 + 2, in Roman numerals?", frozenset({"what"})))
    ['numera', 'roman']
    """
    return frozenset(stems_of(_WORD.findall(request[:_CHARACTERS].lower()), stop))


def evidence(stems: Iterable[str], lexicon: Lexicon, few: int) -> float:
    """Return the log odds that a text with these stems is harmful.

    >>> lexicon = Lexicon(0.5, {"bake": -2.0, "poison": 3.0})
    >>> evidence({"bake", "bread"}, lexicon, 4), evidence({"dragon"}, lexicon, 4)
    (-0.5, 0.5)
    """
    known = [lexicon.stems[stem] for stem in stems if stem in lexicon.stems]
    return lexicon.bias + sum(known) / sqrt(max(few, len(known)))
