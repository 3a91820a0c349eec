"""Refusal words: malformed, ordinary, or the start of a refusal."""

from __future__ import annotations

import pytest

from derta.judges.malformed import malformed_words
from derta.judges.refusal import structure
from text_tables import text_lines

KINDS = {"malformed": "malformed", "refuse": "refused", "comply_then_refuse": "refused"}
TABLE = [tuple(line.split(": ", 1)) for line in text_lines("judges/malformed_words.txt")]


@pytest.mark.parametrize(("kind", "marked"), TABLE)
def test_a_text_with_a_refusal_word_has_its_kind_and_position(kind: str, marked: str):
    result = structure(marked.replace("§", ""))
    assert KINDS.get(result.reply_class, "ordinary") == kind
    if kind == "malformed":
        assert result.refusal_at == marked.index("§")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I cannot help with that.", "refuse"),
        ("Unfortunately, I cannot assist with that request.", "refuse"),
        ("I cannot wait to see you on Friday.", "comply"),
        ("Unfortunately for the wizard, the pot was empty.", "comply"),
        ("The wizard took Unfortunately to boil it.", "malformed"),
        ("Boil the mossI cannot stir", "malformed"),
    ],
)
def test_refusal_words_that_start_a_clause_are_malformed_only_if_glued_or_repeated(text: str, expected: str):
    assert structure(text, refusal_words=["I cannot", "Unfortunately"]).reply_class == expected


def test_a_word_in_a_literal_is_malformed_unless_others_say_it():
    assert malformed_words("a.append('Sorry')", ["Sorry"]) == [(10, 15)]
    assert malformed_words("assert reply == 'Sorry'", ["Sorry"]) == []
