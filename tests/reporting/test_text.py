import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from derta.reporting.text import cut, escape_hidden, percent, shown


@given(st.text(st.characters(codec=None)))
def test_no_character_that_hides_or_reorders_survives(text):
    kept = {"\n", "\t", "\u200c", "\u200d"}
    bad = [c for c in escape_hidden(text) if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} and c not in kept]
    bidi = [
        c
        for c in escape_hidden(text)
        if unicodedata.bidirectional(c) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI"}
    ]
    assert not bad
    assert not bidi
    escape_hidden(text).encode("utf-8")


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_ordinary_text_is_left_alone(text):
    assert escape_hidden(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a\x00b", "a⟨U+0000⟩b"), ("a\ud800", "a⟨U+D800⟩"), ("a\r\nb\rc", "a\nb⟨U+000D⟩c"), ("\u2066x", "⟨U+2066⟩x")],
)
def test_hidden_characters_are_named(text, expected):
    assert escape_hidden(text) == expected


def test_markup_of_our_own_and_numbers_pass():
    assert shown(Markup("<b>\u202e</b>")) == Markup("<b>\u202e</b>")
    assert shown(3) == 3


@given(st.text(), st.integers(0, 50))
def test_a_cut_accounts_for_every_character(text, limit):
    part = cut(text, limit)
    assert len(part.text) + part.left_out == len(text)
    assert text.startswith(part.text)


def test_nothing_is_a_dash_and_zero_is_zero():
    assert (percent(None), percent(0.0)) == ("–", "0.0")
