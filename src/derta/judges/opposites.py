"""Results in the direction that is opposite to the question: a loss where a profit is asked, "less" where "more" is."""

from __future__ import annotations

import re

from derta.judges.asked import Asked
from derta.judges.numbers import Number

_UP_TO = 60  # characters before and after a number
_AFTER_LESS = re.compile(r" (?:[a-z]{1,20} )?(?:less|fewer)\b(?![^\n]{0,200}\bthan\b)", re.I)
_BELOW_ZERO = re.compile(r"(?:°| degrees?)?[ a-z]{0,14} below zero\b", re.I)
_LOSS = re.compile(r"\b(?:loss of|loses|lost|lose) (?:about |a total of )?$", re.I)
_SHORT_BEFORE = re.compile(r"\b(?:overspent(?: by)?|short by|in debt by|in debt of|a deficit of) $", re.I)
_SHORT_AFTER = re.compile(r" (?:[a-z]{1,12} )?(?:short\b|too little\b|in debt\b)", re.I)


def is_opposite(text: str, number: Number, asked: Asked) -> bool:
    """Return whether a positive number in a sentence is negative in the direction of the question.

    >>> from fractions import Fraction
    >>> from derta.judges.asked import parse_asked
    >>> text = "So she makes a loss of $20."
    >>> is_opposite(text, Number(Fraction(20), 23, 26), parse_asked("How much profit does she make?"))
    True
    >>> is_opposite(text, Number(Fraction(20), 23, 26), parse_asked("How much does she lose?"))
    False
    """
    before = text[max(0, number.start - _UP_TO) : number.start]
    if asked.more and _AFTER_LESS.match(text, number.end):
        return True
    if asked.words & {"profit", "gain", "earn", "make"} and not asked.words & {"lose", "loss", "lost"}:
        return _LOSS.search(before) is not None
    if asked.words & {"left", "remain", "remaining", "change"}:
        return bool(_SHORT_BEFORE.search(before) or _SHORT_AFTER.match(text, number.end))
    return _BELOW_ZERO.match(text, number.end) is not None
