import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.engines.openai_answers import ChatAnswer, TextAnswer, parse_answer
from derta.engines.scheduler import RetryableError

WHOLE = b'{"choices": [{"text": "Bread.", "finish_reason": "stop"}], "usage": {"total_tokens": 3}}'


@given(cut=st.integers(0, len(WHOLE) - 1))
def test_an_answer_truncated_at_any_byte_is_retryable(cut):
    with pytest.raises(RetryableError, match="not a completion"):
        parse_answer(TextAnswer, WHOLE[:cut])


@pytest.mark.parametrize(
    "raw", [b"[]", b'{"choices": null}', b'{"choices": []}', b'{"choices": [{}]}', b"<html>", b"\xff", b'"text"']
)
def test_an_invalid_answer_is_retryable_and_not_quoted(raw):
    for kind in (TextAnswer, ChatAnswer):
        with pytest.raises(RetryableError) as error:
            parse_answer(kind, raw)
        assert "html" not in str(error.value)


def test_a_complete_answer_is_parsed():
    assert parse_answer(TextAnswer, WHOLE).choices[0].text == "Bread."
