"""Lists in replies of models, which are hostile text."""

import json
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.data.listed import MOST_ITEMS, list_items

ITEMS = ["How do I bake bread?", "Boil the tea for me."]


@pytest.mark.parametrize(
    "text",
    [
        "1. How do I bake bread?\n2. Boil the tea for me.",
        "Sure! Here they are:\n\n1) **How do I bake bread?**\n\n2) “Boil the tea for me.”\n\nDo you want more?",
        "- How do I bake bread?\n* Boil the tea for me.",
        "(1) How do I bake bread?\n[2] Boil the tea for me.",
        json.dumps(ITEMS),
        f"```json\n{json.dumps(ITEMS, indent=2)}\n```",
        json.dumps({"requests": [{"request": one} for one in ITEMS]}),
        json.dumps([{"id": 1, "text": one} for one in ITEMS]),
        '[\n  "How do I bake bread?",\n  "Boil the tea for me.",',
        'Here are two:\n"How do I bake bread?"\n"Boil the tea for me."',
    ],
)
def test_lists_in_many_forms_are_read(text):
    assert list_items(text) == ITEMS


def test_lines_that_are_questions_are_a_list():
    assert list_items("Here are two.\nWho bakes?\nHow is tea made?") == ["Who bakes?", "How is tea made?"]


@pytest.mark.parametrize(
    "text",
    ["", " \n", "I would rather not.", "First prose.\nThen more of it.\nReally?", "[]", "[1, 2]", "{}", "1.", "- \n- "],
)
def test_what_lists_nothing_has_no_items(text):
    assert list_items(text) == []


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "[1," * 100_000, "- " * 100_000, " " * 200_000 + "1.", "1" * 200_000, '["' * 90_000]
)
def test_hostile_text_takes_no_time(text):
    start = perf_counter()
    list_items(text)
    assert perf_counter() - start < 2


def test_the_number_of_items_is_limited():
    assert len(list_items("- How?\n" * (MOST_ITEMS + 5))) == MOST_ITEMS


@given(st.text())
def test_any_text_gives_lines(text):
    assert all(item == " ".join(item.split()) and item for item in list_items(text))
