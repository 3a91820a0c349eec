import pytest

from derta.chat import chat_format, encode_prompt
from derta.engines.openai_calls import generation_call, server_text
from derta.errors import ModelError
from derta.records import Message, Prompt


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
