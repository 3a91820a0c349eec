r"""Correctness judges with a reference answer: the final number (GSM8K), the chosen option (MMLU), or an exact match.

An option is chosen by its letter or by its text. The options are parsed from the request, one per line: `-(A) text`,
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
    r"""Return the text before a line in which the model starts the next question; all of it if nothing else remains.

    >>> truncate_at_next_question("So it is 7.\n\nQuestion: How many are 2 + 2?\nAnswer: 4")
    'So it is 7.\n'
    """
    match = _NEXT.search(text)
    return text[: match.start()] if match and text[: match.start()].strip() else text


def judge_gsm8k(prompt: Prompt, reply: Reply) -> Verdict:
    """Return a verdict on the final number: correct if it is that of the reference answer (`… #### 350`, or `350`).

    A reply without a number is wrong. An empty reply or a missing reference is unscored.
    """
    reason, correct = "", None
    gold = final_number(prompt.answer or "")
    if gold is None:
        reason = "the prompt has no reference number; give its answer field"
    elif not reply.text.strip():
        reason = "the reply is empty"
    else:
        number = final_number(truncate_at_next_question(reply.text), question=prompt.request or "")
        correct = number is not None and abs(number - gold) <= TOLERANCE
        reason = "" if number is not None else "no number in the reply"
    return Verdict(prompt_id=prompt.id, judge="gsm8k", correct=correct, reason=reason)


class Choice(NamedTuple):
    """Chosen option of a reply (None if there is none), and the name of the rule that matched."""

    letter: str | None
    rule: str


def parse_options(request: str) -> dict[str, str]:
    r"""Return the options of a question by letter.

    >>> parse_options("Which?\n-(A) a cat\n-(B) a dog")
    {'A': 'a cat', 'B': 'a dog'}
    """
    return {first or second: text.strip() for first, second, text in _OPTION.findall(request)}


def parse_choice(text: str, options: dict[str, str]) -> Choice:
    """Return the option that a reply chooses, by the first rule that matches.

    1. the reply begins with a letter; 2. it states one ("the answer is (B)"; the last match); 3. it calls several
    options correct at once, which is no choice; 4. it calls one option correct; 5. it mentions the letter of one only;
    6. it contains the text of one only; 7. it mentions the letter first.

    >>> parse_choice("A dog barks, so it is a dog.", {"A": "a cat", "B": "a dog"})
    Choice(letter='B', rule='text')
    """
    return next(_choices(text.strip(), options), Choice(None, "none"))


def _choices(text: str, options: dict[str, str]) -> Iterator[Choice]:
    """Yield the choice of every rule that matches, in order of priority."""
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
    """Return whether the text calls several options correct at once."""
    for match in _SEVERAL.finditer(text):
        if match[0].endswith(" are"):
            clause = re.split(r"[.\n]", text[match.end() : match.end() + _CLAUSE])[0]
        else:
            clause = re.split(r"[.\n]", text[max(0, match.start() - _CLAUSE) : match.start()])[-1]
        if len({letter for letter in _MENTIONED.findall(clause) if letter in options}) > 1:
            return True
    return False


def _words(text: str) -> str:
    """Return the lower-case words of a text, separated and surrounded by blanks."""
    return f" {' '.join(_WORD.findall(text.lower()))} "


def _by_text(text: str, options: dict[str, str]) -> str | None:
    """Return the only option whose words are in the text and not in the words of a longer option in the text."""
    text_words = _words(text)
    matches = {
        letter: words for letter, option in options.items() if (words := _words(option)).strip() and words in text_words
    }
    longest = [
        letter
        for letter, words in matches.items()
        if not any(words in other for key, other in matches.items() if key != letter)
    ]
    return longest[0] if len(longest) == 1 else None


def judge_mmlu(prompt: Prompt, reply: Reply) -> Verdict:
    """Return a verdict on the chosen option: correct if it is the reference letter (`C`, `-C`, `(C)`).

    A reply without a choice is wrong. An empty reply, a missing reference or a request without options is unscored.
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
        parsed = parse_choice(truncate_at_next_question(reply.text), options)
        correct = parsed.letter == reference[1]
        reason = f"{parsed.letter}: {parsed.rule}" if parsed.letter else _NONE[parsed.rule]
    return Verdict(prompt_id=prompt.id, judge="mmlu", correct=correct, reason=reason)


def judge_exact(prompt: Prompt, reply: Reply) -> Verdict:
    """Return a verdict on the exact match: correct if the reply has the words of the reference; white space is ignored.

    An empty reply is wrong. A missing reference is unscored.
    """
    expected, got = (prompt.answer or "").split(), reply.text.split()
    if not expected:
        return Verdict(prompt_id=prompt.id, judge="exact", reason="the prompt has no reference; give its answer field")
    same = sum(a == b for a, b in zip(expected, got, strict=False))
    reason = f"{same} of {len(expected)} words in place, {len(got)} given"
    return Verdict(prompt_id=prompt.id, judge="exact", correct=got == expected, reason=reason)
