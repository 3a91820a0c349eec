r"""Correctness by a reference answer: the final number (GSM8K), the chosen option (MMLU), or every word.

An option is chosen by its letter or by its text. The options are read from the request, one a line: `-(A) text`,
`(A) text`, `A. text` or `A) text`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from derta.judges.numbers import final_number
from derta.records import Prompt, Reply, Verdict

TOLERANCE = 1e-6
_NEXT = re.compile(
    r"\n[ \t]{0,8}(?:#{1,4} ?|\*{2})?(?:question|q|problem|instruction|input|user|human)(?: ?\d{1,3})?:", re.I
)
_OPTION = re.compile(r"^[ \t\-*]{0,4}(?:\(([A-Z])\)|([A-Z])[.):])[ \t]*(\S.*)$", re.M)
_REFERENCE = re.compile(r"^[\s\-*]*\(?([A-Z])\b")
_LEADS = re.compile(r"\W{0,4}([A-Z])(?:\)|\.|:|\W{0,4}$)")
_STATED = re.compile(
    r"\b(?i:option|answer|choice|response|statement|correct|best|right)\b[^.\n(]{0,60}?"
    r"(?:\b(?i:is|would be)|:)\s{0,3}:?\s{0,3}(?:(?i:option|answer|choice)\s)?[\"'*]{0,2}\(?([A-Z])\b(?!['\w])"
)
_PRAISED = re.compile(r"\b([A-Z])\)[^.\n]{0,200}?\bis (?:the )?(?:most )?(?:correct|best|right)")
_SEVERAL = re.compile(
    r"\bare (?:both |all |the |also )?(?:most )?(?:correct|right|best)\b|\b(?:options|answers|choices) are\b"
)
_CLAUSE = 200  # characters on each side in which the several are named
_MENTIONED = re.compile(r"\b([A-Z])\)")

_NONE = {"none": "no option in the reply", "several": "several options in the reply"}

_WORD = re.compile(r"[^\W_]+|[-−](?=\d)")


def truncate_at_next_question(text: str) -> str:
    r"""The text up to a line where the model asks itself the next question; all of it where nothing would be left.

    >>> truncate_at_next_question("So it is 7.\n\nQuestion: How many are 2 + 2?\nAnswer: 4")
    'So it is 7.\n'
    """
    match = _NEXT.search(text)
    return text[: match.start()] if match and text[: match.start()].strip() else text


def judge_gsm8k(prompt: Prompt, reply: Reply) -> Verdict:
    """Compare the final number of the reply with that of the prompt's reference answer (`… #### 350`, or `350`).

    A reply without a number is wrong; an empty reply or a missing reference is unscored.
    """
    reason, correct = "", None
    gold = final_number(prompt.answer or "")
    if gold is None:
        reason = "the prompt has no reference number; give its answer field"
    elif not reply.text.strip():
        reason = "the reply is empty"
    else:
        found = final_number(truncate_at_next_question(reply.text), question=prompt.request or "")
        correct = found is not None and abs(found - gold) <= TOLERANCE
        reason = "" if found is not None else "no number in the reply"
    return Verdict(prompt_id=prompt.id, judge="gsm8k", correct=correct, reason=reason)


class Choice(NamedTuple):
    """The letter a reply chooses, and which rule told it; None where it chooses none."""

    letter: str | None
    rule: str


def parse_options(request: str) -> dict[str, str]:
    r"""The options of a question by letter.

    >>> parse_options("Which?\n-(A) a cat\n-(B) a dog")
    {'A': 'a cat', 'B': 'a dog'}
    """
    return {first or second: text.strip() for first, second, text in _OPTION.findall(request)}


def parse_choice(text: str, options: dict[str, str]) -> Choice:
    """The option a reply chooses. The first rule that finds one decides.

    1. the reply begins with a letter; 2. it states one ("the answer is (B)"; the last such); 3. it says of several at
    once that they are right, which chooses none; 4. it says of one that it is correct; 5. it mentions the letter of one
    only; 6. it holds the text of one only; 7. the first letter mentioned.

    >>> parse_choice("A dog barks, so it is a dog.", {"A": "a cat", "B": "a dog"})
    Choice(letter='B', rule='text')
    """
    return next(_choices(text.strip(), options), Choice(None, "none"))


def _choices(text: str, options: dict[str, str]) -> Iterator[Choice]:
    if (lead := _LEADS.match(text)) and lead[1] in options:
        yield Choice(lead[1], "leads")
    if letters := [letter for letter in _STATED.findall(text) if letter in options]:
        yield Choice(letters[-1], "stated")
    if _names_several(text, options):
        yield Choice(None, "several")
    if letters := [letter for letter in _PRAISED.findall(text) if letter in options]:
        yield Choice(letters[-1], "praised")
    mentioned = [letter for letter in _MENTIONED.findall(text) if letter in options]
    if len(set(mentioned)) == 1:
        yield Choice(mentioned[0], "only one mentioned")
    if letter := _by_text(text, options):
        yield Choice(letter, "text")
    if mentioned:
        yield Choice(mentioned[0], "first mentioned")


def _names_several(text: str, options: dict[str, str]) -> bool:
    for match in _SEVERAL.finditer(text):
        if match[0].endswith(" are"):
            clause = re.split(r"[.\n]", text[match.end() : match.end() + _CLAUSE])[0]
        else:
            clause = re.split(r"[.\n]", text[max(0, match.start() - _CLAUSE) : match.start()])[-1]
        if len({letter for letter in _MENTIONED.findall(clause) if letter in options}) > 1:
            return True
    return False


def _words(text: str) -> str:
    return f" {' '.join(_WORD.findall(text.lower()))} "


def _by_text(text: str, options: dict[str, str]) -> str | None:
    """The one option whose words stand in the text and in no longer option that stands there too."""
    said = _words(text)
    held = {letter: words for letter, option in options.items() if (words := _words(option)).strip() and words in said}
    whole = [
        letter
        for letter, words in held.items()
        if not any(words in other for key, other in held.items() if key != letter)
    ]
    return whole[0] if len(whole) == 1 else None


def judge_mmlu(prompt: Prompt, reply: Reply) -> Verdict:
    """Compare the option that the reply chooses with the prompt's reference letter (`C`, `-C`, `(C)`).

    A reply that chooses none is wrong; an empty reply, a missing reference or a request without options is unscored.
    """
    reference = _REFERENCE.match(prompt.answer or "")
    options = parse_options(prompt.request or "")
    correct = None
    if reference is None:
        reason = "the prompt has no reference letter; give its answer field"
    elif reference[1] not in options:
        reason = f"the request has no option ({reference[1]}); expected lines such as '(A) text'"
    elif not reply.text.strip():
        reason = "the reply is empty"
    else:
        chosen = parse_choice(truncate_at_next_question(reply.text), options)
        correct = chosen.letter == reference[1]
        reason = f"{chosen.letter}: {chosen.rule}" if chosen.letter else _NONE[chosen.rule]
    return Verdict(prompt_id=prompt.id, judge="mmlu", correct=correct, reason=reason)


def judge_exact(prompt: Prompt, reply: Reply) -> Verdict:
    """Compare the reply with the prompt's reference answer word for word; white space does not count.

    A reply that is empty is wrong; a missing reference is unscored.
    """
    expected, got = (prompt.answer or "").split(), reply.text.split()
    if not expected:
        return Verdict(prompt_id=prompt.id, judge="exact", reason="the prompt has no reference; give its answer field")
    same = sum(a == b for a, b in zip(expected, got, strict=False))
    reason = f"{same} of {len(expected)} words in place, {len(got)} given"
    return Verdict(prompt_id=prompt.id, judge="exact", correct=got == expected, reason=reason)
