"""Conversations that a chat template refuses, or parts of which it leaves out without an error."""

import pytest

from derta.chat import TemplateSupport, answer_head, chat_format
from derta.records import Message

USER, ANSWER = Message(role="user", content="Tea?"), Message(role="assistant", content="Green.")
SYSTEM = Message(role="system", content="Be brief.")
CALL = Message(role="assistant", content="", tool_calls=({"function": {"name": "look", "arguments": {"word": "tea"}}},))
RESULT = Message(role="tool", content="It is green.", name="look")
TOOLS = ({"type": "function", "function": {"name": "look", "parameters": {}}},)
HEAD = "{{ bos_token }}{% for m in messages %}"
TURN = "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n"
END = "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
PLAIN = HEAD + TURN + END
KNOWN = HEAD + "{% if m.role in ['user', 'assistant'] %}" + TURN + "{% endif %}" + END
CALLS = "{% if m.tool_calls %}<|assistant|>\n{{ m.tool_calls | tojson }}<|end|>\n{% else %}" + TURN + "{% endif %}"
WITH_TOOLS = "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}" + CALLS + END
STRICT = HEAD + "{% if m.role == 'tool' %}{{ raise_exception('No tools here') }}{% endif %}" + TURN + END
PICKY = (
    "{{ bos_token }}{{ tools | default([], true) | map(attribute='function.name') | join(' ') }}"
    "{% for m in messages %}{% if m.tool_calls and m.tool_calls[0].id | length != 9 %}"
    "{{ raise_exception('ids have 9 letters') }}{% endif %}" + CALLS + END
)


@pytest.fixture(scope="module")
def support(make_tokenizer):
    templates = {"plain": PLAIN, "known": KNOWN, "tools": WITH_TOOLS, "strict": STRICT, "picky": PICKY}
    return {name: TemplateSupport(chat_format(make_tokenizer(chat_template=text))) for name, text in templates.items()}


@pytest.mark.parametrize(
    ("template", "messages", "tools", "reason"),
    [
        ("plain", [SYSTEM, USER, ANSWER, USER], None, None),
        ("plain", [USER, CALL, RESULT], None, "leaves out tool_calls"),
        ("plain", [USER], TOOLS, "leaves out tools"),
        ("known", [USER, ANSWER, USER], None, None),
        ("known", [SYSTEM, USER], None, "leaves out messages of role system"),
        ("known", [USER, CALL, RESULT], None, "leaves out messages of role tool"),
        ("tools", [SYSTEM, USER, CALL, RESULT, ANSWER, USER], TOOLS, None),
        ("tools", [USER], TOOLS, None),
        ("strict", [USER, ANSWER, RESULT], None, "No tools here"),
    ],
)
def test_a_template_supports_a_conversation_that_it_writes_whole(support, template, messages, tools, reason):
    fault = support[template].fault(messages, tools)
    assert fault is None if reason is None else reason in fault
    assert support[template].fault(messages, tools) == fault


def test_what_is_left_out_does_not_depend_on_a_finished_turn(make_tokenizer):
    late = HEAD + "{% if m.role == 'system' and messages[-1].role != 'user' %}{% else %}" + TURN + "{% endif %}" + END
    support = TemplateSupport(chat_format(make_tokenizer(chat_template=late)))
    assert support.left_out([SYSTEM, USER]) is None
    assert "begin a finished turn" in support.fault([SYSTEM, USER])


def test_each_conversation_with_tools_is_rendered(support):
    with_id = CALL.model_copy(update={"tool_calls": ({"id": "abcdef123", "function": {"name": "look"}},)})
    short = CALL.model_copy(update={"tool_calls": ({"id": "1", "function": {"name": "look"}},)})
    for _ in range(2):
        assert support["picky"].fault([USER, with_id, RESULT], TOOLS) is None
        assert "ids have 9 letters" in support["picky"].fault([USER, short, RESULT], TOOLS)
    assert "ids have 9 letters" in TemplateSupport(support["picky"]._chat).fault([USER, short, RESULT], TOOLS)


def test_the_tools_of_a_row_come_before_those_that_the_template_needs_for_rows_without(make_tokenizer):
    needs = "{{ bos_token }}{% for t in tools %}{{ t.function.name }}{% endfor %}{% for m in messages %}" + TURN + END
    chat = chat_format(make_tokenizer(chat_template=needs), template_kwargs={"tools": []})
    assert TemplateSupport(chat).fault([USER, ANSWER, USER]) is None
    assert TemplateSupport(chat).fault([USER, ANSWER, USER], TOOLS) is None
    assert "look" in answer_head(chat, [USER], tools=TOOLS).text
    assert "look" not in answer_head(chat, [USER]).text


def test_an_empty_message_is_not_missed(support):
    result = RESULT.model_copy(update={"content": ""})
    assert support["tools"].fault([USER, CALL, result], TOOLS) is None
