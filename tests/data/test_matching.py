"""The normal form of requests: what is the same request in any script, and what is not."""

import time
import unicodedata
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.data.cleaning import clean_examples, clean_triples
from derta.data.matching import match_key
from derta.data.mixture import hold_out_requests
from derta.data.preferences import Preference, clean_preferences
from derta.data.unsafe import unsafe_pairs
from derta.records import Example, Message, Triple

FORMS = ("NFC", "NFD", "NFKC", "NFKD")
INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u180b\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202e\u2060\u2064\u2066\u2069"
    "\u206f\u3164\ufe00\ufe0e\ufe0f\ufeff\uffa0\ufff9\U0001d173\U000e0001\U000e0041\U000e0100\x00\x07\x1b\x7f\x80"
)
REQUESTS = (
    "How do I bake bread number 1?",
    "रोटी कैसे बनाते हैं?",
    "ฉันจะอบขนมปังได้อย่างไร",
    "كيف أخبز الخبز؟",
    "چگونه نان بپزم؟",
    "איך אופים לחם?",
    "Làm thế nào để nướng bánh mì?",
    "パンの焼き方は?",
    "如何烤面包?",
    "빵을 어떻게 굽나요?",
    "როგორ გამოვაცხო პური?",
    "Ekmek nasıl pişirilir?",
    "Як спекти хліб?",
    "ਰੋਟੀ ਕਿਵੇਂ ਬਣਾਈਏ?",
    "របៀបដុតនំប៉័ង",
)
requests = st.sampled_from(REQUESTS)
texts = st.one_of(
    requests, st.text(), st.text(alphabet=st.characters(codec="utf-8", categories=["L", "M", "Zs", "Cf"]))
)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("How do I bake?", "how do i  bake"),
        ("“Bake”—now!", "bake now"),
        ("Ｂａｋｅ", "bake"),
        ("烤面包？", "烤面包"),
        ("ba\u00adke the bread", "bake the bread"),
        ("ba\u200bke the \u2060bread\ufeff", "bake the bread"),
        ("ba\u00ad\n    ke the bread", "bake the bread"),
        ("bake\nthe\u00a0bread", "bake the bread"),
        ("\u202ebake\u202c", "bake"),
        ("1\ufe0f\u20e3 loaf", "1 loaf"),
        ("don\u2019t", "don't"),
        ("don\u02bct", "don't"),
        ("don\u00b4t", "don't"),
        ("ﬁne STRASSE", "fine straße"),
        ("İSTANBUL ISPARTA", "istanbul ısparta"),
        ("ΟΔΟΣ", "οδος"),
        ("क्\u200dष", "क्ष"),
        ("می\u200cخواهم", "میخواهم"),
        ("كَيْفَ", "كيف"),
        ("كـــيف", "كيف"),
        ("שָׁלוֹם", "שלום"),
        ("٣ ३ 3", "3 3 3"),
        ("กิน\u200bข้าว", "กิน ข้าว"),
        ("使用 Python 的", "使用Python的"),
        ("パンの 焼き方", "ﾊﾟﾝの焼き方"),
    ],
)
def test_case_spacing_punctuation_and_invisible_characters_make_no_other_request(text: str, same: str) -> None:
    assert match_key(text) == match_key(same)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("कि", "का"),  # ki, ka
        ("ตา", "ตี"),  # eye, to hit
        ("ma", "má"),
        ("mà", "má"),
        ("බල", "බලා"),
        ("to get her", "together"),
        ("?", "!"),
        ("빵을", "빵"),
    ],
)
def test_marks_are_letters_and_blanks_separate_words_where_the_script_has_them(text: str, other: str) -> None:
    assert match_key(text) != match_key(other)


@given(requests, st.data())
def test_invisible_characters_anywhere_in_a_request_of_any_script_make_no_other_request(
    request: str, data: st.DataObject
) -> None:
    changed = list(request)
    for _ in range(data.draw(st.integers(1, 4))):
        changed.insert(data.draw(st.integers(0, len(changed))), data.draw(st.sampled_from(INVISIBLE)))
    assert match_key("".join(changed)) == match_key(request)


@given(texts, st.sampled_from(FORMS))
def test_the_unicode_form_of_a_text_does_not_matter(text: str, form: str) -> None:
    assert match_key(unicodedata.normalize(form, text)) == match_key(text)


@given(texts)
def test_the_key_of_a_key_is_the_key(text: str) -> None:
    assert match_key(match_key(text)) == match_key(text)


@given(texts, st.sampled_from([" ", "  \n", "\u3000", "... ", " — "]))
def test_spacing_and_punctuation_around_a_text_do_not_matter(text: str, around: str) -> None:
    if any(character.isalnum() for character in text):
        assert match_key(around + text + around) == match_key(text)


def test_the_requests_of_all_scripts_stay_apart() -> None:
    assert len({match_key(request) for request in REQUESTS}) == len(REQUESTS)


def test_every_character_has_one_key_in_all_unicode_forms_and_cases() -> None:
    def forms(text: str) -> list[str]:
        return [*(unicodedata.normalize(form, text) for form in FORMS), text.casefold(), text.upper()]

    wrong: list[str] = []
    for code in (*range(0xD800), *range(0xE000, 0x32000), *range(0xE0000, 0xE1000)):  # all that are assigned
        if any(other != chr(code) for other in forms(chr(code))):
            text = f"a{chr(code)}b"
            key = match_key(text)
            wrong += [f"{code:04x}" for other in (*forms(text), key) if match_key(other) != key]
    assert wrong == []


@pytest.mark.parametrize(
    "unit", ["\u00ad", "\u00ad ", "\u00ad\n ", "\u0301", " \u0301", "a\u0301\u0327", "ก ", "\u200b", "\ud800", "a?"]
)
def test_a_hostile_text_takes_linear_time(unit: str) -> None:
    start = time.process_time()
    match_key(unit * (100_000 // len(unit)))
    assert time.process_time() - start < 2


def test_a_hidden_request_is_found_wherever_requests_are_compared() -> None:
    held, hidden = "रोटी कैसे बनाते हैं?", "\ufeffरो\u200bटी कै\u00adसे बनाते हैं"
    triple = Triple(query=hidden, safe="Sorry, no.", harmful="Flour.")
    example = Example(messages=(Message(role="user", content=hidden), Message(role="assistant", content="Flour.")))
    pair = Preference(query=hidden, chosen="Yes.", rejected="No.")
    found = [
        clean_triples([triple], evaluation_requests=[held], policy="drop").dropped,
        clean_examples([example, Example(text=f"Recipes\n{hidden}")], evaluation_requests=[held]).dropped,
        clean_preferences([pair], evaluation_requests=[held], harmful=[]).dropped,
        unsafe_pairs([triple], evaluation_requests=[held]).dropped,
    ]
    assert [dict(counts) for counts in found] == [{"in_evaluation": n} for n in (1, 2, 1, 1)]


def test_a_request_is_held_out_with_all_of_its_spellings() -> None:
    spellings = ["How do I bake bread?", "how do I ba\u00adke bread", "HOW DO I BAKE\u200b BREAD"]
    triples = [Triple(query=query, safe="Sorry, no.", harmful=f"Flour {i}.") for i, query in enumerate(spellings)]
    held_out = hold_out_requests(triples, 1, rng=Random(0))
    assert (held_out.triples, [request.text for request in held_out.requests]) == ([], spellings[:1])
