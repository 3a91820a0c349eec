"""Parsing of the final number of a worked answer, with units, thousands separators, fractions, decimals and signs."""

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
    """Return all numbers of a text, in order.

    >>> [str(number) for number in parse_numbers("-$1,200.50, 3/4 cup, 2 1/2 miles; 10 - 4")]
    ['-2401/2', '3/4', '5/2', '10', '-4']
    """
    return [_value(match) for match in _NUMBER.finditer(text)]


def _value(match: re.Match[str]) -> Fraction:
    """Return the value of a match."""
    value = Fraction(match["digits"].replace(",", "") + (match["decimals"] or ""))
    below = int(match["below"] or 1) or 1
    value = value + Fraction(int(match["above"]), below) if match["above"] else value / below
    return -value if match["sign"] or match["minus"] else value


def final_number(text: str, *, question: str = "") -> Fraction | None:
    r"""Return the number that is the result of a worked answer, or None without a number.

    A stated answer (`#### 350`, `\boxed{350}`) has priority. Otherwise, text in parentheses is ignored. The sentence of
    the result is the last one with a number if it has an equation (`=`) or a new number, and otherwise the last one
    with a concluding word. Of its numbers the one after the last `=` is returned, else the first that is not in the
    question (`she needs 10 spoons for 80 meatballs` returns 10), else the first.

    >>> final_number("Each gets 4 + 3 = 7. So the 2 of them need $1,400 in all (2 x 700).", question="The 2 of them")
    Fraction(1400, 1)
    """
    if stated := list(_STATED.finditer(text)):
        numbers = parse_numbers(text[stated[-1].end() : stated[-1].end() + 100])
        if numbers:
            return numbers[0]
    sentences = _BREAK.split(_OPEN_LINE.sub(": ", _ASIDE.sub(" ", text)))
    candidates = [(sentence, numbers) for sentence in sentences if (numbers := parse_numbers(sentence))]
    if not candidates:
        return None
    in_question = set(parse_numbers(question))
    sentence, numbers = _result(candidates, in_question)
    if "=" in sentence and (after := parse_numbers(sentence[sentence.rfind("=") + 1 :])):
        return after[0]
    return next((number for number in numbers if number not in in_question), numbers[0])


def _result(candidates: list[tuple[str, list[Fraction]]], in_question: set[Fraction]) -> tuple[str, list[Fraction]]:
    """Return the sentence with the result, and its numbers."""
    last = candidates[-1]
    earlier = in_question.union(*(numbers for _, numbers in candidates[:-1]))
    if "=" in last[0] or not earlier.issuperset(last[1]):
        return last
    return next((one for one in reversed(candidates) if _CONCLUDES.search(one[0])), last)
