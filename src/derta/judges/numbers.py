r"""Parsing of numbers in digits: thousands separators, fractions, decimals, signs, scales and LaTeX."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NUMBER = re.compile(
    r"(?:(?<![\w)\]}.])(?P<sign>[-−])(?!\s))?(?:[$€£][ ]?(?P<minus>[-−])?)?"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)|\d{1,2}(?:,\d{2}){1,6},\d{3}(?!\d)|\d{1,40}|(?<![\w.])(?=\.\d))"
    r"(?P<decimals>\.\d{1,40})?"
    r"(?:[ ](?:and )?(?P<above>\d{1,40})(?=/\d))?(?:/(?P<below>\d{1,40}))?(?P<part> and a (?:half|quarter)\b)?"
    rf"(?:[ ](?P<scale>{'|'.join(_SCALES)})\b)?",
    re.ASCII | re.IGNORECASE,
)
_VULGAR = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5",
    "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8",
}  # fmt: skip
_SPACED = re.compile(
    r"(?<![\d.,])\d{1,3}(?: \d{3}){0,4} 000(?!\d)|(?<![\d.,])\d{1,3}(?:[\xa0\u2009\u202f]\d{3}){1,5}(?!\d)"
)
_FRACTION = re.compile(rf"[ ]?([{''.join(_VULGAR)}])")
_PLAIN = (
    (re.compile(r"(\b(?:is|was|be|to|of|at|now|equals) |[=:] ?)(?:minus|negative) (?=[$€£]?\d)", re.I), r"\1-"),
    (re.compile(r"\b(\d{1,2}):00(?!\d)"), r"\1"),
    (re.compile(r"\*{2,3}(?!\d)|(?<!\d)\*{2,3}"), ""),
)
_HAS_LATEX = re.compile(r"[\\≈${]")
_LATEX = (
    (re.compile(r"\\!"), ""),
    (re.compile(r"(?<![\\$\d])\$(?![\s$])([^$\n]{1,200})(?<![\\\s])\$(?![\d$])"), r"\1"),
    (re.compile(r"\$\$|\^\{?\\circ\}?|\\(?:left|right)\b"), " "),
    (re.compile(r"\\[dt]?frac ?(\d)(\d)"), r"\1/\2"),
    (re.compile(r"\\[dt]?frac\{(\d{1,40})\}\{(\d{1,40})\}"), r"\1/\2"),
    (re.compile(r"(?<=\d)\{,\}(?=\d)|(?<=\d)\\,(?=\d{3}(?!\d))"), ","),
    (re.compile(r"\\(?:text|textbf|mathrm|mathbf|boldsymbol)\{([^{}\\]{0,80})\}"), r"\1"),
    (re.compile(r"\\approx\b|≈"), "="),
    (re.compile(r"\\[([\])]"), " "),
    (re.compile(r"\\(?=[$%])"), ""),
)


class Number(NamedTuple):
    """Number in a text: its value, and its start and end with sign and currency."""

    value: Fraction
    start: int
    end: int


def without_latex(text: str) -> str:
    r"""Return a text with the LaTeX of numbers in plain text.

    >>> without_latex(r"It is \(\frac{3}{4}\), or \$1{,}200 \text{a year}.").split()
    ['It', 'is', '3/4', ',', 'or', '$1,200', 'a', 'year.']
    """
    if _HAS_LATEX.search(text):
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
    return text


def plain_text(text: str) -> str:
    r"""Return a text without LaTeX, in which every number has a form that `find_numbers` reads.

    >>> plain_text(r"It is $13\,000$, 4 000, 2½, now minus 6, at 11:00.")
    'It is 13,000, 4000, 2 1/2, now -6, at 11.'
    """
    text = _SPACED.sub(lambda match: "".join(match[0].split()), without_latex(text))
    text = _FRACTION.sub(lambda match: f" {_VULGAR[match[1]]}", text)
    for pattern, replacement in _PLAIN:
        text = pattern.sub(replacement, text)
    return text


def find_numbers(text: str) -> list[Number]:
    """Return all numbers of a text with their places, in order."""
    return [Number(_value(match), match.start(), match.end()) for match in _NUMBER.finditer(text)]


def parse_numbers(text: str) -> list[Fraction]:
    """Return all numbers of a text, in order; a minus sign is directly before its number, and a dash is none.

    >>> [str(number) for number in parse_numbers("-$1,200.50, 3/4 cup, 2 1/2 miles; 10 - 4, x-4, 2 million")]
    ['-2401/2', '3/4', '5/2', '10', '4', '4', '2000000']
    """
    return [number.value for number in find_numbers(text)]


def _value(match: re.Match[str]) -> Fraction:
    """Return the value of a match."""
    if match[0].isdecimal():
        return Fraction(int(match[0]))
    value = Fraction((match["digits"].replace(",", "") or "0") + (match["decimals"] or ""))
    below = int(match["below"] or 1) or 1
    if below > 1 or match["above"]:
        value = value + Fraction(int(match["above"]), below) if match["above"] else value / below
    if match["part"]:
        value += Fraction(1, 2 if match["part"].endswith("half") else 4)
    if match["scale"]:
        value *= _SCALES[match["scale"].lower()]
    return -value if match["sign"] or match["minus"] else value
