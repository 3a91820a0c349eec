r"""Numbers that a reply marks as its answer: `#### 12`, `\boxed{12}`, `"answer": 12`, `<answer>12</answer>`."""

from __future__ import annotations

import re
from fractions import Fraction

from derta.judges.numbers import parse_numbers, plain_text

_MARK = re.compile(
    r"(?P<hashes>####)[ \t:*]{0,8}(?:(?:the )?(?:final )?answer[ \t]{0,4}(?:is|:)?)?(?P<line>[^\n]{0,100}(?:\n|\Z))"
    r"|(?P<boxed>\\f?boxed\s?\{)"
    r"|(?P<field>[\"'](?:final[_ ])?(?:answer|result)[\"']\s{0,4}:|<(?:final_)?answer>)",
    re.I,
)
_LEADING = re.compile(r"[\s*_(:=\\]{0,8}(?:[$€£]|US\$)?\s?[-−]?[$€£]?\d")
_HEADING = re.compile(r"[\s*_]{0,8}\d{1,2}[.)][*_]{0,2}\s{1,4}[A-Z*]")
_WINDOW = 100


def stated_number(text: str) -> Fraction | None:
    r"""Return the number of the last mark of an answer, or None if no mark has a number.

    A heading such as `#### Step 2` or `#### 1. Count` is no answer. After the last equals sign in a box is its result.

    >>> [stated_number(text) for text in ("#### 1,200 apples", r"\boxed{x = 12}", "#### Step 2", '{"answer": "7"}')]
    [Fraction(1200, 1), Fraction(12, 1), None, Fraction(7, 1)]
    """
    for match in reversed(list(_MARK.finditer(text))):
        if match["hashes"]:
            line = plain_text(match["line"])
            numbers = parse_numbers(line) if _LEADING.match(line) and not _HEADING.match(line) else []
        elif match["boxed"]:
            box = plain_text(_in_braces(text, match.end()))
            numbers = parse_numbers(box.rsplit("=", 1)[-1]) or parse_numbers(box)
        else:
            numbers = parse_numbers(plain_text(re.split(r"[,}<\n]\s|</", text[match.end() : match.end() + _WINDOW])[0]))
        if numbers:
            return numbers[0]
    return None


def _in_braces(text: str, start: int) -> str:
    """Return the text from `start` up to the brace that closes the one before it, or a bounded part without one."""
    depth = 1
    for end in range(start, min(len(text), start + 2 * _WINDOW)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if not depth:
            return text[start:end]
    return text[start : start + _WINDOW]
