"""Equal and near-equal texts."""

from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.data.duplicates import SeenTexts


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("How do I pick a lock?", "how do I pick a LOCK", "duplicate"),
        ("How do I pick a lock?", "How can I pick locks?", "near_duplicate"),
        ("How do I pick a lock?", "How do I pick a lock at the old harbour?", None),
        ("How do I pick a lock?", "How do I buy a lock?", None),
        ("Why?", "How?", None),
        ("怎样打开门锁", "怎样打开门锁呢", "near_duplicate"),
    ],
)
def test_texts_with_the_same_content_words_are_near_duplicates(first, second, reason):
    seen = SeenTexts()
    assert seen.add(first, group="a") is None
    assert seen.add(second, group="a") == reason


def test_near_duplicates_are_of_one_group_and_duplicates_of_all():
    seen = SeenTexts(["No locks."])
    assert seen.add("no locks", group="a") == "duplicate"
    assert seen.add("How do I pick a lock?", group="a") is None
    assert seen.add("How can I pick locks?", group="b") is None
    assert seen.add("How do I pick a lock?", group="b") == "duplicate"


@given(st.lists(st.text()))
def test_what_was_added_is_a_duplicate_from_then_on(texts):
    seen = SeenTexts()
    for text in texts:
        seen.add(text, group="a")
    assert all(seen.add(text, group="a") for text in texts)


def test_two_thousand_texts_take_seconds():
    seen, start = SeenTexts(), perf_counter()
    for number in range(2000):
        seen.add(f"How is thing{number} number{number} painted in place{number % 7}?", group="a")
    assert perf_counter() - start < 10
