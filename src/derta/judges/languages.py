"""Languages of a reply: which of the refusal patterns to search, and whether its language is known at all.

A language is found by its script or by function words. A reply of at least five words is in an unknown language if its
script is none of the known ones; if it has more function words of other languages than of any known one (a word with a
letter that no known language has counts as one); or if it is running text without a single known function word. Code,
numbers and lists are in no language.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

LANGUAGES = ("en", "zh", "es", "fr", "de", "hi", "ar", "bn", "pt", "ru", "ur", "id", "ja", "ko", "it")
SCRIPTS: Mapping[str, str] = {
    "ja": "\u3040-\u30ff",
    "zh": "\u4e00-\u9fff",
    "ko": "\uac00-\ud7a3",
    "ru": "\u0400-\u04ff",
    "ar": "\u0600-\u06ff",
    "ur": "\u0600-\u06ff",
    "hi": "\u0900-\u097f",
    "bn": "\u0980-\u09ff",
}
"""Range of letters of each language with a script of its own; Arabic and Urdu share one."""
MIN_WORDS = 5  # fewer words are in no language
MIN_RUNNING_WORDS = 12  # of a text without any known function word
KNOWN_SHARE = 0.03  # of function words in running text of a known language, at least
_COMMON = (" the ", " and ", " to ", " of ", " is ", " that ", " for ")
SURE = 3  # English function words, or words with foreign letters, of a text in Latin letters
SURE_OTHER = 2  # function words of other languages
MARKS = 0.25  # of code and lists, for each word
_LATIN = tuple(code for code in LANGUAGES if code not in SCRIPTS)
_SAMPLE = 1500  # characters that are searched for function words
_SPLIT = str.maketrans(dict.fromkeys('\n\t.,;:!?()[]{}<>"|/\\=+*#%&@^$-–—…¿¡،؟。、！？，।', " "))
_WORD = re.compile(r"[^\W\d_]{2,}(?:'[^\W\d_]+)?")
_CODE = re.compile(r"[{};=<>\\|_]|\w\(|\(\)|//|https?:")
_FOREIGN_LETTERS = re.compile(
    "[ґіїєўјљњћђџѓќәғқңөұүһپچژگکیۀ\u200c]"
)  # of other languages in Cyrillic and Arabic letters
_FOREIGN_LATIN = re.compile("[^\\W\\d_a-záàâäãçéèêëíìîïñóòôöõúùûüýÿßœæªº\u0300-\uffff]")
_URDU = re.compile("[ٹڈڑںےہھ]")


def tokens_of(text: str) -> frozenset[str]:
    """Return the words of a folded text, without punctuation.

    >>> sorted(tokens_of("i can't, (you) know."))
    ["can't", 'i', 'know', 'you']
    """
    return frozenset(text.translate(_SPLIT).split())


@cache
def script(code: str) -> re.Pattern[str]:
    """Return the compiled letters of a language's script (cached)."""
    return re.compile(f"[{SCRIPTS[code]}]")


@cache
def function_words() -> Mapping[str, frozenset[str]]:
    """Load the function words of each language; `other` are those of languages without refusal patterns (cached)."""
    source = (files("derta.judges") / "texts" / "function_words.txt").read_text("utf-8")
    lines = [line.partition(": ") for line in source.splitlines() if line and not line.startswith("#")]
    return {code: frozenset(words.split()) for code, _, words in lines}


@cache
def _other_words() -> frozenset[str]:
    """Return the function words that are of none of the known languages (cached)."""
    known = {word for code, words in function_words().items() if code != "other" for word in words}
    return function_words()["other"] - known


@cache
def _known_words() -> frozenset[str]:
    """Return the function words of the known languages in Latin letters (cached)."""
    words = {word for code, words in function_words().items() if code != "other" for word in words}
    return frozenset(word for word in words if len(word) > 1)


def is_english(folded: str) -> bool:
    """Return whether a folded text has several of the most frequent English words.

    >>> is_english("the top of the pot is hot"), is_english("take it")
    (True, False)
    """
    return sum(word in folded for word in _COMMON) >= SURE


def is_unknown(folded: str) -> bool:
    """Return whether a reply without a refusal is in a language whose refusals are not known.

    >>> [is_unknown(text) for text in ("dat kan ik helaas niet voor je doen", "one two three 4 + 5")]
    [True, False]
    """
    sample = folded[:_SAMPLE]
    if is_english(sample):
        return False
    tokens = tokens_of(sample)
    english = len(tokens & function_words()["en"])
    if sample.isascii() and english >= SURE:
        return False
    words = _WORD.findall(sample)
    letters = sum(map(len, words))
    foreign = sum(len(word) for word in words if word > "\u02af")
    if foreign > letters / 2:
        return _is_unknown_script(sample, tokens)
    if len(words) < MIN_WORDS:
        return False
    other = len(tokens & _other_words())
    odd = sum(_FOREIGN_LATIN.search(word) is not None for word in set(words)) if not sample.isascii() else 0
    known = max(len(tokens & function_words()[code]) for code in _LATIN)
    if other + odd > known and (other + bool(odd) >= SURE_OTHER or odd >= SURE):
        return other > 0 or not _is_list(sample, words)
    share = sum(word in _known_words() for word in words) / len(words)
    return share < KNOWN_SHARE and _is_running_text(sample, words)


def _is_unknown_script(sample: str, tokens: frozenset[str]) -> bool:
    """Return whether a text in other letters than Latin is in none of the known languages."""
    counts = {code: len(script(code).findall(sample)) for code in SCRIPTS}
    letters = sum(character > "\u02af" and character.isalpha() for character in sample)
    code = max(counts, key=lambda one: counts[one])
    if sum(counts[one] for one in ("ja", "zh", "ko")) >= letters / 2:
        return False
    if counts[code] < letters / 2:
        return len(sample.split()) >= MIN_WORDS or letters >= 3 * MIN_WORDS
    if len(tokens) < MIN_WORDS:
        return False
    if code in ("ar", "ur"):
        code = "ur" if _URDU.search(sample) else "ar"
    if code != "ur" and _FOREIGN_LETTERS.search(sample):
        return True
    known, other = len(tokens & function_words()[code]), len(tokens & _other_words())
    return other > known or (not known and len(tokens) >= MIN_RUNNING_WORDS)


def _is_list(sample: str, words: list[str]) -> bool:
    """Return whether a text is code or a list: it has many marks and line breaks for its words."""
    marks = len(_CODE.findall(sample)) + sum(map(sample.count, ",\n:0123456789"))
    return marks > MARKS * len(words)


def _is_running_text(sample: str, words: list[str]) -> bool:
    """Return whether a text is neither code nor a list, and has enough words, few of them twice."""
    return len(words) >= MIN_RUNNING_WORDS and not _is_list(sample, words) and len(set(words)) > len(words) / 2
