"""Labels on every answer of a conversation, compared with the template's own generation tags."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from derta.chat import chat_format, encode_answers
from derta.records import Message

TAGGED = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>{% endgeneration %}\n"
    "{% else %}{{ m.content }}<|end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
texts = st.text(st.sampled_from("Mix flour.\n é5,"), min_size=1, max_size=20).filter(str.strip)
conversations = st.tuples(st.booleans(), st.lists(st.tuples(texts, texts), min_size=1, max_size=4)).map(
    lambda drawn: (
        [("system", "Be kind.")] * drawn[0]
        + [turn for question, answer in drawn[1] for turn in (("user", question), ("assistant", answer))]
    )
)


@pytest.mark.parametrize("kind", ["bpe", "spm"])  # Transformers finds no token for a blank that has none
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(turns=conversations)
def test_the_labels_are_those_of_generation_tags(make_tokenizer, kind, turns):
    chat = chat_format(make_tokenizer(kind=kind, chat_template=TAGGED))
    messages = [Message(role=role, content=text) for role, text in turns]
    [row] = encode_answers(chat, messages)
    expected = chat.tokenizer.apply_chat_template(
        [message.model_dump() for message in messages],
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids = row.prompt_ids + row.response_ids
    mask = [False] * len(row.prompt_ids) + row.learned
    assert ids == list(expected["input_ids"])[: len(ids)]
    assert mask == [bool(one) for one in expected["assistant_masks"]][: len(ids)]
    assert not any(expected["assistant_masks"][len(ids) :])
    assert row.turns == sum(role == "assistant" for role, _ in turns)


def test_a_message_that_only_calls_a_tool_is_read(tiny_chat):
    call = Message(role="assistant", tool_calls=({"function": {"name": "clock", "arguments": {}}},))
    messages = [
        Message(role="user", content="What time is it?"),
        call,
        Message(role="user", content="Ten."),
        Message(role="assistant", content="It is ten."),
    ]
    [row] = encode_answers(tiny_chat, messages)
    assert row.turns == 1
    assert all(row.learned)


def test_an_answer_with_another_closing_token_in_the_middle_has_a_row_of_its_own(make_tokenizer):
    """As in harmony: `<|return|>` ends the last turn, `<|end|>` the others."""
    template = (
        "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
        "{% if loop.last and m.role == 'assistant' %}</s>{% else %}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    chat = chat_format(make_tokenizer(chat_template=template))
    turns = [("user", "Tell."), ("assistant", "Once."), ("user", "More."), ("assistant", "Twice.")]
    rows = list(encode_answers(chat, [Message(role=role, content=text) for role, text in turns]))
    learned = [
        chat.tokenizer.decode([one for one, has_label in zip(row.response_ids, row.learned, strict=True) if has_label])
        for row in rows
    ]
    assert learned == ["Once.</s>", "Twice.</s>"]
