r"""Parsing of the options of a question, and of the option that a reply chooses.

The options are parsed from the request, one per line: `-(A) text`, `(A) text`, `A. text` or `A) text`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_OPTION = re.compile(r"^[ \t\-*]{0,4}(?:\(([A-Z])\)|([A-Z])[.):])[ \t]*(\S.*)$", re.M)
_MARKUP = re.compile(r"(?:\\(?:boxed|text|textbf|mathrm|mathbf)(?=\{)|</?[a-z_]{1,20}>|[*_`${} ]|\\[()\[\]])+", re.I)
_THOUGHT = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.S | re.I)
_LONE = re.compile(r"\W{0,6}([a-z])(\W{0,6}\Z)", re.I)
_LOWER_LEAD = re.compile(r"\W{0,4}\(([a-z])\)|\W{0,4}([b-z])[).] ")
_LEADS = re.compile(r"(?:\W{0,4}(?:(?i:option|answer|choice) )?)\W{0,4}([A-Z])(?:\)|\.|:|\W{0,4}$)")
_REJECTED = re.compile(
    r"[^.\n]{0,200}?\b(?:is|are|isn't|aren't)\b(?: not|(?<=n't)| (?:clearly |also )?(?:incorrect|wrong|false))", re.I
)
_WORDS = r"(?:(?!not\b|never\b|neither\b)[a-z']{1,20},? ){0,4}"  # between "is" and the letter
_STATED = re.compile(
    r"\b(?i:option|answer|choice|response|statement|correct|best|right)\b[^.\n(]{0,60}?"
    r"(?:\b(?i:is|would be)|[\"']?:| [-–](?= ))"
    rf"\s{{0,3}}:?\s{{0,3}}(?:{_WORDS}[-–\"']{{0,2}}\s?\(([A-Z])\)"
    r"|[-–\"']{0,2}\s?(?:(?i:option|answer|choice)\s)?[\"']{0,2}\(?([A-Z])\b(?!'?\w))"
)
_CONCLUDED = re.compile(
    r"(?:\b(?i:(?:I|we)(?:'d| would| will|'ll)? (?:choose|pick|select|go with|say)|I(?:'m| am) going with|select|choose"
    r"|go with|must be|has to be|that leaves|leaves|leaving|(?:it is|it's)(?: probably| most likely| likely)?"
    r"|therefore,?|thus,?|so,?|corresponds to)|(?:^|\n)\s*✅)[\s:]{0,4}"
    r"(?:(?i:option|answer|choice|letter)\s)?[\"']?"
    r"(?:\(([A-Z])\)|([A-Z])(?=[).,;:\"']|\s*$|\s(?i:because|since|as|is)\b))"
)
_CORRECTION = re.compile(
    r"\b(?:wait|actually|sorry|my mistake|made a mistake|on second thought|correction|let me re)", re.I
)
_OR = re.compile(r"\)?[^.\n()]{0,60}?\b(?:or|and)\b\s(?:option )?(?:\(([A-Z])\)|([A-Z])(?=[.,)]|\s*$))")
_ORDINAL = re.compile(
    r"\b(first|second|third|fourth|last) (?:option|choice|answer|one)\b|\b(?:option|choice|answer) ([1-9])\b", re.I
)
_PLACES = {"first": 0, "second": 1, "third": 2, "fourth": 3, "last": -1}
_NO = re.compile(r"\b(?:incorrect|wrong|false|untrue|not (?:correct|true|right|the))\b|n't\b|❌|✗", re.I)
_BEST = re.compile(r"\bthe (?:correct|right|best) (?:option|answer|choice)\b|✅", re.I)
_YES = re.compile(r"\b(?:correct|true|right)\b|✅|✓", re.I)
_LEAVES = re.compile(r"\b(?:that leaves|leaves|leaving|must be|by elimination)\b", re.I)
_OTHER = re.compile(r"\)?\s(?:or|and)\s(?:option\s)?(?:\(([A-Z])\)|([A-Z])(?=[.,)]|\s*$))")
_THEREFORE = re.compile(r"\s*(?:so|therefore|thus|hence)\b", re.I)
_DISCUSSED = 2
_TERSE = 40  # characters beside the options in a reply that only lists them
_PRAISE = re.compile(
    r"\bis (?:thus |therefore |indeed )?(?:the )?(?:only |most |single )?(?:correct|best|right|true\b|answer\b)", re.I
)
_ITEM = re.compile(r"^[ \t\-*]{0,4}(?:(?i:option) )?\(?([A-Z])[).:]", re.M)
_EITHER = re.compile(r"\W{0,4}(?i:either )?\(?[A-Z]\)? (?:or|and) \(?[A-Z]\)?\W{0,4}")
_SUBORDINATE = re.compile(
    r",? (?:although|though|while|whereas|followed by|but not|rather than|instead of|unlike|as opposed to|not)\b|[:;]",
    re.I,
)
_TEXT_STATED = re.compile(r"\b(?:answer|option|choice)\b[^.\n(]{0,40}?(?:\bis|:)\W{0,4}", re.I)
_MENTIONED = re.compile(
    r"\b([A-Z])\)|\b[Oo]ption ([A-Z])\b|\b[Ll]etter ([A-Z])\b"
    r"|(?:(?<=\. )|(?<=\n)|(?<=, )|\A)([A-Z])(?= is (?:the|correct|not|right|true)\b)"
)
_SEVERAL = re.compile(
    r"\bare (?:both |all |the |also )?(?:most )?(?:correct|right|best|possible)\b|\b(?:options|answers|choices) are\b"
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

    1. the reply is one letter; 2. it begins with a letter, which it does not reject or correct to state another one,
    and which does not begin a list of the options; a list without a judgement, a second letter ("A or B") or the text
    of another option is no choice; 3. it states one ("the answer is (B)", also by its text; the last match); 4. it
    calls several options correct at once, which is no choice; 5. it calls one option correct, or concludes with one
    ("so B"); 6. it mentions the letter of one only; 7. it has the text of one only; 8. it names a place ("the third
    option"); 9. it mentions the letter first; 10. its first main clause with the text of an option has that of one.

    >>> parse_choice("A dog barks, so it is a dog.", {"A": "a cat", "B": "a dog"})
    Choice(letter='B', rule='text')
    """
    plain = _MARKUP.sub(" ", _THOUGHT.sub("", text)).strip()
    return next(_choices(plain, options), Choice(None, "none"))


def _choices(text: str, options: dict[str, str]) -> Iterator[Choice]:
    """Yield the choice of every rule that matches, in order of priority."""
    for pattern in (_LONE, _LOWER_LEAD):
        if (short := pattern.match(text)) and (letter := (short[1] or short[2]).upper()) in options:
            yield Choice(letter, "leads")
    stated = _stated(_STATED, text, options)
    concluded = _stated(_CONCLUDED, text, options)
    if (lead := _LEADS.match(text)) and lead[1] in options:
        yield from _lead(text, lead, stated or concluded, options)
    elif stated:
        yield concluded if concluded and _CORRECTION.search(text) else stated
    elif letter := _stated_text(text, options):
        yield Choice(letter, "stated")
    if _names_several(text, options):
        yield Choice(None, "several")
    if letter := _praised(text, options):
        yield Choice(letter, "praised")
    if concluded:
        yield concluded
    yield from _by_mention(text, options)


def _by_mention(text: str, options: dict[str, str]) -> Iterator[Choice]:
    """Yield the choices of a reply that mentions letters, texts or places of options without stating one."""
    mentioned = _mentioned(text, options)
    if len(set(mentioned)) == 1:
        yield Choice(mentioned[0], "only one mentioned")
    if letter := _by_text(text, options):
        yield Choice(letter, "text")
    if place := _ORDINAL.search(text):
        index = int(place[2]) - 1 if place[2] else _PLACES[place[1].lower()]
        if index < len(options):
            yield Choice([*options][index], "place")
    if mentioned:
        yield Choice(None, "several") if _EITHER.fullmatch(text) else Choice(mentioned[0], "first mentioned")
    for sentence in _SENTENCE.split(text):
        if letters := _with_text(sentence, options):
            clauses = (_with_text(clause, options) for clause in _SUBORDINATE.split(sentence))
            main = next((found for found in clauses if found), letters)
            yield Choice(main[0] if len(main) == 1 else None, "text" if len(main) == 1 else "several")
            return


def _lead(text: str, lead: re.Match[str], stated: Choice | None, options: dict[str, str]) -> Iterator[Choice]:
    """Yield the choice of a reply that begins with the letter of an option."""
    items = [letter for letter in _ITEM.findall(text) if letter in options]
    if len(set(items)) > 1:
        judged = _judged_items(text, options)
        if judged or stated:
            yield judged or stated or Choice(None, "several")
        if len(text) < _TERSE + sum(len(options[letter]) for letter in set(items)):
            yield Choice(None, "several")
    if (
        stated
        and stated.letter != lead[1]
        and (_REJECTED.match(text, lead.end()) or _CORRECTION.search(text, lead.end()) or _eliminates(text, options))
    ):
        yield stated
    after = lead.end() + len(text[lead.end() :]) - len(text[lead.end() :].lstrip())
    own = options[lead[1]]
    follows = text[after : after + len(own)].lower() == own.lower()
    other = (_OTHER if follows else _OR).match(text, after + len(own) if follows else lead.end() - 1)
    if other and (other[1] or other[2]) in options and (other[1] or other[2]) != lead[1] and len(text) < 200:
        yield Choice(None, "several")
    yield (
        Choice(None, "several")
        if _has_text_of_another(text, lead.end(), lead[1], options)
        else Choice(lead[1], "leads")
    )


def _eliminates(text: str, options: dict[str, str]) -> bool:
    """Return whether a reply discusses several options and concludes with one."""
    last = _SENTENCE.split(text.rstrip(" .!\n"))[-1]
    concludes = _LEAVES.search(text) or _THEREFORE.match(last)
    return bool(concludes) and len(set(_mentioned(text, options))) > _DISCUSSED


def _judged_items(text: str, options: dict[str, str]) -> Choice | None:
    """Return the only option that a list of the options calls the correct answer, or else correct."""
    lines = [(item[1], line) for line in text.split("\n") if (item := _ITEM.match(line)) and item[1] in options]
    for pattern in (_BEST, _YES):
        right = [letter for letter, line in lines if not _NO.search(line) and pattern.search(line)]
        if len(right) == 1:
            return Choice(right[0], "praised")
    return None


def _has_text_of_another(text: str, end: int, chosen: str, options: dict[str, str]) -> bool:
    """Return whether the text after a letter is exactly that of another option, and not its own."""
    after = _words(text[end : end + 2 * max(len(option) for option in options.values())].split("\n", maxsplit=1)[0])
    if after.startswith(_words(options[chosen])):
        return False
    return any(
        _words(option).strip() and after.startswith(_words(option))
        for letter, option in options.items()
        if letter != chosen
    )


def _stated(pattern: re.Pattern[str], text: str, options: dict[str, str]) -> Choice | None:
    """Return the option that a reply states last; no option if it states two with "or", or one with another's text."""
    found = [match for match in pattern.finditer(text) if (match[1] or match[2]) in options]
    if not found:
        return None
    letter, end = found[-1][1] or found[-1][2], found[-1].end()
    other = _OTHER.match(text, end)
    if (other and (other[1] or other[2]) in options) or _has_text_of_another(text, end, letter, options):
        return Choice(None, "several")
    return Choice(letter, "stated")


def _stated_text(text: str, options: dict[str, str]) -> str | None:
    """Return the option whose text follows the last "answer is", the longest one."""
    for match in reversed(list(_TEXT_STATED.finditer(text))):
        after = _words(text[match.end() : match.end() + 2 * max(map(len, options.values()), default=0)])
        found = [
            letter
            for letter, option in options.items()
            if (words := _words(option)).strip() and after.startswith(words)
        ]
        if found:
            return max(found, key=lambda letter: len(options[letter]))
    return None


def _mentioned(text: str, options: dict[str, str]) -> list[str]:
    """Return the letters of options that a text mentions, in order."""
    return [letter for found in _MENTIONED.findall(text) if (letter := "".join(found)) in options]


def _clause(text: str, start: int, end: int) -> tuple[str, str]:
    """Return the text of a sentence before and after a match."""
    before = re.split(r"[.\n]", text[max(0, start - _CLAUSE) : start])[-1]
    return before, re.split(r"[.\n]", text[end : end + _CLAUSE])[0]


def _praised(text: str, options: dict[str, str]) -> str | None:
    """Return the last option that a sentence calls correct: the one that is named nearest before."""
    found: str | None = None
    for match in _PRAISE.finditer(text):
        before = _clause(text, match.start(), match.end())[0]
        if letters := _mentioned(before, options) or [letter for letter in options if before.strip() == letter]:
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
