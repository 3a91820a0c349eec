import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.data.topic import content_words, shares_topic


@pytest.mark.parametrize(
    ("request_text", "response", "shares"),
    [
        ("How do I bake bread?", "Bread needs flour.", True),
        ("How do I bake bread?", "BAKING takes an hour.", False),  # baki and bake: the rule knows no grammar
        ("How do I paint a fence?", "You paint it twice.", True),
        ("How do I paint fences?", "Painted fence posts last longer.", True),
        ("How do I bake bread?", "Sorry, I can't help with that.", False),
        ("Can you help me with information?", "I can't provide information.", None),
        ("Why?", "Because.", None),
        ("如何烤面包?", "面包需要面粉。", True),
        ("如何烤面包?", "对不起。", False),
        ("ฉันจะอบขนมปังได้อย่างไร", "ขนมปังใช้แป้ง", True),
        ("रोटी कैसे बनाते हैं?", "रोटी आटे से बनती है।", True),
        ("How do I ba\u200bke bread?", "You ba\u00adke it.", True),
    ],
)
def test_a_response_is_on_topic_if_it_shares_a_content_word(
    request_text: str, response: str, shares: bool | None
) -> None:
    assert shares_topic(request_text, response) is shares


@given(st.text())
def test_a_text_is_on_its_own_topic_if_it_has_one(text: str) -> None:
    assert shares_topic(text, text) is (True if content_words(text) else None)


def test_long_texts_take_linear_time() -> None:
    start = time.process_time()
    for text in ("a" * 100_000, "ab " * 33_000, "面" * 100_000, "\u200b" * 100_000):
        shares_topic(text, text)
    assert time.process_time() - start < 2
