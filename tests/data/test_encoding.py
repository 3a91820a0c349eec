import pytest

from derta.chat import answer_head, chat_format
from derta.data.encoding import encode_example
from derta.data.rows import IGNORE, helpful_row
from derta.errors import DataError
from derta.records import Example, Message


def test_every_answer_of_a_conversation_is_learned_or_the_last_one(tiny_chat):
    chat = tiny_chat
    turns = [
        ("user", "Tell me a story."),
        ("assistant", "The cat sleeps."),
        ("user", "Go on."),
        ("assistant", "It woke."),
    ]
    example = Example(messages=tuple(Message(role=role, content=text) for role, text in turns))
    [encoded] = encode_example(chat, example)
    row = helpful_row(encoded, max_length=256)
    assert (
        chat.tokenizer.decode([label for label in row.labels if label != IGNORE])
        == "The cat sleeps.<|end|>It woke.<|end|>"
    )
    [encoded] = encode_example(chat, example, assistant_turns="last")
    row = helpful_row(encoded, max_length=256)
    assert chat.tokenizer.decode([label for label in row.labels if label != IGNORE]) == "It woke.<|end|>"
    assert chat.tokenizer.decode(row.input_ids) == answer_head(chat, example.messages[:-1]).text + "It woke.<|end|>"
    assert row.input_ids.count(chat.tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("kind", ["bpe", "spm", "word"])
def test_a_raw_text_is_learned_whole_after_one_bos_and_ends_with_eos(make_tokenizer, kind):
    chat = chat_format(make_tokenizer(kind=kind))
    ids = chat.tokenizer.encode("The cat sleeps.", add_special_tokens=False)
    [encoded] = encode_example(chat, Example(text="The cat sleeps."))
    assert encoded.prompt_ids == (chat.tokenizer.bos_token_id,)
    assert encoded.response_ids == (*ids, chat.tokenizer.eos_token_id)
    [again] = encode_example(chat, Example(text=chat.tokenizer.bos_token + "The cat sleeps."))
    assert again.prompt_ids == encoded.prompt_ids
    assert chat.tokenizer.bos_token_id not in again.response_ids
    assert again.response_ids[-len(ids) :] == encoded.response_ids[-len(ids) :]


def test_a_raw_text_of_one_token_is_learned_after_a_bos(tiny_chat):
    assert encode_example(tiny_chat, Example(text="a"))[0].response_ids[1:] == (tiny_chat.tokenizer.eos_token_id,)


def test_without_a_bos_the_first_token_of_a_raw_text_is_read_and_not_learned(make_tokenizer):
    tokenizer = make_tokenizer(kind="bpe")
    tokenizer.bos_token = None
    chat = chat_format(tokenizer, template="paper")
    first, *rest = tokenizer.encode("The cat sleeps.", add_special_tokens=False)
    [encoded] = encode_example(chat, Example(text="The cat sleeps."))
    assert (encoded.prompt_ids, encoded.response_ids) == ((first,), (*rest, tokenizer.eos_token_id))
    with pytest.raises(DataError, match="at least two tokens"):
        encode_example(chat, Example(text="a"))


def test_an_answer_without_a_token_is_refused(tiny_chat):
    silent = Example.model_construct(
        messages=(Message(role="user", content="a"), Message(role="assistant", content=""))
    )
    with pytest.raises(DataError, match="an answer of at least one token"):
        encode_example(tiny_chat, silent)
