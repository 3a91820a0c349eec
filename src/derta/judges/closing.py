"""Closing sentence of a worked answer: without remarks, checks and explanations, and with what is called the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from derta.judges.asked import Asked, restated
from derta.judges.numbers import Number
from derta.judges.sentences import Sentence, unit_of

_CONCLUDES = re.compile(r"\b(?:therefore|thus|hence|so|in total|in all|altogether|answer|conclusion|total of)\b", re.I)
_CONCLUSION = re.compile(
    r"\W{0,8}(?:(?:and|but|wait|no|sorry|actually|finally|correction)\b\W{0,4}){0,3}"
    r"(?:therefore|thus|hence|so|in conclusion|actually|correction|sorry|wait)\b",
    re.I,
)
_ANSWER = re.compile(
    r"\b(?:answer|result)\b[^.\n\d]{0,40}?(?:\bis|:|=)[\s*:]{0,6}"
    r"(?:(?:about|approximately|simply|therefore|just|indeed) )?$",
    re.I,
)
_ANSWER_WORD = re.compile(r"answer|result", re.I)
EXPRESSION = re.compile(r"[^\d.,;\n]{0,20}?(?:[-+*/×÷=]|\b(?:x|times|plus|minus|divided by)\b) ?[^\d\n]{0,12}\d", re.I)
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
    r"\W{0,8}(?:(?:currently|at present|right now|originally|initially|at first|before that)\b"
    r"|if\b[^.]{0,200}\bwould\b)",
    re.I,
)
_BARE_ANSWER = re.compile(r"\W{0,8}[\d.,/]{1,20}\W{0,4}(?:[a-z]{1,20}\W{0,3}){0,3}", re.I)
_TOTAL = re.compile(r"\b(?:total|sum|overall)\b", re.I)
_SMALL = tuple(map(Fraction, range(2, 13)))  # counts that a sentence may name in words
_MANY = 30  # numbers of a sentence or question that are combined


def body(sentences: list[Sentence], in_question: set[Fraction], asked: Asked) -> list[Sentence]:
    """Return the sentences without remarks ("Note that …"), checks of the result, and an explanation after the result.

    A check extends up to a conclusion ("So …"), which counts again. An explanation counts if it ends in a result.
    """
    kept: list[Sentence] = []
    checking = False
    explained = _explained(sentences, in_question, asked)
    for sentence in sentences[:explained]:
        checking = not _CONCLUSION.match(sentence.text) and (checking or bool(kept and _CHECK.match(sentence.text)))
        if not checking and not _REMARK.match(sentence.text):
            kept.append(sentence)
    return kept or sentences


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


def named_answer(sentences: Sequence[Sentence]) -> tuple[Sentence, Number] | None:
    """Return the last number that is called the answer ("the answer is 12", "Answer: 12"), if no conclusion follows."""
    for i in reversed(range(len(sentences))):
        sentence = sentences[i]
        if _REMARK.match(sentence.text) or not _ANSWER_WORD.search(sentence.text):
            continue
        for number in reversed(sentence.numbers):
            if _ANSWER.search(sentence.text[max(0, number.start - 80) : number.start]):
                expression = EXPRESSION.match(sentence.text, number.end)
                ends = any(_CONCLUSION.match(later.text) for later in sentences[i + 1 :])
                return None if expression or ends else (sentence, number)
    return None


def closing_index(sentences: Sequence[Sentence], in_question: set[Fraction], asked: Asked) -> int:
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
        candidates = [i for i, one in enumerate(sentences) if _CONCLUDES.search(one.text)] or with_unit
        needed = 1 - (len(last.numbers) > 1)
    elif _ASIDE.match(last.text):
        candidates, needed = [i for i in range(end) if not _ASIDE.match(sentences[i].text)], 0
    elif not any(count or bare for count, bare in _units(last, asked)):
        candidates, needed = with_unit, 1
    else:
        candidates = [] if _TOTAL.search(last.text) else with_unit
        needed = 2
        if candidates and _continues(sentences[:end], candidates[-1], last, in_question):
            return end
    if not candidates:
        return end
    margin = restated(sentences[candidates[-1]].text, asked) - restated(last.text, asked)
    return candidates[-1] if margin >= needed else end


def _continues(sentences: Sequence[Sentence], earlier: int, last: Sentence, in_question: set[Fraction]) -> bool:
    """Return whether a number of the last sentence may be computed from a result of an earlier one."""
    results = [value for value in sentences[earlier].values if value not in in_question][-_MANY:]
    named = [value for one in sentences for value in one.values]
    others = {*sorted(in_question)[:_MANY], *named[-_MANY:], *last.values[-_MANY:]}
    computed = {
        outcome for value in results for other in others for outcome in (value + other, value - other, other - value)
    }
    computed |= {outcome for value in results for other in {*others, *_SMALL} for outcome in _products(value, other)}
    return not results or not computed.isdisjoint(last.values)


def _products(a: Fraction, b: Fraction) -> list[Fraction]:
    """Return the product and the quotients of two numbers."""
    return [a * b, *(x / y for x, y in ((a, b), (b, a)) if y)]


def _units(sentence: Sentence, asked: Asked) -> list[tuple[int, bool]]:
    """Return `unit_of` of every number of a sentence."""
    return [unit_of(sentence, k, asked) for k in range(len(sentence.numbers))]


def _has_asked_unit(sentence: Sentence, asked: Asked) -> bool:
    """Return whether a number of a sentence has the unit that the question asks for."""
    return any(count for count, _ in _units(sentence, asked))
