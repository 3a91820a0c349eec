import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from derta.reporting.text import escape_hidden, format_percent, truncate, visible_value


@given(st.text(st.characters(codec=None)))
def test_no_character_that_hides_or_reorders_survives(text):
    allowed = {"\n", "\t", "\u200c", "\u200d"}
    bad = [c for c in escape_hidden(text) if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} and c not in allowed]
    bidi = [
        c
        for c in escape_hidden(text)
        if unicodedata.bidirectional(c) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI"}
    ]
    assert not bad
    assert not bidi
    escape_hidden(text).encode("utf-8")


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_ordinary_text_is_unchanged(text):
    assert escape_hidden(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a\x00b", "a⟨U+0000⟩b"), ("a\ud800", "a⟨U+D800⟩"), ("a\r\nb\rc", "a\nb⟨U+000D⟩c"), ("\u2066x", "⟨U+2066⟩x")],
)
def test_hidden_characters_are_named(text, expected):
    assert escape_hidden(text) == expected


def test_markup_and_numbers_are_returned_unchanged():
    assert visible_value(Markup("<b>\u202e</b>")) == Markup("<b>\u202e</b>")
    assert visible_value(3) == 3


@given(st.text(), st.integers(0, 50))
def test_a_truncated_text_counts_every_omitted_character(text, limit):
    part = truncate(text, limit)
    assert len(part.text) + part.num_omitted == len(text)
    assert text.startswith(part.text)


def test_a_missing_value_is_a_dash_and_zero_is_zero():
    assert (format_percent(None), format_percent(0.0)) == ("–", "0.0")
