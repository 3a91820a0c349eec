"""Detection of quotations: whether a position of a reply is in somebody else's speech.

`The guard answered: "Sorry, but I cannot help you."` is a quotation; `steps.append("Sorry, but I cannot help you.")` is
not, because the literal is the reply's output (see `derta.judges.literals`). Single marks are read like double ones,
apostrophes excepted.

Only the line of the position and the line before it are searched, and every pattern is anchored or bounded, so the time
is linear.
"""

from __future__ import annotations

import re

from derta.judges.literals import is_in_named_list, is_message, is_tested, opens_literal

_LINE = 1000  # characters before an index that are searched for an open quotation
_REST = 400  # characters after an index that are searched for its end
_BLANK = 100  # characters of white space before the first line, at most
_MARKS = "\"'`"
_LABEL_WORDS = 3  # of a speaker who opens the text
_CLOSES = frozenset(" \t\r\n.,;:!?)]}|>")  # a mark before one of these closes; before anything else it opens
_ENDS = (".", "!", "?", "_")
_PREFIX = re.compile(r"(?:(?<![^\W_])(?:[rbfuls]|rb|br|rf|fr|u8)|[@$]{1,2})$")  # of a string
_LABEL = re.compile(r"[\s>*#/-]{0,8}([\[(][^\n\"]{1,40}[\])]|[^\s\"][^\n\"]{0,40}):[\s\])*]{0,4}")
_VERBS = (
    r"said|says?|saying|repl(?:y|ie[sd]|ying)|answer(?:ed|s|ing)|ask(?:ed|s|ing)|told|tells|wrote|writes|add(?:ed|s)"
    r"|read|reads|shout(?:ed|s)|whisper(?:ed|s)|respond(?:ed|s|ing)|announced|explained|sigh(?:ed|s)|call(?:ed|s)|quote[sd]?"
    r"|spoke|speaks|word(?:s|ed)"
)
_SPEECH = re.compile(rf"\b(?:{_VERBS}|(?:say|tell|reply|answer)(?: \w{{1,20}}){{1,4}})$")
_SPEECH_ELSEWHERE = re.compile(  # verbs of speech of the other languages, before or after the speaker
    r"\b(?:sagte?|dit|dijo|dice|disse|diz|berkata|kata|сказала?|говорит|ответила?)\b|\bقالت?\b|کہا|कहा|বলল|说|說|道$|言"
)
_ASSISTANT_LINE = re.compile(
    r"(?:^|\n)[\s>*#/\[(🔒-]{0,8}(?:(?:ai|assistant|chatbot|model|\w{0,8}gpt)\b)[^\n:\"]{0,20}:"
)
_OWN_LABEL = re.compile(
    r"\b(?:ai|assistant|bot|chatbot|\w{0,8}gpt|mode|normal|llama|claude|gemini|mistral|qwen|model|me|step|answer|response|reply"
    r"|output|result|title|note|task|text|message|content|summary|code|completion|conclusion|final|return\w{0,2})\b|^\W*\d"
)
_CHAT = re.compile(
    r"\s{0,8}[\[(]?\d{1,2}:\d\d(?::\d\d)?(?: [ap]m)?[\])]?[\s-]{1,3}"
    r"<?(?!ai\b|assistant|bot\b|model)[a-z][\w .]{0,20}>?: "
)
_ABOUT = re.compile(r"\brefus(?:als?|ed|es|ing)\b")
_AFTER = re.compile(rf"(?: \w{{1,20}}){{0,3}} (?:{_VERBS})\b| (?:not )?in [a-z_]| ?[=!]==? ")
_DOCTEST = re.compile(r"(?:^|\n) {0,40}>>> [^\n]{1,200}\n {0,40}$")
_NEXT_TURN = re.compile(r"[\"']role[\"'] ?: ?[\"'](?:user|human)|\n *(?:user|human|customer)\b *:")


def is_quoted(folded: str, at: int) -> bool:
    """Return whether an index of a folded text is in a quotation, not in the reply's own words or literals.

    >>> is_quoted('he shook his head. "sorry, i cannot help you."', 20)
    True
    >>> is_quoted('print("sorry, i cannot help you.")', 7), is_quoted('"sorry, i cannot help you."', 1)
    (False, False)
    >>> is_quoted("'sorry, i can't help you,' said ann", 1), is_quoted("a = ['sorry, i can't help you.']", 6)
    (True, False)
    """
    start = max(folded.rfind("\n", 0, at) + 1, at - _LINE)
    mark = _open_mark(folded, start, at)
    if mark < 0:
        return _CHAT.match(folded, start, at) is not None
    before = folded[start:mark].replace("\\", "")
    if before.endswith(2 * folded[mark]):
        return False  # a docstring
    bare = _PREFIX.sub("", before)
    opener = bare.rstrip(_MARKS).rstrip(" *_")
    if is_tested(before, opener) or _is_speech(folded, mark, at) or _is_about(folded, start, mark, at):
        return True
    if opener and opens_literal(bare, opener):
        return is_message(folded[at : at + _REST]) or _is_said(folded[mark + 1 : at])
    if not opener:
        return is_in_named_list(folded, start) or _is_dialogue(folded, start, mark, at)
    return not _is_label(opener, folded, start) and not _is_unclosed(folded, mark, at, opener)


def _open_mark(folded: str, start: int, at: int) -> int:
    """Return the index of the quotation mark that is open at an index of a line, or -1.

    A single mark inside a word is an apostrophe, and one before a blank closes.
    """
    found = -1
    for mark in _MARKS:
        place = folded.rfind(mark, max(start, found), at)
        while place >= 0 and _is_apostrophe(folded, place):
            place = folded.rfind(mark, max(start, found), place)
        if place >= 0 and not _closes(folded, place, at):
            found = place
    return found


def _closes(folded: str, mark: int, at: int) -> bool:
    """Return whether a mark closes: before a blank or the like, or right after a word or the end of a sentence."""
    if mark + 1 < at and folded[mark + 1] in _CLOSES:
        return True
    before = folded[max(0, mark - 3) : mark]
    return (before[-1:].isalnum() and _PREFIX.search(before) is None) or before[-1:] in _ENDS


def _is_apostrophe(folded: str, index: int) -> bool:
    """Return whether a single mark is inside a word, and not after the prefix of a string."""
    if folded[index] == "'" and folded[index - 1 : index] == "\\":
        return True
    if folded[index] != "'" or not (folded[index - 1 : index].isalnum() and folded[index + 1 : index + 2].isalnum()):
        return False
    return _PREFIX.search(folded[max(0, index - 3) : index]) is None


def _end(folded: str, mark: int, at: int) -> int:
    """Return the index of the mark that closes a quotation, near an index in it, or -1."""
    end = folded.find(folded[mark], at, at + _REST)
    while end >= 0 and _is_apostrophe(folded, end):
        end = folded.find(folded[mark], end + 1, at + _REST)
    return end


def _is_speech(folded: str, mark: int, at: int) -> bool:
    """Return whether a quotation ends like speech before `said Ann`, or a transcript goes on after it."""
    end = _end(folded, mark, at)
    if end < 0:
        return False
    after = folded[end + 1 : end + 3]
    is_in_sentence = folded[end - 1] in ",!?" and after[:1] == " " and after[1:].isalpha()
    return is_in_sentence or _AFTER.match(folded, end + 1) is not None or _goes_on(folded, end)


def _goes_on(folded: str, end: int) -> bool:
    """Return whether a turn of the user follows a quotation: a transcript."""
    return _NEXT_TURN.search(folded, end, end + _REST // 2) is not None


def _is_dialogue(folded: str, start: int, mark: int, at: int) -> bool:
    """Return whether a line that starts with a quotation goes on in prose, after a line with one."""
    end = _end(folded, mark, at)
    line = folded[max(0, start - _REST) : start].rstrip().rpartition("\n")[2]
    return end >= 0 and '"' in line and folded[end + 1 : end + 2] == " " and folded[end + 2 : end + 3].isalpha()


def _is_about(folded: str, start: int, mark: int, at: int) -> bool:
    """Return whether the line speaks of refusals outside of the quotation, or follows the call of a doctest."""
    end = _end(folded, mark, at)
    if _ABOUT.search(folded, start, mark) or _DOCTEST.search(folded, max(0, start - _REST), mark):
        return True
    return end >= 0 and _ABOUT.search(folded, end, _line_end(folded, end)) is not None


def _line_end(folded: str, at: int) -> int:
    end = folded.find("\n", at, at + _REST)
    return at + _REST if end < 0 else end


def _is_said(before: str) -> bool:
    """Return whether the text of a literal before an index announces speech."""
    return _SPEECH.search(before.rstrip(" :,")) is not None


def _is_unclosed(folded: str, mark: int, at: int, opener: str) -> bool:
    """Return whether a mark is an apostrophe ('em), or one inside a sentence that is never closed.

    There the refusal breaks a quotation off.
    """
    if folded[mark] == "'":
        return _end(folded, mark, at) < 0
    until = len(folded) if folded[mark] == '"' else _line_end(folded, at)
    return opener[-1].isalnum() and folded.find(folded[mark], at, until) < 0 and _SPEECH.search(opener) is None


def _is_label(opener: str, folded: str, start: int) -> bool:
    """Return whether the line that starts there begins with a label of the reply's own.

    That is one in brackets, of an assistant or a part of an answer, of a speaker who opens the text, or of any speaker
    after a line of an assistant (a role-play of two answers).
    """
    label = _LABEL.fullmatch(opener)
    if label is None or _SPEECH.search(label[1].rstrip(" *_")) or _SPEECH_ELSEWHERE.search(label[1]):
        return False
    if label[1][0] in "[(" or _OWN_LABEL.search(label[1]):
        return True
    if len(label[1].split()) > _LABEL_WORDS:
        return False
    is_first = start <= _BLANK and not folded[:start].strip()
    return is_first or bool(_ASSISTANT_LINE.search(folded, max(0, start - _LINE), start))
