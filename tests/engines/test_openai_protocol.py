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
def test_the_text_is_tokenized_to_the_rendered_tokens(make_tokenizer, kind, bos, prefill):
    chat = chat_format(make_tokenizer(kind=kind, bos=bos))
    messages = (Message(role="user", content="How do I bake bread?"),)
    prompt = Prompt(id="p", request_id="r", request="?", attack="a", messages=messages, prefill=prefill)
    call = generation_call(prompt, send="text", chat=chat, max_new_tokens=3, extra={})
    assert chat.tokenizer(call.body["prompt"])["input_ids"] == encode_prompt(chat, prompt)


def test_tokens_without_a_text_are_refused(tiny_chat):
    with pytest.raises(ModelError, match="use a server that takes token ids"):
        server_text(tiny_chat, "Bread.", [1, 2, 3])


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
def test_retry_after_is_parsed_from_seconds_and_dates(value, seconds):
    assert retry_after({"retry-after": value}, now=NOW) == seconds


def test_a_server_gets_tools_calls_and_results_unchanged_and_its_reply_is_text():
    tools = ({"type": "function", "function": {"name": "look", "parameters": {}}},)
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = (
        Message(role="user", content="Tea?"),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="Green.", tool_call_id="1", name="look"),
    )
    prompt = Prompt(id="p", request_id="r", attack="a", messages=messages, tools=tools)
    body = generation_call(prompt, send="messages", chat=None, max_new_tokens=3, extra={}).body
    assert (body["tools"], body["tool_choice"]) == (list(tools), "none")
    assert body["messages"] == [
        {"role": "user", "content": "Tea?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "Green.", "tool_call_id": "1", "name": "look"},
    ]
    plain = prompt.model_copy(update={"tools": None, "messages": messages[:1]})
    body = generation_call(plain, send="messages", chat=None, max_new_tokens=3, extra={}).body
    assert not {"tools", "tool_choice"} & set(body)
    assert body["messages"] == [{"role": "user", "content": "Tea?"}]
