r"""Final number of a worked answer: the result that its closing sentence states."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from derta.judges.asked import Asked, parse_asked, stems
from derta.judges.numbers import Number, parse_numbers, without_latex
from derta.judges.sentences import Sentence, split_sentences, unit_of

_STATED = re.compile(r"####|\\boxed\{")
_CONCLUDES = re.compile(r"\b(?:therefore|thus|hence|so|in total|in all|altogether|answer|conclusion|total of)\b", re.I)
_REMARK = re.compile(
    r"[\s*(]{0,8}(?:please )?(?:note|keep in mind|remember|alternatively|assuming|this assumes|or)\b", re.I
)
_PREMISE = re.compile(
    r"[\s*-]{0,8}(?:(?:and|but|so|then|however|now),? )?(?:since|if|because|as|when|given)\s[^,]{0,300},", re.I
)
_CLAUSE = re.compile(r"[,;] and\b|;|, (?:but|so|which means|which rounds)\b", re.I)
_UNIT = re.compile(r"-[a-z]", re.I)
_BASE = re.compile(r"\bout of (?:[a-z]{1,8} )?$", re.I)
_LESS = re.compile(r" (?:[a-z]{1,20} )?(?:less|fewer)\b(?![^\n]{0,200}\bthan\b)", re.I)
_NEW = 1 << 30  # larger than any position of a number


def final_number(text: str, *, question: str = "") -> Fraction | None:
    r"""Return the number that is the result of a worked answer, or None without a number.

    A stated answer (`#### 350`, `\boxed{350}`) has priority. Otherwise the result is in the closing sentence (see
    `_closing`): after its last `=`, or else the last number in it that is not a unit or an earlier step (`_result`).
    Text in brackets does not count.

    >>> final_number("Each gets 4 + 3 = 7. So the 2 of them need $1,400 in all (2 x 700).", question="The 2 of them")
    Fraction(1400, 1)
    """
    if stated := list(_STATED.finditer(text)):
        numbers = parse_numbers(without_latex(text[stated[-1].end() : stated[-1].end() + 100]))
        if numbers:
            return numbers[0]
    asked = parse_asked(question)
    sentences = split_sentences(text, asked)
    if not sentences:
        return None
    in_question = set(parse_numbers(question))
    return _result(sentences[: _closing(sentences, in_question, asked) + 1], in_question, asked)


def _closing(sentences: Sequence[Sentence], in_question: set[Fraction], asked: Asked) -> int:
    """Return the index of the closing sentence: the last one that is no remark ("Note that …", "Or …").

    If all of its numbers were named before, and it has neither an equation nor a concluding word, an earlier
    conclusion has priority that has more words of the question, or as many if the last one repeats several numbers.
    """
    indices = [i for i, one in enumerate(sentences) if not _REMARK.match(one.text)] or [*range(len(sentences))]
    last = sentences[indices[-1]]
    named = in_question.union(*(one.values for one in sentences[: indices[-1]]))
    if "=" in last.text or _CONCLUDES.search(last.text) or not named.issuperset(last.values):
        return indices[-1]
    conclusions = [i for i in indices if _CONCLUDES.search(sentences[i].text)] or [
        i for i in indices[:-1] if any(unit_of(sentences[i], k, asked)[0] for k in range(len(sentences[i].numbers)))
    ]
    if not conclusions:
        return indices[-1]
    margin = _restated(sentences[conclusions[-1]].text, asked) - _restated(last.text, asked)
    return conclusions[-1] if margin > 0 or (margin == 0 and len(last.numbers) > 1) else indices[-1]


def _restated(text: str, asked: Asked) -> int:
    """Return how many words of the question a text has."""
    return len(asked.words.intersection(stems(text)))


def _result(sentences: Sequence[Sentence], in_question: set[Fraction], asked: Asked) -> Fraction:
    """Return the result in the last of the sentences.

    After an equation it is the number after `=`, unless another clause with numbers follows it. Otherwise each of these
    conditions selects among the numbers that the conditions before it left, unless none would be left: it is not in a
    premise ("since …,"); it is no part of a unit ("30-minute"); its unit is what the question asks for; it is in the
    last clause, or in one that restates the question. The last of the rest that was not named before is the result, or
    else the one that was named last.
    """
    sentence = sentences[-1]
    start = sentence.text.rfind("=") + 1
    after = [number for number in sentence.numbers if number.start >= start]
    if start and after and not any(match.end() <= after[-1].start for match in _CLAUSE.finditer(sentence.text, start)):
        return _in_asked_unit(sentence, after[0], asked)
    chosen = [*range(len(sentence.numbers))]

    def select(condition: Callable[[int], bool]) -> None:
        nonlocal chosen
        chosen = [k for k in chosen if condition(k)] or chosen

    premise = match.end() if (match := _PREMISE.match(sentence.text)) else 0
    select(lambda k: sentence.numbers[k].start >= premise)
    select(lambda k: not _is_unit(sentence, k))
    units = {k: unit_of(sentence, k, asked) for k in chosen}
    best = max(count for count, _ in units.values())
    select(lambda k: units[k][0] == best or units[k][1])
    first, end = _clause(sentence.text, [sentence.numbers[k].start for k in chosen], asked)
    select(lambda k: first <= sentence.numbers[k].start < end)
    place = dict.fromkeys(in_question, -1)
    place |= {value: i for i, value in enumerate(value for one in sentences[:-1] for value in one.values)}
    k = max(chosen, key=lambda k: (place.get(sentence.numbers[k].value, _NEW), k))
    value = _in_asked_unit(sentence, sentence.numbers[k], asked)
    return -value if asked.more and _LESS.match(sentence.text, sentence.numbers[k].end) else value


def _in_asked_unit(sentence: Sentence, number: Number, asked: Asked) -> Fraction:
    """Return the value of a number; of an amount in dollars in cents, if the question asks for cents."""
    in_dollars = "$" in sentence.text[number.start : number.end]
    return number.value * 100 if in_dollars and "cent" in asked.nouns else number.value


def _is_unit(sentence: Sentence, k: int) -> bool:
    """Return whether a number is part of a unit or a base: 30 in "3 30-minute films", 20 in "4 out of the 20"."""
    number = sentence.numbers[k]
    before = sentence.text[sentence.numbers[k - 1].end if k else 0 : number.start]
    return bool(_UNIT.match(sentence.text, number.end) or (k and before == " ") or _BASE.search(before[-20:]))


def _clause(text: str, starts: Sequence[int], asked: Asked) -> tuple[int, int]:
    """Return start and end of the last clause with a number, or of an earlier one with more words of the question."""
    cuts = [0, *(match.end() for match in _CLAUSE.finditer(text)), len(text)]
    clauses = [
        (start, end) for start, end in itertools.pairwise(cuts) if any(start <= number < end for number in starts)
    ]
    scores = [_restated(text[start:end], asked) for start, end in clauses]
    best = scores.index(max(scores))
    return clauses[best] if scores[best] >= scores[-1] + 2 else clauses[-1]
