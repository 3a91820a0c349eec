r"""Final number of a worked answer: the result that its closing sentence states."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from derta.judges.asked import COMPARATIVES, Asked, parse_asked, restated, stems
from derta.judges.closing import EXPRESSION, body, closing_index, named_answer
from derta.judges.numbers import Number, parse_numbers
from derta.judges.opposites import is_opposite
from derta.judges.sentences import Sentence, split_sentences, unit_of
from derta.judges.stated_numbers import stated_number

_LABEL = re.compile(r"[.!?\d][*]{0,2} ?[(\[][*_]{0,2}(?:the )?(?:final )?answer[*_]{0,2}[)\]]", re.I)
_PREMISE = re.compile(
    r"[\s*-]{0,8}(?:(?:and|but|so|then|however|now),? )?(?:since|if|because|as|when|given)\s[^,]{0,300},", re.I
)
_CLAUSE = re.compile(
    r"[,;] and\b| and (?=(?-i:[A-Z])[a-z]{1,20} (?:has|have|had|gets?|got|is|was|will)\b)|;"
    r"|, (?:but|so|which means|which rounds)\b",
    re.I,
)
_UNIT = re.compile(r"-[a-z]", re.I)
_DOZEN = re.compile(r" dozen", re.I)
_GIVES = re.compile(r"\b(?:gives|yields|we get|results in|comes to)\b", re.I)
_PART_OF = re.compile(r" (?:[a-z]{1,20} )?of (?:which|whom|them)\b", re.I)
_BASE = re.compile(r"\bout of (?:[a-z]{1,8} )?$", re.I)
_DATE = re.compile(
    r"\b(?:jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)[a-z]{0,6}\.? \d{1,2}(?:st|nd|rd|th)?,? $", re.I
)
_AFTERTHOUGHT = re.compile(r"\b(?:because|since|including|the sum of|divided by)\b", re.I)
_SUBORDINATE = re.compile(
    r"\b(?:because|since|consisting of|made up of|after [a-z]{2,20}ing)\b|, (?:as|when|while)\b"
    r"|\bof (?:the|her|his|its|their) (?=[$\d])|(?<=\w): (?=[$\d][^=]{0,300}$)",
    re.I,
)
_LEADS_ON = re.compile(r"\b(?:so|therefore|thus|hence|total)\b", re.I)
_TURNS = re.compile(r"\b(?:so|therefore|thus|hence)\b|=", re.I)
_COMPARED = re.compile(rf"[ %]{{0,2}}(?:[a-z]{{1,20}} ){{0,2}}?(?:{'|'.join(COMPARATIVES)}) than\b", re.I)
_CLAUSES = 8  # subordinate clauses of a sentence that are tried
_NEW = 1 << 30  # larger than any position of a number


def final_number(text: str, *, question: str = "") -> Fraction | None:
    r"""Return the number that is the result of a worked answer, or None without a number.

    A stated answer (`#### 350`, `\boxed{350}`, "the answer is 350") has priority. Otherwise the result is in the
    closing sentence (`derta.judges.closing`): after its last `=`, or else the last number that is no unit and no step
    (`_result`). Text in brackets does not count.

    >>> final_number("Each gets 4 + 3 = 7. So the 2 of them need $1,400 in all (2 x 700).", question="The 2 of them")
    Fraction(1400, 1)
    """
    if (stated := stated_number(text)) is not None:
        return stated
    asked = parse_asked(question)
    labels = list(_LABEL.finditer(text))
    sentences = split_sentences(text[: labels[-1].start() + 1] if labels else text, asked)
    if not sentences:
        return None
    in_question = set(parse_numbers(question))
    if (answer := named_answer(sentences)) is not None:
        return _in_asked_unit(*answer, asked)
    sentences = body(sentences, in_question, asked)
    return _result(sentences[: closing_index(sentences, in_question, asked) + 1], in_question, asked)


def _result(sentences: Sequence[Sentence], in_question: set[Fraction], asked: Asked) -> Fraction:
    """Return the result in the last of the sentences.

    A clause with a reason ("because …") after a new result does not count. After an equation it is the number after
    `=`, unless another clause with numbers follows it. Otherwise each of these conditions selects among the numbers
    that the conditions before it left, unless none would be left: it is not in a premise ("since …,"); it is no part of
    a unit ("30-minute") or date; it is not in an afterthought or a comparison ("8 fewer than …"); its unit is what the
    question asks for; it is in the last clause, or in one that restates the question. The last of the rest that was not
    named before is the result, or else the one that was named last. A loss is negative where a profit is asked.
    """
    sentence = _without_subordinate(sentences[-1], in_question, asked)
    if (number := _after_equation(sentence)) is not None:
        return _in_asked_unit(sentence, number, asked)
    chosen = [*range(len(sentence.numbers))]

    def select(condition: Callable[[int], bool]) -> None:
        nonlocal chosen
        chosen = [k for k in chosen if condition(k)] or chosen

    premise = match.end() if (match := _PREMISE.match(sentence.text)) else 0
    premise = max([premise, *(match.end() for match in _GIVES.finditer(sentence.text))])
    select(lambda k: sentence.numbers[k].start >= premise)
    select(lambda k: not _is_unit(sentence, k, asked))
    afterthoughts = [match.end() for match in _AFTERTHOUGHT.finditer(sentence.text, sentence.numbers[0].end)]
    select(lambda k: not _is_aside(sentence, sentence.numbers[k], afterthoughts, asked))
    units = {k: unit_of(sentence, k, asked) for k in chosen}
    best = max(count for count, _ in units.values())
    select(lambda k: units[k][0] == best or units[k][1])
    first, end = _clause(sentence.text, [sentence.numbers[k].start for k in chosen], asked)
    select(lambda k: first <= sentence.numbers[k].start < end)
    place = dict.fromkeys(in_question, -1)
    place |= {value: i for i, value in enumerate(value for one in sentences[:-1] for value in one.values)}
    k = max(chosen, key=lambda k: (place.get(sentence.numbers[k].value, _NEW), k))
    value = _in_asked_unit(sentence, sentence.numbers[k], asked)
    return -value if value > 0 and is_opposite(sentence.text, sentence.numbers[k], asked) else value


def _without_subordinate(sentence: Sentence, in_question: set[Fraction], asked: Asked) -> Sentence:
    """Return a sentence without the clause "because …", "after giving …" that follows a result in the asked unit."""
    for match in itertools.islice(_SUBORDINATE.finditer(sentence.text, sentence.numbers[0].end), _CLAUSES):
        before = [k for k, number in enumerate(sentence.numbers) if number.end <= match.start()]
        result = any(sentence.numbers[k].value not in in_question and any(unit_of(sentence, k, asked)) for k in before)
        if result and not _LEADS_ON.search(sentence.text, match.end()):
            return Sentence(sentence.text[: match.start()], [sentence.numbers[k] for k in before])
    return sentence


def _after_equation(sentence: Sentence) -> Number | None:
    """Return the number after the last `=` ("7 = 3 + 4": before it), unless another clause with numbers follows."""
    start = sentence.text.rfind("=") + 1
    after = [number for number in sentence.numbers if number.start >= start]
    if not start or not after:
        return None
    if any(match.end() <= after[-1].start for match in _CLAUSE.finditer(sentence.text, start)):
        return None
    left = max(sentence.text.rfind(sign, 0, start - 1) for sign in "=,;:") + 1
    before = [number for number in sentence.numbers if left <= number.start < start]
    reversed_order = len(before) == 1 and len(after) > 1 and EXPRESSION.match(sentence.text, after[0].end)
    return before[0] if reversed_order and not EXPRESSION.search(sentence.text, left, start) else after[0]


def _in_asked_unit(sentence: Sentence, number: Number, asked: Asked) -> Fraction:
    """Return the value of a number; of an amount in dollars in cents, if the question asks for cents."""
    in_dollars = "$" in sentence.text[number.start : number.end]
    return number.value * 100 if in_dollars and "cent" in asked.nouns else number.value


def _is_unit(sentence: Sentence, k: int, asked: Asked) -> bool:
    """Return whether a number is part of a unit, a base or a date: "3 30-minute films", "4 out of the 20"."""
    number = sentence.numbers[k]
    before = sentence.text[sentence.numbers[k - 1].end if k else 0 : number.start]
    return bool(
        _UNIT.match(sentence.text, number.end)
        or (k and before == " ")
        or _BASE.search(before[-20:])
        or (_DOZEN.match(sentence.text, number.end) and "dozen" not in asked.nouns)
        or ("year" not in asked.nouns and _DATE.search(sentence.text[max(0, number.start - 24) : number.start]))
    )


def _is_aside(sentence: Sentence, number: Number, afterthoughts: Sequence[int], asked: Asked) -> bool:
    """Return whether a number is in an afterthought ("because …") or a comparison ("8 fewer than …") not asked for."""
    if _PART_OF.match(sentence.text, number.end) or (_COMPARED.match(sentence.text, number.end) and not asked.compared):
        return True
    k = bisect.bisect_right(afterthoughts, number.start)
    return k > 0 and not _TURNS.search(sentence.text, max(afterthoughts[k - 1], number.start - 300), number.start)


def _clause(text: str, starts: Sequence[int], asked: Asked) -> tuple[int, int]:
    """Return start and end of the last clause with a number, or of an earlier one with more words of the question."""
    cuts = [0, *(match.end() for match in _CLAUSE.finditer(text)), len(text)]
    clauses = [
        (start, end) for start, end in itertools.pairwise(cuts) if any(start <= number < end for number in starts)
    ]
    scores = [restated(text[start:end], asked) for start, end in clauses]
    best = scores.index(max(scores))
    another = text[slice(*clauses[-1])].lstrip()[:1].isupper() and len(clauses) > 1
    if asked.names and another and not _has_name(text, clauses[-1], asked):
        best = next((i for i in reversed(range(len(clauses))) if _has_name(text, clauses[i], asked)), best)
        return clauses[best] if scores[best] > scores[-1] else clauses[-1]
    return clauses[best] if scores[best] >= scores[-1] + 2 else clauses[-1]


def _has_name(text: str, clause: tuple[int, int], asked: Asked) -> bool:
    """Return whether a clause has a name of the question."""
    return not asked.names.isdisjoint(stems(text[clause[0] : clause[1]]))
