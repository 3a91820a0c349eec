"""Parsing of the question of a word problem: which noun it counts, and whether it asks for money."""

from __future__ import annotations

import re
from typing import NamedTuple

_ASKED = re.compile(
    r"\b(?:how (?:many|much|old|long|far|fast|tall|high|heavy|deep|wide|big|large|often)"
    r"|what|which|calculate|find|determine)\b",
    re.I,
)
_UNIT = re.compile(
    r"\bin (seconds|minutes|hours|days|weeks|months|years|cents|dollars|inches|feet|yards|miles|grams|pounds|ounces)\b",
    re.I,
)
_MONEY = re.compile(
    r"[$€£]|\b(?:dollars?|money|costs?|prices?|profits?|pay|paid|spend|spent|earn|salary|revenue)\b", re.I
)
COMPARATIVES = (
    "more", "fewer", "less", "greater", "larger", "smaller", "higher", "lower", "older", "younger", "taller", "shorter",
    "longer", "heavier", "lighter", "faster", "slower", "farther", "further", "bigger", "cheaper",
)  # fmt: skip
_COMPARED = re.compile(rf"\b(?:(?:{'|'.join(COMPARATIVES)})\b|difference\b)", re.I)
_MORE = re.compile(r"\bhow (?:many|much) more\b", re.I)
_NAME = re.compile(r"\b[A-Z][a-z]{1,20}\b")
_WORD = re.compile(r"[a-z]{1,40}", re.I)
_ENDS = frozenset(
    [
        "does",
        "do",
        "did",
        "is",
        "are",
        "was",
        "were",
        "will",
        "would",
        "can",
        "could",
        "should",
        "has",
        "have",
        "had",
        "must",
        "may",
        "might",
        "if",
        "in",
        "for",
        "at",
        "on",
        "by",
        "to",
        "after",
        "before",
        "from",
        "with",
        "when",
        "there",
        "that",
        "who",
    ]
)
_QUANTIFIERS = frozenset(
    [
        "more",
        "total",
        "additional",
        "fewer",
        "less",
        "other",
        "of",
        "the",
        "a",
        "an",
        "extra",
        "new",
        "number",
        "amount",
        "many",
    ]
)
_WINDOW = 80  # characters after "how many" that hold its noun


class Asked(NamedTuple):
    """Result of `parse_asked`.

    `nouns` are the stems of what is counted, and `words` those of the whole sentence. `money`: the result is an amount
    of money. `named`: the result may be an ordinal ("which place"). `more`: it asks how many more.
    `compared`: it asks for a difference ("how much longer"). `names` are the stems of names after the question word.
    """

    nouns: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()
    money: bool = False
    named: bool = False
    more: bool = False
    compared: bool = False
    names: frozenset[str] = frozenset()


def stem(word: str) -> str:
    """Return a word in lower case without the ending of a plural.

    >>> stem("Chickens"), stem("glass"), stem("bus")
    ('chicken', 'glass', 'bus')
    """
    word = word.lower()
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def stems(text: str) -> list[str]:
    """Return the stems of the words of a text, in order."""
    return [stem(word) for word in _WORD.findall(text)]


def parse_asked(question: str) -> Asked:
    """Return what the last "how many", "how much", "what" or "which" of a question asks for.

    >>> asked = parse_asked("Jo has 42 eggs. How many more red chickens does Jo have?")
    >>> sorted(asked.nouns), asked.money, "egg" in asked.words
    (['chicken', 'red'], False, False)
    """
    matches = list(_ASKED.finditer(question))
    if not matches:
        return Asked()
    last, verb = matches[-1], matches[-1][0].lower()
    sentence = question[max(question.rfind(". ", 0, last.start()) + 1, 0) :]
    nouns: list[str] = []
    for word in _WORD.findall(question[last.end() : last.end() + _WINDOW]):
        if word.lower() in _ENDS:
            break
        nouns.append(stem(word))
    if {"percent", "percentage"}.intersection(nouns[:5]):
        nouns = ["percent"]
    units = [stem(unit) for unit in _UNIT.findall(sentence)]
    first = next((noun for noun in nouns if noun not in _QUANTIFIERS), "")
    return Asked(
        nouns=frozenset(units or nouns[:5]) - _QUANTIFIERS,
        words=frozenset(stems(sentence)),
        money="dollar" in (first, *units) or (verb != "how many" and _MONEY.search(sentence) is not None),
        named=verb in ("what", "which"),
        more=_MORE.search(sentence) is not None,
        names=frozenset(map(stem, _NAME.findall(question[last.end() : last.end() + _WINDOW]))),
        compared=_COMPARED.search(re.split(r"\bif\b|\bthan\b", question[last.start() : last.end() + _WINDOW])[0])
        is not None,
    )


def restated(text: str, asked: Asked) -> int:
    """Return how many words of the question a text has."""
    return len(asked.words.intersection(stems(text)))
