r"""Final number of a worked answer: the result that its closing sentence states."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from derta.judges.asked import COMPARATIVES, Asked, parse_asked, stems
from derta.judges.numbers import Number, parse_numbers
from derta.judges.opposites import is_opposite
from derta.judges.sentences import Sentence, split_sentences, unit_of
from derta.judges.stated_numbers import stated_number

_CONCLUDES = re.compile(r"\b(?:therefore|thus|hence|so|in total|in all|altogether|answer|conclusion|total of)\b", re.I)
_CONCLUSION = re.compile(
    r"\W{0,8}(?:(?:and|but|wait|no|sorry|actually|finally|correction)\b\W{0,4}){0,3}"
    r"(?:therefore|thus|hence|so|in conclusion|actually|correction|sorry|wait)\b",
    re.I,
)
_ANSWER = re.compile(
    r"\b(?:answer|result)\b[^.\n\d]{0,40}?(?:\bis|:|=)[\s*:]{0,6}(?:(?:about|approximately|simply|therefore|just|indeed) )?$",
    re.I,
)
_ANSWER_WORD = re.compile(r"answer|result", re.I)
_EXPRESSION = re.compile(r"[^\d.,;\n]{0,20}?(?:[-+*/×÷=]|\b(?:x|times|plus|minus|divided by)\b) ?[^\d\n]{0,12}\d", re.I)
_REMARK = re.compile(
    r"[\s*(]{0,8}(?:please )?(?:note|keep in mind|remember|alternatively|assuming|this assumes|or)\b"
    r"(?!,? (?:a|in) total)",
    re.I,
)
_CHECK = re.compile(
    r"[^.\w\n]{0,8}(?:(?:now|finally|we|you|i|can|could|may|also|to|let's|let us|let me|as a)\b,? ?){0,5}"
    r"(?:double[- ]?)?(?:check|checking|verify|verification|proof)\b(?! (?:how|what|if|which|whether))",
    re.I,
)
_EXPLAINS = re.compile(
    r"\W{0,8}(?:explanation|reasoning|justification|here(?:['’]s| is) (?:how|why|the|a|my)|this is because)\b", re.I
)
_ASIDE = re.compile(
    r"\W{0,8}(?:(?:currently|at present|right now|originally|initially|at first|before that)\b|if\b[^.]{0,200}\bwould\b)",
    re.I,
)
_LABEL = re.compile(r"[.!?\d][*]{0,2} ?[(\[][*_]{0,2}(?:the )?(?:final )?answer[*_]{0,2}[)\]]", re.I)
_BARE_ANSWER = re.compile(r"\W{0,8}[\d.,/]{1,20}\W{0,4}(?:[a-z]{1,20}\W{0,3}){0,3}", re.I)
_PREMISE = re.compile(
    r"[\s*-]{0,8}(?:(?:and|but|so|then|however|now),? )?(?:since|if|because|as|when|given)\s[^,]{0,300},", re.I
)
_CLAUSE = re.compile(r"[,;] and\b|;|, (?:but|so|which means|which rounds)\b", re.I)
_UNIT = re.compile(r"-[a-z]", re.I)
_BASE = re.compile(r"\bout of (?:[a-z]{1,8} )?$", re.I)
_DATE = re.compile(
    r"\b(?:jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)[a-z]{0,6}\.? \d{1,2}(?:st|nd|rd|th)?,? $", re.I
)
_AFTERTHOUGHT = re.compile(r"\b(?:because|since|including|the sum of|divided by)\b", re.I)
_TURNS = re.compile(r"\b(?:so|therefore|thus|hence)\b|=", re.I)
_COMPARED = re.compile(rf"[ %]{{0,2}}(?:[a-z]{{1,20}} ){{0,2}}?(?:{'|'.join(COMPARATIVES)}) than\b", re.I)
_NEW = 1 << 30  # larger than any position of a number


def final_number(text: str, *, question: str = "") -> Fraction | None:
    r"""Return the number that is the result of a worked answer, or None without a number.

    A stated answer (`#### 350`, `\boxed{350}`) has priority. Otherwise the result is in the closing sentence (see
    `_closing`): after its last `=`, or else the last number in it that is not a unit or an earlier step (`_result`).
    Text in brackets does not count.

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
    if (answer := _named_answer(sentences)) is not None:
        return _in_asked_unit(*answer, asked)
    sentences = _body(sentences, in_question, asked)
    return _result(sentences[: _closing(sentences, in_question, asked) + 1], in_question, asked)


def _body(sentences: list[Sentence], in_question: set[Fraction], asked: Asked) -> list[Sentence]:
    """Return the sentences without remarks ("Note that …"), checks of the result, and an explanation after the result.

    A check extends up to a conclusion ("So …"), which counts again. An explanation counts if it ends in a result.
    """
    body: list[Sentence] = []
    checking = False
    explained = _explained(sentences, in_question, asked)
    for sentence in sentences[:explained]:
        checking = not _CONCLUSION.match(sentence.text) and (checking or bool(body and _CHECK.match(sentence.text)))
        if not checking and not _REMARK.match(sentence.text):
            body.append(sentence)
    return body or sentences


def _explained(sentences: Sequence[Sentence], in_question: set[Fraction], asked: Asked) -> int:
    """Return the number of sentences before an explanation of a result that precedes it, or of all sentences."""
    last = sentences[-1]
    new = not in_question.issuperset(last.values)
    later = {value for one in sentences[1:] for value in one.values}
    if _BARE_ANSWER.fullmatch(sentences[0].text) and later.union(in_question).isdisjoint(sentences[0].values):
        return len(sentences) if _CONCLUSION.match(last.text) else 1
    if "=" in last.text or _CONCLUDES.search(last.text) or (new and _has_asked_unit(last, asked)):
        return len(sentences)
    for i, sentence in enumerate(sentences[1:], start=1):
        if _EXPLAINS.match(sentence.text) and any(not in_question.issuperset(one.values) for one in sentences[:i]):
            return i
    return len(sentences)


def _named_answer(sentences: Sequence[Sentence]) -> tuple[Sentence, Number] | None:
    """Return the last number that is called the answer ("the answer is 12", "Answer: 12"), if no conclusion follows."""
    for i in reversed(range(len(sentences))):
        sentence = sentences[i]
        if _REMARK.match(sentence.text) or not _ANSWER_WORD.search(sentence.text):
            continue
        for number in reversed(sentence.numbers):
            if _ANSWER.search(sentence.text[max(0, number.start - 80) : number.start]):
                expression = _EXPRESSION.match(sentence.text, number.end)
                ends = any(_CONCLUSION.match(later.text) for later in sentences[i + 1 :])
                return None if expression or ends else (sentence, number)
    return None


def _closing(sentences: Sequence[Sentence], in_question: set[Fraction], asked: Asked) -> int:
    """Return the index of the closing sentence: the last one, unless an earlier one has priority.

    The last one stays if it has an equation or a concluding word. If all of its numbers were named before, an earlier
    conclusion has priority that has more words of the question, or as many if the last one repeats several numbers. If
    it has new numbers in another unit than the asked one, or is an aside ("Currently, …"), an earlier sentence with the
    asked unit and more words of the question has priority.
    """
    end = len(sentences) - 1
    last = sentences[end]
    if "=" in last.text or _CONCLUDES.search(last.text):
        return end
    named = in_question.union(*(one.values for one in sentences[:end]))
    with_unit = [i for i in range(end) if _has_asked_unit(sentences[i], asked)]
    if named.issuperset(last.values):
        conclusions = [i for i, one in enumerate(sentences) if _CONCLUDES.search(one.text)] or with_unit
        needed = 1 - (len(last.numbers) > 1)
    elif _ASIDE.match(last.text):
        conclusions, needed = [i for i in range(end) if not _ASIDE.match(sentences[i].text)], 0
    else:
        foreign = not any(count or bare for count, bare in _units(last, asked))
        conclusions, needed = with_unit if foreign else [], 1
    if not conclusions:
        return end
    margin = _restated(sentences[conclusions[-1]].text, asked) - _restated(last.text, asked)
    return conclusions[-1] if margin >= needed else end


def _units(sentence: Sentence, asked: Asked) -> list[tuple[int, bool]]:
    """Return `unit_of` of every number of a sentence."""
    return [unit_of(sentence, k, asked) for k in range(len(sentence.numbers))]


def _has_asked_unit(sentence: Sentence, asked: Asked) -> bool:
    """Return whether a number of a sentence has the unit that the question asks for."""
    return any(count for count, _ in _units(sentence, asked))


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
    if (number := _after_equation(sentence)) is not None:
        return _in_asked_unit(sentence, number, asked)
    chosen = [*range(len(sentence.numbers))]

    def select(condition: Callable[[int], bool]) -> None:
        nonlocal chosen
        chosen = [k for k in chosen if condition(k)] or chosen

    premise = match.end() if (match := _PREMISE.match(sentence.text)) else 0
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


def _after_equation(sentence: Sentence) -> Number | None:
    """Return the number after the last `=`, unless another clause with numbers follows; the one before in "7 = 3 + 4"."""
    start = sentence.text.rfind("=") + 1
    after = [number for number in sentence.numbers if number.start >= start]
    if not start or not after:
        return None
    if any(match.end() <= after[-1].start for match in _CLAUSE.finditer(sentence.text, start)):
        return None
    left = max(sentence.text.rfind(sign, 0, start - 1) for sign in "=,;:") + 1
    before = [number for number in sentence.numbers if left <= number.start < start]
    reversed_order = len(before) == 1 and len(after) > 1 and _EXPRESSION.match(sentence.text, after[0].end)
    return before[0] if reversed_order and not _EXPRESSION.search(sentence.text, left, start) else after[0]


def _in_asked_unit(sentence: Sentence, number: Number, asked: Asked) -> Fraction:
    """Return the value of a number; of an amount in dollars in cents, if the question asks for cents."""
    in_dollars = "$" in sentence.text[number.start : number.end]
    return number.value * 100 if in_dollars and "cent" in asked.nouns else number.value


def _is_unit(sentence: Sentence, k: int, asked: Asked) -> bool:
    """Return whether a number is part of a unit, a base or a date: 30 in "3 30-minute films", 20 in "4 out of the 20"."""
    number = sentence.numbers[k]
    before = sentence.text[sentence.numbers[k - 1].end if k else 0 : number.start]
    return bool(
        _UNIT.match(sentence.text, number.end)
        or (k and before == " ")
        or _BASE.search(before[-20:])
        or ("year" not in asked.nouns and _DATE.search(sentence.text[max(0, number.start - 24) : number.start]))
    )


def _is_aside(sentence: Sentence, number: Number, afterthoughts: Sequence[int], asked: Asked) -> bool:
    """Return whether a number is in an afterthought ("because …") or a comparison ("8 fewer than …") not asked for."""
    if _COMPARED.match(sentence.text, number.end) and not asked.compared:
        return True
    k = bisect.bisect_right(afterthoughts, number.start)
    return k > 0 and not _TURNS.search(sentence.text, max(afterthoughts[k - 1], number.start - 300), number.start)


def _clause(text: str, starts: Sequence[int], asked: Asked) -> tuple[int, int]:
    """Return start and end of the last clause with a number, or of an earlier one with more words of the question."""
    cuts = [0, *(match.end() for match in _CLAUSE.finditer(text)), len(text)]
    clauses = [
        (start, end) for start, end in itertools.pairwise(cuts) if any(start <= number < end for number in starts)
    ]
    scores = [_restated(text[start:end], asked) for start, end in clauses]
    best = scores.index(max(scores))
    return clauses[best] if scores[best] >= scores[-1] + 2 else clauses[-1]
