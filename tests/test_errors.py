import unicodedata
from copy import copy
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta import errors
from derta.errors import DertaError, RecipeError, did_you_mean, escape_hidden, is_out_of_memory

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DertaError)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_users_mistake_is_a_value_error(kind):
    with pytest.raises(ValueError, match="expected"):
        raise kind("expected a number, got none; give one")


@given(st.lists(st.text("abc", min_size=1), unique=True, max_size=5), st.text("abc", min_size=1))
def test_what_is_offered_is_a_known_name_or_all_of_them(valid_names, name):
    offered = did_you_mean(name, valid_names)
    allowed = {f"did you mean {one!r}?" for one in valid_names} | {
        f"known: {', '.join(valid_names)}" if valid_names else "there are none"
    }
    assert offered in allowed
    if name in valid_names:
        assert offered == f"did you mean {name!r}?"


def test_a_letter_too_few_too_many_or_swapped_is_recognised():
    valid_names = ["device", "dtype", "max_batch_tokens", "template"]
    for name, wrong in product(valid_names, (lambda n: n[:-1], lambda n: n + "x", lambda n: n[1] + n[0] + n[2:])):
        assert did_you_mean(wrong(name), valid_names) == f"did you mean {name!r}?"


def test_a_recipe_error_keeps_its_key_apart_from_a_reason_that_holds_colons():
    error = RecipeError("expected https://host: got http://host", key="url")
    assert (str(error), error.key) == ("url: expected https://host: got http://host", "url")
    moved = error.within("train")
    assert (str(moved), moved.key, moved.reason) == (f"`train.url`: {error.reason}", "`train.url`", error.reason)


def test_the_text_of_a_recipe_error_without_a_key_is_not_read_as_one():
    error = RecipeError("training arguments: expected a device, got none")
    assert error.key is None
    assert str(error.within("train")) == "`train`: training arguments: expected a device, got none"


def test_a_recipe_error_keeps_its_key_when_it_is_copied():
    error = copy(RecipeError("expected 1, got 2", key="seed"))
    assert (str(error), error.key, error.reason) == ("seed: expected 1, got 2", "seed", "expected 1, got 2")


def test_other_errors_are_not_taken_for_running_out_of_memory():
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


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
