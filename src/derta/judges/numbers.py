"""The number that a worked answer ends on: units, thousands separators, fractions, decimals, signs."""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = re.compile(
    r"(?P<sign>(?<![\w)])[-−])?[ ]?[$€£]?[ ]?(?P<minus>[-−])?"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)|\d{1,40})(?P<decimals>\.\d{1,40})?"
    r"(?:[ ](?P<above>\d{1,40})(?=/\d))?(?:/(?P<below>\d{1,40}))?",
    re.ASCII,
)
_STATED = re.compile(r"####|\\boxed\{")
_ASIDE = re.compile(r"\([^()\n]{0,400}\)")
_OPEN_LINE = re.compile(r":[ \t]{0,8}\n[ \t\n]{0,8}")
_BREAK = re.compile(r"[.!?](?=\s)|\n")
_CONCLUDES = re.compile(r"\b(?:therefore|thus|hence|so|in total|in all|altogether|answer|conclusion|total of)\b", re.I)


def parse_numbers(text: str) -> list[Fraction]:
    """All numbers of a text, in order.

    >>> [str(number) for number in parse_numbers("-$1,200.50, 3/4 cup, 2 1/2 miles; 10 - 4")]
    ['-2401/2', '3/4', '5/2', '10', '-4']
    """
    return [_value(match) for match in _NUMBER.finditer(text)]


def _value(match: re.Match[str]) -> Fraction:
    value = Fraction(match["digits"].replace(",", "") + (match["decimals"] or ""))
    below = int(match["below"] or 1) or 1
    value = value + Fraction(int(match["above"]), below) if match["above"] else value / below
    return -value if match["sign"] or match["minus"] else value


def final_number(text: str, *, question: str = "") -> Fraction | None:
    r"""The number that a worked answer gives as its result; None where it has none.

    A stated answer (`#### 350`, `\boxed{350}`) counts first. Else remarks in parentheses are left out, and the result's
    sentence is the last one with a number if it computes (`=`) or brings a number that stands nowhere before, and
    otherwise the last one with a word of conclusion. In it the number after the last `=` counts, else the first that
    the question does not hold (`she needs 10 spoons for 80 meatballs` answers 10), else the first.

    >>> final_number("Each gets 4 + 3 = 7. So the 2 of them need $1,400 in all (2 x 700).", question="The 2 of them")
    Fraction(1400, 1)
    """
    if stated := list(_STATED.finditer(text)):
        numbers = parse_numbers(text[stated[-1].end() : stated[-1].end() + 100])
        if numbers:
            return numbers[0]
    sentences = _BREAK.split(_OPEN_LINE.sub(": ", _ASIDE.sub(" ", text)))
    told = [(sentence, numbers) for sentence in sentences if (numbers := parse_numbers(sentence))]
    if not told:
        return None
    asked = set(parse_numbers(question))
    sentence, numbers = _result(told, asked)
    if "=" in sentence and (after := parse_numbers(sentence[sentence.rfind("=") + 1 :])):
        return after[0]
    return next((number for number in numbers if number not in asked), numbers[0])


def _result(told: list[tuple[str, list[Fraction]]], asked: set[Fraction]) -> tuple[str, list[Fraction]]:
    """The sentence that holds the result, with its numbers."""
    last = told[-1]
    known = asked.union(*(numbers for _, numbers in told[:-1]))
    if "=" in last[0] or not known.issuperset(last[1]):
        return last
    return next((one for one in reversed(told) if _CONCLUDES.search(one[0])), last)
