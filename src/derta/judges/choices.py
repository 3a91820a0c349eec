r"""Parsing of the options of a question, and of the option that a reply chooses.

The options are parsed from the request, one per line: `-(A) text`, `(A) text`, `A. text` or `A) text`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_OPTION = re.compile(r"^[ \t\-*]{0,4}(?:\(([A-Z])\)|([A-Z])[.):])[ \t]*(\S.*)$", re.M)
_MARKUP = re.compile(r"(?:\\(?:boxed|text|textbf|mathrm|mathbf)(?=\{)|[*_`${} ]|\\[()\[\]])+")
_LEADS = re.compile(r"(?:\W{0,4}(?:(?i:option|answer|choice) )?)\W{0,4}([A-Z])(?:\)|\.|:|\W{0,4}$)")
_REJECTED = re.compile(
    r"[^.\n]{0,200}?\b(?:is|are|isn't|aren't)\b(?: not|(?<=n't)| (?:clearly |also )?(?:incorrect|wrong|false))", re.I
)
_WORDS = r"(?:(?!not\b|never\b|neither\b)[a-z']{1,20},? ){0,4}"  # between "is" and the letter
_STATED = re.compile(
    r"\b(?i:option|answer|choice|response|statement|correct|best|right)\b[^.\n(]{0,60}?(?:\b(?i:is|would be)|:)"
    rf"\s{{0,3}}:?\s{{0,3}}(?:{_WORDS}[-–\"']{{0,2}}\s?\(([A-Z])\)"
    r"|[-–\"']{0,2}\s?(?:(?i:option|answer|choice)\s)?[\"']{0,2}\(?([A-Z])\b(?!['\w]))"
)
_PRAISE = re.compile(
    r"\bis (?:thus |therefore |indeed )?(?:the )?(?:only |most |single )?(?:correct|best|right|answer\b)", re.I
)
_MENTIONED = re.compile(r"\b([A-Z])\)|\b[Oo]ption ([A-Z])\b")
_SEVERAL = re.compile(
    r"\bare (?:both |all |the |also )?(?:most )?(?:correct|right|best)\b|\b(?:options|answers|choices) are\b"
)
_CLAUSE = 200  # characters on each side in which options are named
_SENTENCE = re.compile(r"[.!?](?=\s)|\n")
_WORD = re.compile(r"[^\W_]+|[-−](?=\d)")


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

    1. the reply begins with a letter, which it does not reject to state another one; 2. it states one ("the answer is
    (B)"; the last match); 3. it calls several options correct at once, which is no choice; 4. it calls one option
    correct; 5. it mentions the letter of one only; 6. it contains the text of one only; 7. it mentions the letter
    first; 8. its first sentence with the text of an option contains that of one only.

    >>> parse_choice("A dog barks, so it is a dog.", {"A": "a cat", "B": "a dog"})
    Choice(letter='B', rule='text')
    """
    return next(_choices(_MARKUP.sub(" ", text).strip(), options), Choice(None, "none"))


def _choices(text: str, options: dict[str, str]) -> Iterator[Choice]:
    """Yield the choice of every rule that matches, in order of priority."""
    stated = [letter for pair in _STATED.findall(text) if (letter := pair[0] or pair[1]) in options]
    if (lead := _LEADS.match(text)) and lead[1] in options and not (stated and _REJECTED.match(text, lead.end())):
        yield Choice(lead[1], "leads")
    if stated:
        yield Choice(stated[-1], "stated")
    if _names_several(text, options):
        yield Choice(None, "several")
    if letter := _praised(text, options):
        yield Choice(letter, "praised")
    mentioned = _mentioned(text, options)
    if len(set(mentioned)) == 1:
        yield Choice(mentioned[0], "only one mentioned")
    if letter := _by_text(text, options):
        yield Choice(letter, "text")
    if mentioned:
        yield Choice(mentioned[0], "first mentioned")
    for sentence in _SENTENCE.split(text):
        if letters := _with_text(sentence, options):
            yield Choice(letters[0] if len(letters) == 1 else None, "text" if len(letters) == 1 else "several")
            return


def _mentioned(text: str, options: dict[str, str]) -> list[str]:
    """Return the letters of options that a text mentions, in order."""
    return [letter for pair in _MENTIONED.findall(text) if (letter := pair[0] or pair[1]) in options]


def _clause(text: str, start: int, end: int) -> tuple[str, str]:
    """Return the text of a sentence before and after a match."""
    before = re.split(r"[.\n]", text[max(0, start - _CLAUSE) : start])[-1]
    return before, re.split(r"[.\n]", text[end : end + _CLAUSE])[0]


def _praised(text: str, options: dict[str, str]) -> str | None:
    """Return the last option that a sentence calls correct: the one that is named nearest before."""
    found: str | None = None
    for match in _PRAISE.finditer(text):
        if letters := _mentioned(_clause(text, match.start(), match.end())[0], options):
            found = letters[-1]
    return found


def _names_several(text: str, options: dict[str, str]) -> bool:
    """Return whether the text calls several options correct at once."""
    for match in _SEVERAL.finditer(text):
        before, after = _clause(text, match.start(), match.end())
        if len(set(_mentioned(after if match[0].endswith(" are") else before, options))) > 1:
            return True
    return False


def _words(text: str) -> str:
    """Return the lower-case words of a text, separated and surrounded by blanks."""
    return f" {' '.join(_WORD.findall(text.lower()))} "


def _by_text(text: str, options: dict[str, str]) -> str | None:
    """Return the only option whose words are in the text."""
    letters = _with_text(text, options)
    return letters[0] if len(letters) == 1 else None


def _with_text(text: str, options: dict[str, str]) -> list[str]:
    """Return the options whose words are in the text and not in the words of a longer option in the text."""
    text_words = _words(text)
    matches = {
        letter: words for letter, option in options.items() if (words := _words(option)).strip() and words in text_words
    }
    return [
        letter
        for letter, words in matches.items()
        if not any(words in other for key, other in matches.items() if key != letter)
    ]
