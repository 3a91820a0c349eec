from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.chat import chat_format, encode_prompt
from derta.engines.openai_protocol import (
    ChatAnswer,
    TextAnswer,
    generation_call,
    parse_answer,
    retry_after,
    server_text,
)
from derta.engines.scheduler import RetryableError
from derta.errors import ModelError
from derta.records import Message, Prompt

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WHOLE = b'{"choices": [{"text": "Bread.", "finish_reason": "stop"}], "usage": {"total_tokens": 3}}'


@pytest.mark.parametrize("kind", ["bpe", "spm", "word"])
@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("prefill", [None, "Sure, here"])
def test_the_text_that_is_sent_is_read_as_the_tokens_that_we_render(make_tokenizer, kind, bos, prefill):
    chat = chat_format(make_tokenizer(kind=kind, bos=bos))
    asked = (Message(role="user", content="How do I bake bread?"),)
    prompt = Prompt(id="p", request_id="r", request="?", attack="a", messages=asked, prefill=prefill)
    call = generation_call(prompt, send="text", chat=chat, max_new_tokens=3, extra={})
    assert chat.tokenizer(call.body["prompt"])["input_ids"] == encode_prompt(chat, prompt)


def test_a_text_that_no_server_reads_as_our_tokens_is_refused(tiny_chat):
    with pytest.raises(ModelError, match="use a server that takes token ids"):
        server_text(tiny_chat, "Bread.", [1, 2, 3])


@given(cut=st.integers(0, len(WHOLE) - 1))
def test_an_answer_that_was_cut_short_anywhere_is_asked_for_again(cut):
    with pytest.raises(RetryableError, match="not a completion"):
        parse_answer(TextAnswer, WHOLE[:cut])


@pytest.mark.parametrize(
    "raw", [b"[]", b'{"choices": null}', b'{"choices": []}', b'{"choices": [{}]}', b"<html>", b"\xff", b'"text"']
)
def test_what_is_no_answer_is_asked_for_again_and_not_quoted(raw):
    for kind in (TextAnswer, ChatAnswer):
        with pytest.raises(RetryableError) as told:
            parse_answer(kind, raw)
        assert "html" not in str(told.value)


def test_a_whole_answer_is_read():
    assert parse_answer(TextAnswer, WHOLE).choices[0].text == "Bread."


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("nan", 0.0),
        ("inf", 0.0),
        ("soon", 0.0),
        ("", 0.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0.0),
    ],
)
def test_retry_after_is_read_in_seconds_and_as_a_date(value, seconds):
    assert retry_after({"retry-after": value}, now=NOW) == seconds
