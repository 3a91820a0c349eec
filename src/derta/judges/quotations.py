"""Detection of quotations: whether a position of a reply is in somebody else's speech.

`The guard answered: "Sorry, but I cannot help you."` is a quotation; `steps.append("Sorry, but I cannot help you.")` is
not, because the literal is the reply's output. A quotation mark opens a literal after an opening bracket, an
assignment, a concatenation, a key of JSON, a cell of a Markdown table, and so on. Literals that are compared (in an
assertion, a condition or a search) and those of a log line are quotations.

Only the line of the position is searched, and every pattern is anchored or bounded, so the time is linear.
"""

from __future__ import annotations

import re

_LINE = 1000  # characters before an index that are searched for an open quotation
_BLANK = 100  # characters of white space before the first line, at most
_LABEL_WORDS = 3  # of a speaker who opens the text
_CLOSES = frozenset(" \t\r\n.,;:!?)]}|>")  # a mark before one of these closes; before anything else it opens
_PREFIX = re.compile(r"(?<![^\W_])(?:[rbfu]|rb|br|rf|fr)$")  # of a Python string
_LOG = re.compile(r"[\W_]{0,4}(?:\d{4}-\d\d-\d\d|\d\d:\d\d:\d\d|\{\W{0,2}(?:ts|time|timestamp|level)\W)")
_TESTED = re.compile(r"[\s>}]{0,80}(?:assert|expect|if|elif|while|case|when)\b")
_BODY = re.compile(r"[:{)] {1,4}(?!in\b|and\b|or\b)[a-z_][\w.]{0,60}(?:\(|(?: ?\+?=)? ?)$")  # of a one-line `if`
_COMPARES = re.compile(
    r"(?:assert\w{0,40}|expect\w{0,20}|to_?(?:be|equal|match|contain)\w{0,20}|(?:starts|ends)_?with|contains?|includes?"
    r"|(?:full)?match|find|index|index_?of|count|search|replace|split|equals?|has|any|all|filter)$"
)
_KEYWORD = re.compile(r"(?:^|[;:{}>]|\bthen)[\s#/*]{0,80}(?:return|yield|print|puts|echo|say|throw|raise|output)$")
_LABEL = re.compile(r"[\s>*#/-]{0,8}([\[(][^\n\"]{1,40}[\])]|[^\s\"][^\n\"]{0,40}):[\s\])*]{0,4}")
_SPEECH = re.compile(
    r"\b(?:said|says?|saying|repl(?:y|ie[sd]|ying)|answer(?:ed|s|ing)|ask(?:ed|s|ing)|told|tells|wrote|writes|add(?:ed|s)"
    r"|read|reads|shout(?:ed|s)|whisper(?:ed|s)|respond(?:ed|s|ing)|announced|explained|sigh(?:ed|s)|call(?:ed|s)|quote[sd]?"
    r"|spoke|speaks|word(?:s|ed))$"
)
_ASSISTANT_LINE = re.compile(
    r"(?:^|\n)[\s>*#/\[(🔒-]{0,8}(?:(?:ai|assistant|chatbot|model|\w{0,8}gpt)\b)[^\n:\"]{0,20}:"
)
_OWN_LABEL = re.compile(
    r"\b(?:ai|assistant|bot|chatbot|\w{0,8}gpt|mode|normal|llama|claude|gemini|mistral|qwen|model|me|step|answer|response|reply"
    r"|output|result|title|note|task|text|message|content|summary|code|completion|conclusion|final|return\w{0,2})\b|^\W*\d"
)


def is_quoted(folded: str, at: int) -> bool:
    """Return whether an index of a folded text is in a quotation, not in the reply's own words or literals.

    >>> is_quoted('he shook his head. "sorry, i cannot help you."', 20)
    True
    >>> is_quoted('print("sorry, i cannot help you.")', 7), is_quoted('"sorry, i cannot help you."', 1)
    (False, False)
    """
    start = max(folded.rfind("\n", 0, at) + 1, at - _LINE)
    mark = folded.rfind('"', start, at)
    if mark < 0 or (mark + 1 < at and folded[mark + 1] in _CLOSES):
        return False
    before = folded[start:mark].replace("\\", "")
    if before.endswith('""'):
        return False  # a docstring
    opener = _PREFIX.sub("", before).rstrip(" \t*_")
    if _is_other_speech(before, opener):
        return True
    return not (not opener or _opens_literal(opener) or _is_label(opener, folded, start))


def _is_other_speech(before: str, opener: str) -> bool:
    """Return whether the line is a log, or tests the literal."""
    if opener.endswith(("==", "!=")) or _LOG.match(before):
        return True
    return bool(_TESTED.match(before) and not _BODY.search(before[-_LINE // 5 :]))


def _opens_literal(opener: str) -> bool:
    """Return whether a quotation mark after this start of a line opens a literal of code, data or a table."""
    last = opener[-1]
    if last == "(":
        return len(opener) == 1 or (not opener[-2].isspace() and not _COMPARES.search(opener[-60:-1]))
    if last in "[{|+&=":
        return True
    if last == ",":
        return opener[:-1].rstrip()[-1:] in ('"', "'", "]", "}") or _is_in_call(opener)
    if last == ":":
        return opener[:-1].rstrip()[-1:] in ('"', "'", "`")
    return opener.endswith(("<<", "=>", "->", "#", "//", "--")) or bool(_KEYWORD.search(opener[-160:]))


def _is_in_call(opener: str) -> bool:
    """Return whether the line has an open bracket of code, one that does not follow a blank, and no comparing call."""
    depth = 0
    for index in range(len(opener) - 1, -1, -1):
        if opener[index] in ")]}":
            depth += 1
        elif opener[index] in "([{":
            if not depth:
                return opener[index] != "(" or not index or _is_call(opener[:index])
            depth -= 1
    return False


def _is_call(name: str) -> bool:
    return not name[-1].isspace() and not _COMPARES.search(name[-60:])


def _is_label(opener: str, folded: str, start: int) -> bool:
    """Return whether the line that starts there begins with a label of the reply's own.

    That is one in brackets, of an assistant or a part of an answer, of a speaker who opens the text, or of any speaker
    after a line of an assistant (a role-play of two answers).
    """
    label = _LABEL.fullmatch(opener)
    if label is None or _SPEECH.search(label[1].rstrip(" *_")):
        return False
    if label[1][0] in "[(" or _OWN_LABEL.search(label[1]):
        return True
    if len(label[1].split()) > _LABEL_WORDS:
        return False
    is_first = start <= _BLANK and not folded[:start].strip()
    return is_first or bool(_ASSISTANT_LINE.search(folded, max(0, start - _LINE), start))
