import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.judges.visible import fold, visible

MARKS = "ab C.,*_~`\u200b\u00ad\u2009\ufeff\n’ıİ"


@given(st.text(max_size=200))
def test_folding_preserves_every_index(text: str):
    assert len(fold(text)) == len(text)


@given(st.one_of(st.text(alphabet=MARKS, max_size=120), st.text(max_size=120)))
def test_every_visible_character_has_its_index_in_the_original(text: str):
    seen = visible(text)
    indices = seen.indices(range(len(seen.text)))
    assert indices == sorted(set(indices))
    folded = fold(text)
    assert all(
        folded[at] == character or (character == " " and folded[at].isspace())
        for at, character in zip(indices, seen.text, strict=True)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm **un*able*** to", "i'm unable to"),
        ("I\u200b can\u00adnot", "i cannot"),
        ("I\u2009cannot\u00a0help", "i cannot help"),
        ("I  cannot   help", "i cannot help"),
        ("I cannot\nhelp", "i cannot help"),
        ("I cannot,\r\n  _help_", "i cannot, help"),
        ("𝐈 𝐜𝐚𝐧𝐧𝐨𝐭 ｈｅｌｐ", "i cannot help"),
        ("snake_case and  - a\n   - b", "snake_case and  - a\n   - b"),
        ("Take it.\nThen go", "take it.\nthen go"),
        ("عذرًا أنا", "عذرا انا"),
    ],
)
def test_emphasis_invisible_characters_and_odd_blanks_are_removed(text: str, expected: str):
    assert visible(text).text == expected


@pytest.mark.parametrize("unit", ["*", "_", "_a", " ", "a  ", "a\n", "\n ", "\u200b", "*a"])
def test_a_hostile_text_takes_no_time(unit: str):
    text = unit * (200_000 // len(unit))
    start = time.monotonic()
    seen = visible(text)
    seen.indices(range(0, len(seen.text), 3))
    assert time.monotonic() - start < 3  # linear takes 0.1 s
