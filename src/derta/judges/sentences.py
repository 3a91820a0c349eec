r"""Sentences of a worked answer with their numbers, without LaTeX and without text in brackets."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from derta.judges.asked import Asked, stem, stems
from derta.judges.number_words import find_named_numbers
from derta.judges.numbers import Number, find_numbers, plain_text

_BRACKET = re.compile(r"[()\n]")
_RESULT_IN_BRACKETS = re.compile(r"((?:\b(?:is|are|be|equals)|[=:])[ \t]?)\(([-−]?[$€£]?[\d.,/]{1,40}%?)\)", re.I)
_TOTAL_IN_BRACKETS = re.compile(
    r"(?<=[.!?] )\(((?:(?:or|so|that is|that's|thus),? )?(?:in total|a total of|total:)[^()\n]{0,200})\)", re.I
)
_WHY = re.compile(r"(?:^|(?<=[\n.!*]))\s{0,4}\W{0,4}\b(?:why|how)\?\W{0,4}", re.I)
_MINUS = re.compile(r"(?:\b(?:is|was|be|to|of|at|now) |^|[=:] ?)(?:minus|negative) $", re.I)
_ANSWER_LINE = re.compile(r"^[^\w\n]{0,8}(?:final )?answer[^\w\n]{0,6}\n[ \t\n]{0,8}", re.I | re.M)
_OPEN_LINE = re.compile(r":[ \t*]{0,8}\n[ \t\n]{0,8}")
_BREAK = re.compile(r"([.!?])[*\"'”]{0,3}(?=\s|$)|\n")
_MARKER = re.compile(r"^[ \t>*-]{0,8}\d{1,2}[.)][ \t]{1,4}(?=[A-Za-z*$\\])", re.M)
_FIRST_MARKER = re.compile(r"^[ \t>*-]{0,8}1[.)][ \t]", re.M)
_STEP = re.compile(r"\b(?:step|equation|part|case|method|option) \d{1,2}\b", re.I)
_COMPOUND = re.compile(
    r"(?<![\d.,])(\d{1,9}) (year|week|day|hour|minute|dollar|foot|feet|pound)s?,? and "
    r"(\d{1,9}) (month|day|hour|minute|second|cent|inche|inch|ounce)s?\b",
    re.I,
)
_PARTS = {
    ("year", "month"): 12, ("week", "day"): 7, ("day", "hour"): 24, ("hour", "minute"): 60, ("minute", "second"): 60,
    ("dollar", "cent"): 100, ("foot", "inch"): 12, ("feet", "inch"): 12, ("foot", "inche"): 12, ("feet", "inche"): 12,
    ("pound", "ounce"): 16,
}  # fmt: skip
_NEGATED = re.compile(r"(?:\bnot\b|n't\b)[^,;]{0,40}$", re.I)
_PERCENT = re.compile(r"^ ?%|^ per cent\b")
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
    [('They eat 2', ['2']), ('So he needs two trips', ['2'])]
    """
    plain = _TOTAL_IN_BRACKETS.sub(r"\1", _RESULT_IN_BRACKETS.sub(r"\1\2", plain_text(text)))
    plain = _without_brackets(plain)
    plain = _STEP.sub(" ", _MARKER.sub("", plain) if _FIRST_MARKER.search(plain) else plain)
    parts = _split(_OPEN_LINE.sub(": ", _ANSWER_LINE.sub("Answer: ", _WHY.sub("\n Explanation: ", plain))))
    in_digits = [find_numbers(part) for part, _ in parts]
    in_words = not any(in_digits)
    found = [
        (Sentence(part, _numbers(part, numbers, asked, in_words)), end)
        for (part, end), numbers in zip(parts, in_digits, strict=True)
        if part.strip()
    ]
    found = [(sentence, end) for sentence, end in found if sentence.numbers]
    return [sentence for sentence, end in found if end != "?"] or [sentence for sentence, _ in found]


def _split(text: str) -> list[tuple[str, str]]:
    """Return the sentences of a text with their punctuation; the last one is left out if it is the start of another."""
    parts: list[tuple[str, str]] = []
    start = 0
    for match in _BREAK.finditer(text):
        parts.append((text[start : match.start()], match[1] or ""))
        start = match.end()
    rest = text[start:]
    truncated = bool(rest.strip()) and any(one.strip().startswith(rest.strip()) for one, _ in parts)
    return parts if truncated else [*parts, (rest, "")]


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
    after = _PERCENT.sub(" percent ", sentence.text[number.end : min(end, number.end + _UNIT_WINDOW)])
    words = stems(_ENDS.split(after)[0])[:5]
    if "per" in words and "per" not in asked.nouns:
        words = words[: words.index("per")] or ["per"]
    currency = any(sign in sentence.text[number.start : number.end] for sign in "$€£")
    if asked.money:
        return int(currency or bool({"dollar", "cent"} & set(words[:1]))), False
    words = [word for word in words if word not in _SKIPPED]
    return len(asked.nouns & set(words)), not currency and (not words or words[0] in _BARE)


def _numbers(text: str, numbers: list[Number], asked: Asked, in_words: bool) -> list[Number]:
    """Return the numbers of a sentence: those in digits, with two units as one, and else in words.

    With `in_words`, all numbers in words count, because the text has none in digits.
    """
    compounds = [match for match in _COMPOUND.finditer(text) if _units(match) in _PARTS]
    if compounds:
        firsts = {match.start(): _compound(match, asked) for match in compounds}
        seconds = {match.start(3) for match in compounds}
        numbers = [firsts.get(one.start, one) for one in numbers if one.start not in seconds]
    if any(unit_of(Sentence(text, numbers), index, asked)[0] for index in range(len(numbers))):
        return numbers
    return sorted([*numbers, *_named_numbers(text, asked, in_words)], key=lambda number: number.start)


def _units(match: re.Match[str]) -> tuple[str, str]:
    """Return the two units of "2 hours and 30 minutes"."""
    return match[2].lower(), match[4].lower()


def _compound(match: re.Match[str], asked: Asked) -> Number:
    """Return the value of "2 hours and 30 minutes" in the asked unit, by default the first."""
    parts = _PARTS[_units(match)]
    value = Fraction(int(match[1])) + Fraction(int(match[3]), parts)
    in_small = stem(match[4]) in asked.nouns and stem(match[2]) not in asked.nouns
    return Number(value * parts if in_small else value, match.start(), match.end(1))


def _named_numbers(text: str, asked: Asked, in_words: bool) -> list[Number]:
    """Return the numbers in words that are directly before an asked noun; "not … any" is 0.

    With `in_words` also the others, except for "no", "any", a lone "one" and ordinals.
    """
    found: list[Number] = []
    if not in_words and not asked.nouns.intersection(stems(text)):
        return found
    for one in find_named_numbers(text):
        if one.word == "any" and not _NEGATED.search(text[max(0, one.start - 60) : one.start]):
            continue
        following = stems(text[one.end : one.end + 40])[: 1 if one.ordinal else 2]
        wanted = asked.nouns & set(following) and (asked.named or not one.ordinal)
        if wanted or (in_words and not one.ordinal and one.word not in ("no", "any", "one")):
            negative = _MINUS.search(text[max(0, one.start - 16) : one.start])
            found.append(Number(-one.value if negative else one.value, one.start, one.end))
    return found
