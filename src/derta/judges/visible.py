r"""Text as a reader sees it: without emphasis, invisible characters and odd spaces, and with the original indices.

"I'm **unable** to help", "I\u200b can't help" and "I  cannot\nhelp" become "i'm unable to help", "i can't help" and
"i cannot help" for the patterns of refusals.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

_SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000\t"
_QUOTES = {"’": "'", "‘": "'", "ʼ": "'", "´": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"'}
_FANCY = "".join(map(chr, (*range(0xFF21, 0xFF5B), *range(0x1D400, 0x1D6A4))))  # full-width and mathematical letters
_PLAIN = str.maketrans(
    _QUOTES
    | {"أ": "ا", "إ": "ا", "آ": "ا", "ٱ": "ا", "ى": "ي"}
    | dict.fromkeys(_SPACES, " ")
    | {letter: low for letter in _FANCY if len(low := unicodedata.normalize("NFKC", letter).lower()) == 1}
)
_ODD = frozenset(map(chr, _PLAIN))
_INVISIBLE = (  # soft hyphens, marks of direction, vowel signs of Arabic, blanks without width, variation selectors
    *((0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x64B, 0x652), (0x670, 0x670), (0x115F, 0x1160), (0x17B4, 0x17B5)),
    *((0x180B, 0x180F), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F)),
    *((0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0)),
)
_INVISIBLE_SET = frozenset(chr(one) for first, last in _INVISIBLE for one in range(first, last + 1))
_INVISIBLE_CLASS = "".join(f"{chr(first)}-{chr(last)}" for first, last in _INVISIBLE)
_UNDERSCORE = r"_(?<![a-z0-9_]_)_{0,2}(?=[a-z])|_(?<=[a-z.!?]_)_{0,2}(?![a-z0-9_])"
_ESCAPE = r"\\(?=['\"])"  # of a mark in a literal
_TAGS = r"</?(?:b|i|u|em|strong|span|mark)>"
_BLANKS = r" (?<=[^\s.] ) *(?= [*_~]{0,3}[a-z])"  # of several blanks, all but the last
_WRAPPED = re.compile(r"\r?\n[ \t]{0,8}(?=[*_]{0,3}[a-z])")  # a line that continues a sentence
_WRAPS = frozenset("abcdefghijklmnopqrstuvwxyz,'’*_")  # last characters of a line that continues


class VisibleText(NamedTuple):
    """Folded text without its hidden parts, which `hidden` matches in `folded`; None if it has none."""

    text: str
    folded: str
    hidden: re.Pattern[str] | None = None

    def indices(self, starts: Sequence[int]) -> list[int]:
        """Return the indices in the original text of ascending indices in the visible text.

        >>> visible("I **cannot** help").indices([0, 2, 9])
        [0, 4, 13]
        """
        if self.hidden is None:
            return list(starts)
        hidden = self.hidden.finditer(self.folded)
        removed, match = 0, next(hidden, None)
        found: list[int] = []
        for start in starts:
            while match is not None and match.start() <= start + removed:
                removed += match.end() - match.start()
                match = next(hidden, None)
            found.append(start + removed)
        return found


@cache
def _hidden(*, other: bool, underscores: bool, blanks: bool, escapes: bool, tags: bool) -> re.Pattern[str]:
    """Return the pattern of hidden parts of a text: emphasis, other characters than ASCII, and so on (cached)."""
    parts = [f"[*~`{_INVISIBLE_CLASS if other else ''}]+"]
    parts += [_UNDERSCORE] if underscores else []
    parts += [_ESCAPE] if escapes else []
    parts += [_TAGS] if tags else []
    return re.compile("|".join([*parts, _BLANKS] if blanks else parts))


def fold(text: str) -> str:
    r"""Return the text in lower case with straight quotes and plain spaces, with every character at the same index.

    >>> fold("İI’m\u2009in")
    "İi'm in"
    """
    lowered = text.lower()
    if not lowered.isascii():
        for quote, straight in _QUOTES.items():
            lowered = lowered.replace(quote, straight)
    if len(lowered) == len(text) and (lowered.isascii() or _ODD.isdisjoint(lowered)):
        return lowered.replace("\t", " ")
    if len(lowered) != len(text):
        lowered = "".join(low if len(low := one.lower()) == 1 else one for one in text)
    return lowered.translate(_PLAIN)


def visible(text: str, folded: str | None = None) -> VisibleText:
    r"""Return the folded text without emphasis and invisible characters; lines that wrap a sentence are joined.

    `folded` is the folded text, if it is known.

    >>> visible("I'm **un\u00adable**  to\nhelp").text
    "i'm unable to help"
    """
    unwrapped = _unwrap(text)
    if folded is None or unwrapped is not text:
        folded = fold(unwrapped)
    underscores, blanks, other, escapes = "_" in folded, _has_gap(folded), not folded.isascii(), "\\" in folded
    other = other and not _INVISIBLE_SET.isdisjoint(folded)
    tags = "</" in folded
    if not (underscores or blanks or other or escapes or tags or "*" in folded or "~" in folded or "`" in folded):
        return VisibleText(folded, folded)
    hidden = _hidden(other=other, underscores=underscores, blanks=blanks, escapes=escapes, tags=tags)
    if other or underscores or blanks or escapes or tags:
        return VisibleText(hidden.sub("", folded), folded, hidden)
    return VisibleText(folded.replace("*", "").replace("~", "").replace("`", ""), folded, hidden)


def _has_gap(text: str) -> bool:
    """Return whether a text has several blanks in a row that do not start a line."""
    at = text.find("  ")
    while at >= 0:
        if at and text[at - 1] not in "\n .":
            return True
        while text.startswith(" ", at):
            at += 1
        at = text.find("  ", at)
    return False


def _unwrap(text: str) -> str:
    """Return the text with blanks for the line breaks inside sentences, of the same length."""
    if not _WRAPPED.search(text):
        return text

    def blank(match: re.Match[str]) -> str:
        before = text[max(0, match.start() - 4) : match.start()].rstrip(" \t\r")[-1:]
        return " " * len(match[0]) if before in _WRAPS else match[0]

    return _WRAPPED.sub(blank, text)
