"""Literals of code and data: whether a quotation mark opens one, and whether its text is the reply's own.

A mark opens a literal after an opening bracket, an assignment, a concatenation, a key, a cell of a table, the mark of a
list item, and so on. Its text is somebody else's if the line is a log, if it compares or searches (an assertion, a
condition), or if its name says so (`expected`, `BANNED_PHRASES`). The condition of CodeAttack, `if task == "…"`, is
completed by the model, so its literal is the reply's own.
"""

from __future__ import annotations

import re

_LOG = re.compile(r"[\W_]{0,4}(?:\d{4}-\d\d-\d\d|\d\d:\d\d:\d\d|\{\W{0,2}(?:ts|time|timestamp|level)\W)")
_TESTED = re.compile(
    r"[\s>}]{0,80}(?:(?:self|this|assertions?|[tb])\W{1,3})?"
    r"(?:assert\w{0,40}(?! (?:false|0),)|expect\w{0,40}|(?:if|elif|while|case|when)\b)"
)
_BODY = re.compile(r"[:{)] {1,4}(?!in\b|and\b|or\b)[a-z_][\w.]{0,60}(?:\(|(?: ?\+?=)? ?)$")  # of a one-line `if`
_OWN_CONDITION = re.compile(r"\b(?:\w{0,20}task|__name__|query|goal|action|step\w{0,4})\)? ?[=!]=?=$")
_COMPARES = re.compile(
    r"(?:assert\w{0,40}|expect\w{0,20}|to_?(?:be|equal|match|contain)\w{0,20}|(?:starts|ends)_?with\w{0,10}|contains?\w{0,10}"
    r"|includes?|is_?equal\w{0,10}|(?:full)?match\w{0,4}|find\w{0,6}|re\.compile|regexp?|index|index_?of|count|search|replace"
    r"|split|equals?|has|any|all|filter)!?$"
)
_OTHERS = re.compile(
    r"\b(?:\w{0,30}_)?(?:refusals?|refused|refusing|expect(?:ed|s)?|want|banned|blocked|blacklist|patterns?|keywords|phrases"
    r"|prefixes|triggers|chosen|rejected|gold|fallback|utter|apolog(?:y|ies))(?:_\w{0,40})?(?: ?: ?[\w<>\[\]&']{1,30})?"
    r"[\"'\s]{0,3}(?:=|:=|:|=>)[\s\[({]{0,4}(?:vec!\[)?(?:[\"'][^\"'\n]{0,200}[\"'], ?){0,20}$"
)
_KEYWORD = re.compile(
    r"(?:^|[;:{}>]|\bthen)[\s#/*]{0,80}(?:return|yield|print|puts|echo|say|throw|raise|output|select|write(?:-\w{4,6})?|printf|die|exit)$"
)
_ITEM = re.compile(r"[\s>]{0,40}(?:[-+*•]|\(?\w{1,3}[.)]){1,2}")
_KEY = re.compile(r" {2,40}[\w-]{1,40}:")
_OPENS_BRACKET = re.compile(r"(?:\S|(?:[=,(\[+:]|\breturn|\byield|\bvalues) )$")
_SERVICE = re.compile(
    r"(?:(?:i'm |i am |we're |we are |\w{4,7}, )?(?:\w{2,8} )?sorry[,.;:!]? (?:but )?(?:you(?:r|'re|'ve)?\b(?! request)"
    r"|(?:this|that|the) (?!is\b|would|goes|request|task|topic|content|question|information|answer|step|instruct)\w+"
    r"|there\b|no (?!can do)\w+)"
    r"|(?:[a-z' ]{0,20}sorry[,.;:!]? (?:but )?)?(?:i|we) (?:can(?:not|'t| not)|(?:could|do|did)(?:n't| not)) "
    r"(?:find|open|read|load|connect|parse|understand|know|hear|see|recogni\w+|locate|reach|save|sell|refund|deliver)\b)"
)
_ENCLOSING = re.compile(r"([^\n]{0,200}[\[({])[ ]{0,8}\n(?:[ ]{0,40}[\"'][^\n]{0,200}\n){0,20}$")
_ENCLOSED = 800  # characters before a line of elements that are searched for the name of their list
_OPENERS = ("<<", "=>", "->", "<-", "#", "//", "--", "assert false,")
_MOST_ELEMENTS = 50
_MARKS = "\"'`"


def is_tested(before: str, opener: str) -> bool:
    """Return whether a line up to a quotation mark compares the literal, is a log, or names it as somebody else's.

    `opener` is the line without the prefix of the literal and the blanks before it.

    >>> line = 'if reply == '
    >>> is_tested(line, line.strip()), is_tested("steps = ", "steps ="), is_tested("expected = ", "expected =")
    (True, False, True)
    """
    if _LOG.match(before):
        return True
    if _OWN_CONDITION.search(opener[-60:]):
        return False
    if opener.endswith(("==", "!=")) or _OTHERS.search(opener[-400:]):
        return True
    return bool(_TESTED.match(before) and not _BODY.search(before[-200:]))


def opens_literal(before: str, opener: str) -> bool:
    """Return whether a quotation mark after this start of a line opens a literal of code, data or a table.

    >>> opens_literal('a.append(', 'a.append('), opens_literal('He said, ', 'He said,')
    (True, False)
    """
    opener = _without_elements(opener)
    last = opener[-1:]
    if last == ",":
        return before.endswith(",") or opener[:-1].rstrip()[-1:] in ("]", "}") or _is_in_call(opener)
    if last == ":":
        return _is_key(opener)
    if last == "(":
        return len(opener) == 1 or _is_call(opener[:-1])
    is_operator = not last or last in "[{|+&=" or opener.endswith(_OPENERS)
    return is_operator or bool(_ITEM.fullmatch(opener) or _KEYWORD.search(opener[-160:]))


def is_message(text: str) -> bool:
    """Return whether a literal is the message of a program, about its user, a file or an order.

    >>> is_message("sorry, you are not allowed to view this page."), is_message("sorry, but i cannot assist with that.")
    (True, False)
    """
    return _SERVICE.match(text) is not None


def is_in_named_list(folded: str, start: int) -> bool:
    r"""Return whether the line that starts there has elements of a list whose name says that they are somebody else's.

    >>> text = 'BANNED_PHRASES = [\n    "sorry, but i cannot help",\n'.lower()
    >>> is_in_named_list(text, text.index("\n") + 1)
    True
    """
    found = _ENCLOSING.search(folded, max(0, start - _ENCLOSED), start)
    return found is not None and _OTHERS.search(found[1]) is not None


def _is_key(opener: str) -> bool:
    """Return whether a line up to a colon ends with a key: an indented name, or a literal or number after a bracket."""
    name = opener[:-1].rstrip()
    mark = name[-1:]
    if mark.isdigit():
        return name.rstrip("0123456789").rstrip()[-1:] in ("{", ",")
    if not mark or mark not in _MARKS:
        return _KEY.fullmatch(opener) is not None
    before = name[: max(0, name.rfind(mark, 0, len(name) - 1))].rstrip()
    return not before or before[-1] in "{,([" + _MARKS


def _without_elements(opener: str) -> str:
    """Return the start of a line without the literals at its end, which are elements before this one.

    >>> _without_elements('steps = ["a", "b",'), _without_elements("The replies were 'a',")
    ('steps = [', 'The replies were')
    """
    for _ in range(_MOST_ELEMENTS):
        before = opener[:-1].rstrip() if opener.endswith(",") else opener
        mark = before[-1:]
        start = before.rfind(mark, 0, len(before) - 1) if mark and mark in _MARKS else -1
        if start < 0:
            break
        if not opener.endswith(",") and not before[:start].strip():
            break  # two quotations in a row
        opener = before[:start].rstrip()
    return opener


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
    return _OPENS_BRACKET.search(name[-20:]) is not None and not _COMPARES.search(name[-60:])
