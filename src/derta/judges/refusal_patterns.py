"""Refusal patterns of an assistant in fifteen languages.

The patterns of a language are in `texts/refusal_<code>.txt`, a file of regular expressions, one per line, in sections:

- `[words]`: `name = pattern`, which replaces `<name>` in the lines after it;
- `[gate]`: words without punctuation; if there are any, every strong pattern and every refusal contains one, and texts
  without them are not searched;
- `[trigger]`: plain strings; every strong pattern and every refusal contains one, so that only the text around them is
  searched; `not: do not|am not` are triggers with a string in common, and `words: against` is a whole word between
  blanks;
- `[strong]`: sentences of an assistant about a request; valid anywhere except in a quotation;
- `[refusal]`: a refusal to help; not valid in a quotation, nor in a letter that the reply drafts;
- `[opening]`: disapproval or correction in place of an answer; valid only in the first sentence of an answer;
- `[denial]`: a denied ability, whatever it is; valid only near the start of the first sentence, if it has no refusal;
- `[deflection]`: a rule, another topic, or other help in place of an answer; valid only in the first sentence of a
  reply without an answer;
- `[whole]`: a refusal that is all of a reply;
- `[continuation]`: the rest of a refusal whose first word is in the prefill;
- `[preamble]`: a first sentence without content, after which the second counts as the first;
- `[not]`: false positives of a refusal at the same position; `[letter]`: a line that opens a letter;
- `[turn]`: announcement of an answer after a refusal;
- `[reversal]`: a turn after which few words are an answer;
- `[contrast]`: a word between a limit and an answer;
- `[disclaimer]`: a refusal that is none if an answer follows;
- `[moral]`: a moral statement, after which less content is an answer than after a refusal;
- `[limit]`: what an assistant does not know, think or sense, which is no refusal if an answer follows;
- `[aside]`: a sentence that matches has no requested content (reasons, warnings, redirection, offers).

Every repetition in the patterns is bounded, so matching takes time linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from derta.judges.languages import LANGUAGES

SECTIONS = (
    "words", "gate", "trigger", "strong", "refusal", "opening", "denial", "deflection", "whole", "continuation",
    "preamble", "not", "letter", "turn", "reversal", "contrast", "disclaimer", "moral", "limit", "aside",
)  # fmt: skip
_START = r"(?<![a-z])"  # not in a word; a match may start right after a quotation mark
_NAME = re.compile(r"<(\w+)>")


def parse_patterns(source: str) -> dict[str, list[str]]:
    r"""Parse one language file: return its patterns by section, with the words replaced.

    >>> parse_patterns("[words]\nno = cannot|won't\n[strong]\ni (?:<no>) help")["strong"]
    ["i (?:cannot|won't) help"]
    """
    words: dict[str, str] = {}
    patterns: dict[str, list[str]] = {name: [] for name in SECTIONS}
    section = ""
    for line in source.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("[") and line[1:-1] in SECTIONS:
            section = line[1:-1]
        elif section == "words":
            name, _, pattern = line.partition(" = ")
            words[name] = _NAME.sub(lambda match: words[match[1]], pattern)
        else:
            patterns[section].append(_NAME.sub(lambda match: words[match[1]], line))
    return patterns


@cache
def pattern_lists(code: str) -> Mapping[str, tuple[str, ...]]:
    """Load a language's patterns by section (cached)."""
    source = (files("derta.judges") / "texts" / f"refusal_{code}.txt").read_text("utf-8")
    return {name: tuple(patterns) for name, patterns in parse_patterns(source).items()}


@cache
def compiled(section: str, codes: tuple[str, ...] = ("en",)) -> re.Pattern[str]:
    """Return the patterns of a section in some languages as one (cached); a match does not start inside a word."""
    patterns = [pattern for code in codes for pattern in pattern_lists(code)[section]]
    return re.compile(_START + "(?:" + ("|".join(patterns) or "(?!)") + ")")


@cache
def refusal_pattern(code: str, *, anywhere: bool = False) -> re.Pattern[str]:
    """Return the refusals and strong patterns of a language as one (cached); `anywhere`: also inside words."""
    lists = pattern_lists(code)
    start = "" if anywhere else _START
    return re.compile(f"{start}(?:{'|'.join((*lists['refusal'], *lists['strong']))})")


@cache
def gate_words(code: str) -> frozenset[str]:
    """Return the words without which a text has no refusal in a language (cached)."""
    return frozenset(pattern_lists(code)["gate"])


@cache
def all_gate_words() -> frozenset[str]:
    """Return the gate words of all languages (cached)."""
    return frozenset(word for code in LANGUAGES for word in gate_words(code))


@cache
def trigger_lists(code: str) -> tuple[frozenset[str], list[tuple[str, list[str]]]]:
    """Return the triggers of a language: the words, and the others by the string that they have in common (cached)."""
    lines = [line.partition(": ") for line in pattern_lists(code)["trigger"]]
    exact = {word for core, _, words in lines if core == "words" for word in words.split("|")}
    return frozenset(exact), [(core, (triggers or core).split("|")) for core, _, triggers in lines if core != "words"]
