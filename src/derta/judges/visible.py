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
_INVISIBLE = (
    "\u00ad\u034f\u061c\u064b-\u0652\u0670\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0"
)
_UNDERSCORE = r"_(?<![a-z0-9_]_)_{0,2}(?=[a-z])|_(?<=[a-z.!?]_)_{0,2}(?![a-z0-9_])"
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
        hidden = iter(self.hidden.finditer(self.folded)) if self.hidden else iter(())
        removed, match = 0, next(hidden, None)
        found: list[int] = []
        for start in starts:
            while match is not None and match.start() <= start + removed:
                removed += match.end() - match.start()
                match = next(hidden, None)
            found.append(start + removed)
        return found


@cache
def _hidden(*, other: bool, underscores: bool, blanks: bool) -> re.Pattern[str]:
    """Return the pattern of hidden parts of a text: emphasis, other characters than ASCII, and so on (cached)."""
    parts = [f"[*~`{_INVISIBLE if other else ''}]+"]
    parts += [_UNDERSCORE] if underscores else []
    return re.compile("|".join([*parts, _BLANKS] if blanks else parts))


def fold(text: str) -> str:
    r"""Return the text in lower case with straight quotes and plain spaces, with every character at the same index.

    >>> fold("İI’m\u2009in")
    "İi'm in"
    """
    lowered = text.lower()
    if lowered.isascii():
        return lowered.replace("\t", " ")
    if len(lowered) != len(text):
        lowered = "".join(low if len(low := character.lower()) == 1 else character for character in text)
    return lowered.translate(_PLAIN)


def visible(text: str) -> VisibleText:
    r"""Return the folded text without emphasis and invisible characters; lines that wrap a sentence are joined.

    >>> visible("I'm **un\u00adable**  to\nhelp").text
    "i'm unable to help"
    """
    folded = fold(_unwrap(text))
    underscores, blanks, other = "_" in folded, "  " in folded, not folded.isascii()
    if not (underscores or blanks or other or "*" in folded or "~" in folded or "`" in folded):
        return VisibleText(folded, folded)
    hidden = _hidden(other=other, underscores=underscores, blanks=blanks)
    if other or underscores or blanks:
        return VisibleText(hidden.sub("", folded), folded, hidden)
    return VisibleText(folded.replace("*", "").replace("~", "").replace("`", ""), folded, hidden)


def _unwrap(text: str) -> str:
    """Return the text with blanks for the line breaks inside sentences, of the same length."""
    if not _WRAPPED.search(text):
        return text

    def blank(match: re.Match[str]) -> str:
        before = text[max(0, match.start() - 4) : match.start()].rstrip(" \t\r")[-1:]
        return " " * len(match[0]) if before in _WRAPS else match[0]

    return _WRAPPED.sub(blank, text)
