r"""Sentences of a worked answer with their numbers, without LaTeX and without text in brackets."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from derta.judges.asked import Asked, stem, stems
from derta.judges.numbers import Number, find_numbers, without_latex

_BRACKET = re.compile(r"[()\n]")
_RESULT_IN_BRACKETS = re.compile(r"((?:\b(?:is|are|be|equals)|[=:])[ \t]?)\(([-−]?[$€£]?[\d.,/]{1,40}%?)\)", re.I)
_OPEN_LINE = re.compile(r":[ \t*]{0,8}\n[ \t\n]{0,8}")
_BREAK = re.compile(r"[.!?][*\"']{0,3}(?=\s)|\n")
_COMPOUND = re.compile(
    r"(?<![\d.,])(\d{1,9}) (hour|minute|dollar|foot|feet|pound)s?,? and "
    r"(\d{1,9}) (minute|second|cent|inche|inch|ounce)s?\b",
    re.I,
)
_PARTS = {"hour": 60, "minute": 60, "dollar": 100, "foot": 12, "feet": 12, "pound": 16}
_CARDINALS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_ORDINALS = [
    "zeroth",
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
]
_VALUES = {word: i for words in (_CARDINALS, _ORDINALS) for i, word in enumerate(words)} | {"zero": 0, "any": 0}
_NAME = re.compile(rf"\b(?:{'|'.join(_VALUES)})\b(?= )", re.I)
_NEGATED = re.compile(r"(?:\bnot\b|n't\b)[^,;]{0,40}$", re.I)
_ENDS = re.compile(r"[,;:=+*/×÷]|\b(?:and|or)\b", re.I)
_BARE = frozenset(
    [
        "left",
        "remaining",
        "out",
        "in",
        "on",
        "at",
        "to",
        "for",
        "after",
        "per",
        "each",
        "altogether",
        "over",
        "if",
        "when",
        "than",
        "from",
        "with",
        "by",
        "a",
        "an",
        "of",
    ]
)
_SKIPPED = frozenset(["more", "fewer", "less", "additional", "extra", "total", "other"])
_UNIT_WINDOW = 80


class Sentence(NamedTuple):
    """Sentence with its numbers, in order."""

    text: str
    numbers: list[Number]

    @property
    def values(self) -> list[Fraction]:
        """Return the values of the numbers."""
        return [number.value for number in self.numbers]


def split_sentences(text: str, asked: Asked) -> list[Sentence]:
    r"""Return the sentences with a number of a text, without the text in brackets; LaTeX's `\(` is no bracket.

    Numbers in words count before the noun that the question asks for, if no number in digits is before that noun:

    >>> sentences = split_sentences("They eat 2 (of 9).\nSo he needs two trips.", Asked(frozenset({"trip"})))
    >>> [(sentence.text.strip(), [str(value) for value in sentence.values]) for sentence in sentences]
    [('They eat 2', ['2']), ('So he needs two trips.', ['2'])]
    """
    plain = _OPEN_LINE.sub(": ", _without_brackets(_RESULT_IN_BRACKETS.sub(r"\1\2", without_latex(text))))
    return [Sentence(one, numbers) for one in _BREAK.split(plain) if (numbers := _numbers(one, asked))]


def _without_brackets(text: str) -> str:
    """Return a text without the text in round brackets, also nested ones; brackets do not extend over lines."""
    parts: list[str] = []
    opened: list[int] = []  # lengths of `parts` at the open brackets
    end = 0
    for match in _BRACKET.finditer(text):
        parts.append(text[end : match.start()])
        end = match.end()
        if match[0] == ")" and opened:
            del parts[opened.pop() :]
            parts.append(" ")
            continue
        if match[0] == "(":
            opened.append(len(parts))
        elif match[0] == "\n":
            opened.clear()
        parts.append(match[0])
    return "".join([*parts, text[end:]])


def unit_of(sentence: Sentence, index: int, asked: Asked) -> tuple[int, bool]:
    """Return how many of the asked nouns follow a number, and whether it has no unit.

    >>> sentence = Sentence(text := "Jo has 4 red and 6 white hens", find_numbers(text))
    >>> [unit_of(sentence, i, Asked(frozenset({"red", "hen"}))) for i in (0, 1)]
    [(1, False), (1, False)]
    """
    number = sentence.numbers[index]
    starts = [*(one.start for one in sentence.numbers[index + 1 : index + 3]), len(sentence.text)]
    end = starts[1] if starts[0] - number.end == 1 and starts[1:] else starts[0]  # in "3 30-minute films": films
    words = stems(_ENDS.split(sentence.text[number.end : min(end, number.end + _UNIT_WINDOW)])[0])[:5]
    currency = any(sign in sentence.text[number.start : number.end] for sign in "$€£")
    if asked.money:
        return int(currency or bool({"dollar", "cent"} & set(words[:1]))), False
    words = [word for word in words if word not in _SKIPPED]
    return len(asked.nouns & set(words)), not currency and (not words or words[0] in _BARE)


def _numbers(text: str, asked: Asked) -> list[Number]:
    """Return the numbers of a sentence: in digits, with two units as one, and else in words."""
    numbers = find_numbers(text)
    compounds = {match.start(): _compound(match, asked) for match in _COMPOUND.finditer(text)}
    if compounds:
        second = {match.start(3) for match in _COMPOUND.finditer(text)}
        numbers = [compounds.get(one.start, one) for one in numbers if one.start not in second]
    if any(unit_of(Sentence(text, numbers), index, asked)[0] for index in range(len(numbers))):
        return numbers
    return sorted([*numbers, *_named_numbers(text, asked)], key=lambda number: number.start)


def _compound(match: re.Match[str], asked: Asked) -> Number:
    """Return the value of "2 hours and 30 minutes" in the asked unit, by default the first."""
    parts = _PARTS[match[2].lower()]
    value = Fraction(int(match[1])) + Fraction(int(match[3]), parts)
    in_small = stem(match[4]) in asked.nouns and stem(match[2]) not in asked.nouns
    return Number(value * parts if in_small else value, match.start(), match.end(1))


def _named_numbers(text: str, asked: Asked) -> list[Number]:
    """Return the numbers in words that are directly before an asked noun; "not … any" is 0."""
    found: list[Number] = []
    for match in _NAME.finditer(text):
        word = match[0].lower()
        if word == "any" and not _NEGATED.search(text[max(0, match.start() - 60) : match.start()]):
            continue
        ordinal = word in _ORDINALS
        following = stems(text[match.end() : match.end() + 40])[: 1 if ordinal else 2]
        if asked.nouns & set(following) and (asked.named or not ordinal):
            found.append(Number(Fraction(_VALUES[word]), match.start(), match.end()))
    return found
