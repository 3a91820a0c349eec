"""Parsing of numbers in English words: "twenty-two", "one hundred and forty", "two and a half", "three eighths"."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

_UNITS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = [
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_ORDINALS = [
    "zeroth", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    "eleventh", "twelfth",
]  # fmt: skip
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "twelfth": 12,
}  # fmt: skip
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6}
_VALUES = (
    {word: i for i, word in enumerate([*_UNITS, *_TEENS], start=1)}
    | {word: 10 * i for i, word in enumerate(_TENS, start=2)}
    | {"a": 1, "zero": 0, "no": 0, "any": 0}
)

_SMALL = rf"(?:(?:{'|'.join(_TENS)})(?:[- ](?:{'|'.join(_UNITS)}))?\b|(?:{'|'.join([*_UNITS, *_TEENS])})\b)"
_HUNDREDS = rf"(?:(?:a|{_SMALL}) hundred\b(?:(?: and)? {_SMALL})?|a(?= (?:thousand|million))|{_SMALL})"
_CARDINAL = re.compile(
    rf"\b(?:{_HUNDREDS}(?: (?:thousand|million)\b(?:(?:,| and)? {_HUNDREDS})?)?|zero|no|any)\b"
    rf"(?P<and> and a (?:half|quarter)\b)?(?:[- ](?P<part>(?:{'|'.join(_PARTS)})s?)\b)?",
    re.I,
)
_ORDINAL = re.compile(rf"\b(?:{'|'.join(_ORDINALS)})\b", re.I)


class NamedNumber(NamedTuple):
    """Number in words with its place; `ordinal` for "third"."""

    value: Fraction
    start: int
    end: int
    word: str
    ordinal: bool = False


def find_named_numbers(text: str) -> list[NamedNumber]:
    """Return the cardinal and ordinal numbers in words of a text, in order; "no" and "any" are 0.

    >>> text = "twenty-two, a hundred and five, two and a half, three eighths, sixty thousand and third"
    >>> [str(number.value) for number in find_named_numbers(text)]
    ['22', '105', '5/2', '3/8', '60000', '3']
    """
    cardinals = [
        NamedNumber(_value(match), match.start(), match.end(), match[0].lower()) for match in _CARDINAL.finditer(text)
    ]
    ends = [(one.start, one.end) for one in cardinals]
    ordinals = [
        NamedNumber(Fraction(_ORDINALS.index(match[0].lower())), match.start(), match.end(), match[0].lower(), True)
        for match in _ORDINAL.finditer(text)
        if not any(start <= match.start() < end for start, end in ends)
    ]
    return sorted([*cardinals, *ordinals], key=lambda number: number.start)


def _value(match: re.Match[str]) -> Fraction:
    """Return the value of a cardinal number with its fraction."""
    main = match[0][: match.start("and") - match.start() if match["and"] else len(match[0])]
    if match["part"]:
        main = main[: match.start("part") - match.start() - 1]
    total = group = 0
    for word in re.findall(r"[a-z]+", main.lower()):
        if word == "hundred":
            group *= 100
        elif word in _SCALES:
            total, group = total + group * _SCALES[word], 0
        elif word != "and":
            group += _VALUES[word]
    value = Fraction(total + group)
    if match["and"]:
        value += Fraction(1, _PARTS[match["and"].rsplit(" ", 1)[1].lower()])
    return value / _PARTS[_singular(match["part"].lower())] if match["part"] else value


def _singular(part: str) -> str:
    """Return the name of a part without the ending of a plural."""
    return part if part in _PARTS else part[:-1]
