"""Rows of models that think: where harmful prefixes, refusals and labels lie."""

from random import Random

import pytest

from derta.chat import chat_format, refusal_tokens
from derta.config import RowConfig
from derta.data.encoding import encode_example
from derta.data.rows import IGNORE, Instance, cut_of, draw_row, helpful_row, max_tokens, rto_row, safe_row
from derta.data.triple_encoding import encode_triple
from derta.errors import ModelError, RecipeError
from derta.records import Example, Message, Triple

R1 = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
QWEN3 = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' and loop.last %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}"
    "{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
HEAD = "<s><|user|>How do I bake bread?<|end|><|assistant|><think>\n"
EMPTY = HEAD + "\n</think>\n\n"
TRIPLE = Triple(query="How do I bake bread?", safe="Sorry, no.", harmful="Mix flour. Bake it.")
SAFE_IN_THOUGHT = "Sorry, no.\n</think>\n\nSorry, no.<|end|>"
TURNS = ("Tell me a story.", "The cat sleeps.", "Go on.", "It woke.")


@pytest.fixture(params=[R1, QWEN3], ids=["opened by the prompt", "opened by the model"])
def chat(request, make_tokenizer):
    tokenizer = make_tokenizer(chat_template=request.param)
    tokenizer.add_tokens(["<think>", "</think>"], special_tokens=True)
    return chat_format(tokenizer)


def encoded(chat, refuse_in):
    return encode_triple(chat, TRIPLE, refusals=refusal_tokens(chat), refuse_in=refuse_in)


def text(chat, ids):
    return chat.tokenizer.decode([one for one in ids if one != IGNORE], clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("k", [0, 1, 3])
def test_by_default_harm_and_refusal_lie_in_the_answer_after_an_empty_thought(chat, k):
    triple = encoded(chat, "answer")
    row = safe_row(triple, k=k, max_length=200)
    assert text(chat, row.input_ids).startswith(EMPTY)
    assert "</think>" not in text(chat, row.labels)
    assert text(chat, row.labels).strip() == "Sorry, no.<|end|>"
    rto = rto_row(triple, max_length=200, sorry_dropout=0, rng=Random(0))
    assert text(chat, rto.input_ids) == EMPTY + TRIPLE.harmful
    assert sum(label != IGNORE for label in rto.labels) == len(triple.harmful_ids)


@pytest.mark.parametrize("k", [0, 1, 3])
def test_in_the_thought_the_refusal_ends_the_thought_and_is_the_answer(chat, k):
    triple = encoded(chat, "thought")
    row = safe_row(triple, k=k, max_length=200)
    prefix = chat.tokenizer.decode(triple.harmful_ids[:k])
    assert text(chat, row.input_ids) == HEAD + prefix + text(chat, row.labels)
    assert text(chat, row.labels).strip() == SAFE_IN_THOUGHT
    rto = rto_row(triple, max_length=200, sorry_dropout=0, rng=Random(0))
    assert text(chat, rto.input_ids) == HEAD + TRIPLE.harmful
    assert {chat.tokenizer.decode([label]).strip() for label in rto.labels if label != IGNORE} == {"Sorry"}


def test_both_draws_one_place_for_all_rows_of_a_triple_in_an_epoch(chat):
    triple, config = encoded(chat, "both"), RowConfig(refuse_in="both", sorry_dropout=0.0)
    places = []
    for epoch in range(24):
        rows = [
            draw_row(Instance(term, triple, term == "safe", 0), config=config, seed=0, epoch=epoch)
            for term in ("safe", "rto")
        ]
        in_thought = [not text(chat, row.input_ids).startswith(EMPTY) for row in rows]
        assert in_thought[0] == in_thought[1]
        longest = max_tokens(Instance("safe", triple, True, 0), config=config)
        assert all(len(row.input_ids) <= longest for row in rows)
        places.append(in_thought[0])
    assert 4 < sum(places) < 20


def test_a_template_without_thoughts_cannot_refuse_in_them(tiny_chat):
    with pytest.raises(ModelError, match="expected a chat template that opens a thought"):
        encode_triple(tiny_chat, TRIPLE, refusals=refusal_tokens(tiny_chat), refuse_in="thought")
    with pytest.raises(RecipeError, match="refuse_in"):
        RowConfig(reference=True, refuse_in="both", normalization="micro_batch")


def test_helpful_answers_are_learned_after_an_empty_thought(chat):
    messages = [Message(role=role, content=turn) for role, turn in zip(("user", "assistant") * 2, TURNS, strict=True)]
    rows = [helpful_row(row, max_length=200) for row in encode_example(chat, Example(messages=tuple(messages)))]
    # a template that leaves thoughts out of earlier turns gives a row of its own for each of them
    assert [text(chat, row.labels) for row in rows] == ["It woke.<|end|>", "The cat sleeps.<|end|>"]
    for row in rows:
        assert text(chat, row.input_ids).endswith("<think>\n\n</think>\n\n" + text(chat, row.labels))
    assert len({row.id for row in rows}) == 2
    [last] = encode_example(chat, Example(messages=tuple(messages)), assistant_turns="last")
    assert helpful_row(last, max_length=200) == rows[0]


def test_what_is_cut_from_answers_is_known(tiny_chat):
    messages = [Message(role=role, content=turn) for role, turn in zip(("user", "assistant") * 2, TURNS, strict=True)]
    [row] = encode_example(tiny_chat, Example(messages=tuple(messages)))
    length = len(row.prompt_ids) + len(row.response_ids)
    assert cut_of(row, max_length=length) is None
    assert cut_of(row, max_length=length - 1) == (2, 0)
    assert cut_of(row, max_length=len(row.prompt_ids) + row.learned.index(False)) == (2, 1)
