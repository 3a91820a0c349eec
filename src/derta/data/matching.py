r"""Normal form of texts, by which requests are compared: decontamination, held-out and duplicate requests, `exclude`.

Two requests are the same if they differ only in

- case, compatibility forms (full width, ligatures, presentation forms), composed or decomposed accents (NFKC);
- spacing, punctuation and symbols; spacing also has no meaning next to a letter of a script without blanks (Thai, Lao,
  Khmer, Myanmar, Tibetan, Chinese, Japanese, Yi, ...);
- invisible characters: soft hyphens (at the end of a line with the line break), zero-width blanks and joiners, byte
  order marks, variation selectors, directional controls, fillers, tags and control characters. They are removed and
  separate no words;
- the shape of digits (`٣`, `३` and `3`), the tatweel, and the vowel points of Arabic, Hebrew and Syriac, which most
  texts leave out. All other combining marks are letters of their script: Devanagari, Thai and Vietnamese words that
  differ only in a mark are different words.

The dotless `ı` and `i` are the same letter, because the upper case of both is `I` without knowledge of the language.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from derta.records import Message

RequestTurns = str | tuple[str, ...]
"""A request as a text, or with the user's earlier turns: "Go on." is the same request only after the same turns."""

_IGNORABLE = re.compile(  # Default_Ignorable_Code_Point of Unicode 16, without those of the categories Cc and Cf
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
_BROKEN_WORD = re.compile("\u00ad[^\\S\n]*\n\\s*")
"""Soft hyphen with the line break after it, as in texts that were copied from PDF files."""
_LONE_ACCENT = re.compile("(?<![^\\s])[\u0300-\u036f]+")
"""Accents without a letter, as in the normal form of an acute accent that is written for an apostrophe."""
_POINTED = ("ARABIC", "HEBREW", "SYRIAC")
"""Scripts whose nonspacing marks are optional, by the first word of their characters' names."""
_LETTER_APOSTROPHES = range(0x02B9, 0x02C0)
_TATWEEL = {0x0640, 0x07FA}
_WITHOUT_BLANKS = (
    "\u0e00-\u109f"  # Thai, Lao, Tibetan, Myanmar
    "\u1780-\u17ff\u1950-\u1aaf\u1b00-\u1b7f"  # Khmer, Tai Le, New Tai Lue, Tai Tham, Balinese
    "\u2e80-\u2fff\u3005-\u303f\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\ua4cf"  # Japanese, Chinese, Yi
    "\ua980-\ua9ff\uaa60-\uaadf\uf900-\ufaff\U00016fe0-\U00018cff\U0001aff0-\U0001b2ff\U00020000-\U0003ffff"
)
_NEEDLESS_BLANK = re.compile(f"(?<=[{_WITHOUT_BLANKS}]) | (?=[{_WITHOUT_BLANKS}])")
_LETTER_WITHOUT_BLANKS = re.compile(f"[{_WITHOUT_BLANKS}]")


class _Table(dict[int, int | str | None]):
    """Table of `str.translate` whose entries are computed on first use."""

    def __init__(self, entry: Callable[[str], int | str | None]) -> None:
        super().__init__()
        self._entry = entry

    def __missing__(self, code: int) -> int | str | None:
        self[code] = entry = self._entry(chr(code))
        return entry


def _is_invisible(character: str) -> bool:
    category = unicodedata.category(character)
    return (category in {"Cc", "Cf"} and not character.isspace()) or _IGNORABLE.match(character) is not None


def _visible(character: str) -> int | None:
    """Return the code of a character, or None to remove it."""
    return None if _is_invisible(character) else ord(character)


def _letter(character: str) -> int | str | None:
    """Return a character of a word, a blank between words, or None for a character that is left out of a word."""
    code, category = ord(character), unicodedata.category(character)
    if character == "ı":
        return "i"
    if category == "Nd":
        return str(unicodedata.decimal(character))
    optional = category == "Mn" and unicodedata.name(character, "").split(" ", 1)[0] in _POINTED
    if optional or category == "Me" or code in _TATWEEL or _is_invisible(character):
        return None
    return code if category[0] in "LMN" and code not in _LETTER_APOSTROPHES else " "


_VISIBLE, _LETTERS = _Table(_visible), _Table(_letter)


def match_key(text: str) -> str:
    r"""Return the normal form of a text; requests with the same key are the same request.

    >>> match_key("How do I  bake BREAD?") == match_key("how do I ba\u00adke \u200bbread")
    True
    >>> match_key("कि") == match_key("का")
    False

    Texts without a letter or digit are compared by their visible characters.
    """
    folded = text.casefold() if text.isascii() else _fold(text)
    words = folded.translate(_LETTERS)
    if not words.isascii():
        words = _NEEDLESS_BLANK.sub("", " ".join(_LONE_ACCENT.sub("", words).split()))
    return " ".join(words.split()) or folded.strip()


def writes_blanks(word: str) -> bool:
    """Return whether no letter of a word is of a script without blanks between words.

    >>> writes_blanks("bread"), writes_blanks("面包")
    (True, False)
    """
    return _LETTER_WITHOUT_BLANKS.search(word) is None


def request_turns(messages: Sequence[Message]) -> RequestTurns:
    """Return the request at the end of a conversation: its user turns, or the text if there is one turn.

    >>> request_turns([Message(role="system", content="Be brief."), Message(role="user", content="Why?")])
    'Why?'
    """
    turns = tuple(message.content for message in messages if message.role == "user")
    return turns[0] if len(turns) == 1 else turns


def request_key(request: RequestTurns) -> RequestTurns:
    """Return the normal form of a request, turn by turn."""
    return match_key(request) if isinstance(request, str) else tuple(map(match_key, request))


def conversation_keys(messages: Sequence[Message]) -> set[RequestTurns]:
    """Return the normal forms of the requests in a conversation: each user turn, and each with all turns before it."""
    keys = [match_key(message.content) for message in messages if message.role == "user"]
    return {*keys, *(tuple(keys[:end]) for end in range(2, len(keys) + 1))}


def _fold(text: str) -> str:
    """Return the text without invisible characters and case, as in Unicode's NFKC_Casefold."""
    visible = _BROKEN_WORD.sub("", text).translate(_VISIBLE)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", visible).casefold()).casefold()
    return unicodedata.normalize("NFKC", folded.replace("i\u0307", "i"))
