"""The harmful response begins in an earlier answer: the model reads it, and learns to break off now."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.chat import chat_format, refusal_tokens, turn_span
from derta.config import RowConfig
from derta.data.earlier_turns import split_triple
from derta.data.mixture import TrainingSet
from derta.data.rows import IGNORE, draw_row, max_tokens, rto_row, safe_row
from derta.data.tree import TreeRow, draw_item, group_instances
from derta.data.triple_encoding import encode_triple
from derta.errors import ModelError, RecipeError
from derta.methods import METHODS
from derta.records import Message, Triple
from method_rows import ROW_METHODS, instances_of

SAFE = "Sorry, I cannot help with that."
HARMFUL = "Sure, here are the steps. Step 1: boil the water.\nStep 2: add the tea."
QUERY = "How is tea made?"
TRIPLE = Triple(query=QUERY, safe=SAFE, harmful=HARMFUL)
FOLLOW_UPS = ("Go on.", "And then?")
KINDS = ("bpe", "spm", "word")
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
    "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
FORGETS = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n"
    "{% if loop.last or m.role == 'user' %}{{ m.content }}{% else %}(an answer){% endif %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
words = st.sampled_from(["Sure", "boil", "the", "water.", "1.", "Step", "tea,", "é", "水", "a", "</s>", "<|end|>"])
gaps = st.sampled_from([" ", "\n", "\n\n", "  ", " - "])
texts = st.tuples(words, st.lists(st.tuples(gaps, words), max_size=8)).map(
    lambda drawn: drawn[0] + "".join(gap + word for gap, word in drawn[1])
)


@pytest.fixture(scope="module")
def chats(make_tokenizer):
    plain = {kind: chat_format(make_tokenizer(kind=kind)) for kind in KINDS}
    return plain | {f"{kind}, blanks": chat_format(make_tokenizer(kind=kind, chat_template=LLAMA)) for kind in KINDS}


def encode(chat, triple=TRIPLE, *, follow_ups=()):
    return encode_triple(chat, triple, refusals=refusal_tokens(chat), follow_ups=follow_ups)


def rows_of(method, chat, triples=(TRIPLE,), *, epochs=6, **settings):
    config = RowConfig(**{"max_length": 256} | settings)
    data = TrainingSet(triples=triples)
    rows = METHODS[method].dataset(data, chat=chat, refusals=refusal_tokens(chat), config=config)
    return [(one, draw_row(one, config=config, seed=0, epoch=epoch)) for epoch in range(epochs) for one in rows]


def decode(chat, ids):
    return chat.tokenizer.decode([int(token) for token in ids])


# --- splitting ---------------------------------------------------------------------------------------------------


@given(harmful=texts, query=texts)
def test_a_split_triple_has_the_same_texts_in_two_turns(harmful, query):
    triple = Triple(query=query, safe=SAFE, harmful=harmful, category="c", source="s")
    split = split_triple(triple, FOLLOW_UPS)
    if split is None:
        assert len(harmful) == 1
        return
    assert Triple.model_validate(split.model_dump()) == split
    *context, first = split.messages
    assert context == list(triple.conversation)
    assert (first.role, split.harmful_turns) == ("assistant", (1,))
    assert "".join((first.content + split.harmful).split()) == "".join(harmful.split())
    assert harmful.startswith(first.content)
    assert harmful.endswith(split.harmful)
    if any(letter.isspace() for letter in harmful):
        assert harmful[len(first.content)].isspace(), "no word is split"
    assert (split.safe, split.query in FOLLOW_UPS, split.category, split.source) == (SAFE, True, "c", "s")
    assert split_triple(triple, FOLLOW_UPS) == split


def test_a_split_keeps_the_context_and_its_harmful_turns():
    context = (Message(role="user", content="Tea?"), Message(role="assistant", content="Boil it."))
    tools = ({"name": "look"},)
    triple = TRIPLE.model_copy(update={"messages": context, "harmful_turns": (1,), "tools": tools})
    split = split_triple(triple, FOLLOW_UPS)
    assert (split.messages[:3], split.harmful_turns, split.tools) == (triple.conversation, (1, 3), tools)


def test_splits_differ_between_triples():
    triples = [TRIPLE.model_copy(update={"query": f"Tea {i}?"}) for i in range(40)]
    splits = [split_triple(triple, FOLLOW_UPS) for triple in triples]
    assert len({split.harmful for split in splits}) > 8
    assert {split.query for split in splits} == set(FOLLOW_UPS)


# --- rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, *(f"{kind}, blanks" for kind in KINDS)])
@given(harmful=texts)
def test_a_harmful_turn_is_located_in_the_prompt_of_any_template(chats, kind, harmful):
    chat = chats[kind]
    split = split_triple(Triple(query=QUERY, safe=SAFE, harmful=harmful), FOLLOW_UPS)
    if split is None:
        return
    encoded = encode(chat, split)
    span = turn_span(chat, split.conversation, 1)
    located = [place for place, valid_ids in enumerate(encoded.earlier_refusals) if valid_ids]
    assert located == list(span)
    assert len(encoded.earlier_refusals) == len(encoded.harmful_prompt_ids)
    if not kind.startswith("word"):
        read = decode(chat, encoded.harmful_prompt_ids[span.start : span.stop])
        assert "".join(read.split()) == "".join(split.messages[1].content.split())


def test_the_refusal_at_an_earlier_position_is_the_one_that_continues_the_text_there(chats):
    triple = TRIPLE.model_copy(
        update={
            "messages": (Message(role="user", content=QUERY), Message(role="assistant", content="Sure:\nboil it.")),
            "query": "Go on.",
            "harmful_turns": (1,),
        }
    )
    for kind in ("bpe", "bpe, blanks"):
        chat = chats[kind]
        encoded = encode(chat, triple)
        span = turn_span(chat, triple.conversation, 1)
        for place in span:
            before = decode(chat, encoded.harmful_prompt_ids[:place])
            [target] = encoded.earlier_refusals[place]
            blank = before[-1:].isspace() if place > span.start else kind == "bpe"
            assert decode(chat, [target]) == ("Sorry" if blank else " Sorry"), (kind, before[-20:])


@pytest.mark.parametrize("method", ROW_METHODS)
@given(harmful=texts, dropout=st.floats(0, 0.99), length=st.integers(32, 160))
def test_harmful_text_of_an_earlier_turn_is_never_in_the_labels(chats, method, harmful, dropout, length):
    chat = chats["bpe"]
    refusals = set(refusal_tokens(chat).ids)
    context = (Message(role="user", content="Tea?"), Message(role="assistant", content="ASAP " + harmful))
    triple = Triple(query=QUERY, safe="Sorry.", harmful=harmful, messages=context, harmful_turns=(1,))
    safe_ids = {
        *encode(chat, triple).safe_ids,
        *encode(chat, triple).safe_spaced_ids,
        *encode(chat, triple).safe_bare_ids,
    }
    settings = {"sorry_dropout": dropout, "max_length": length, "earlier_turn_share": 0.5}
    for _, row in rows_of(method, chat, [triple], **settings):
        assert len(row.input_ids) == len(row.labels) <= length
        for label in set(row.labels) - {IGNORE}:
            assert label in (refusals if row.term == "rto" else safe_ids)


def test_half_of_the_rows_have_the_start_of_the_harmful_response_in_an_earlier_turn(chats):
    chat = chats["bpe"]
    rows = rows_of("derta", chat, epochs=200, earlier_turn_share=0.5, sorry_dropout=0)
    shares = []
    for term in ("safe", "rto"):
        found = [decode(chat, row.input_ids) for _, row in rows if row.term == term]
        later = ["Go on." in text or "And then?" in text for text in found]
        follow_ups = [any(one in text for one in RowConfig().follow_ups) for text in found]
        assert sum(later) <= sum(follow_ups)
        shares.append(sum(follow_ups) / len(found))
    assert shares[0] == shares[1], "all rows of a triple have the same form in an epoch"
    assert 0.4 < shares[0] < 0.6
    split = next(row for _, row in rows if row.term == "rto" and "<|user|>" in decode(chat, row.input_ids[8:]))
    read = [token for token, label in zip(split.input_ids, split.labels, strict=True) if label != IGNORE]
    assert "".join(decode(chat, read).split()) == "".join(HARMFUL.split()), "every harmful token has a label, no other"
    safe = next(row for _, row in rows if row.term == "safe" and "<|user|>" in decode(chat, row.input_ids[8:]))
    learned = [label for label in safe.labels if label != IGNORE]
    assert decode(chat, learned).strip() == f"{SAFE}<|end|>"


def test_methods_that_read_no_harmful_text_are_unchanged(chats):
    chat = chats["bpe"]
    for method, terms in (("vanilla", ("safe",)), ("rto", ("safe",)), ("harmful_prefix", ())):
        plain, share = (rows_of(method, chat, earlier_turn_share=value) for value in (0, 1))
        assert all(a == b for (_, a), (_, b) in zip(plain, share, strict=True) if a.term in terms)
    assert rows_of("rto", chat, earlier_turn_share=1) != rows_of("rto", chat)
    assert rows_of("harmful_prefix", chat, earlier_turn_share=1) != rows_of("harmful_prefix", chat)


@pytest.mark.parametrize("method", ROW_METHODS)
def test_without_the_setting_the_draws_are_those_of_a_triple_that_was_never_split(chats, method):
    chat = chats["bpe"]
    config, plain, both = RowConfig(max_length=128), encode(chat), encode(chat, follow_ups=FOLLOW_UPS)
    assert plain.split is None
    assert both.split is not None
    for epoch in range(4):
        rows = [
            [draw_row(one, config=config, seed=0, epoch=epoch) for one in instances_of(method, triples=[encoded])]
            for encoded in (plain, both)
        ]
        assert rows[0] == rows[1]


def test_the_longest_row_counts_the_split_form(chats):
    chat = chats["bpe"]
    rows = rows_of("derta", chat, epochs=60, earlier_turn_share=0.5, max_length=1024)
    for term in ("safe", "rto"):
        longest = max(len(row.input_ids) for _, row in rows if row.term == term)
        bound = max(max_tokens(one, config=RowConfig(max_length=1024)) for one, _ in rows if one.term == term)
        assert longest <= bound
        plain = rows_of("derta", chat, epochs=1, max_length=1024)
        assert bound > max(max_tokens(one, config=RowConfig(max_length=1024)) for one, _ in plain if one.term == term)


def test_a_tree_of_a_split_triple_has_the_labels_of_its_rows(chats):
    chat = chats["bpe"]
    config = RowConfig(max_length=256, tree_rows=True, branches_per_triple=3, earlier_turn_share=1, sorry_dropout=0)
    rows = METHODS["derta"].dataset(
        TrainingSet(triples=[TRIPLE]), chat=chat, refusals=refusal_tokens(chat), config=config
    )
    [item] = group_instances(rows, config=config)
    tree = draw_item(item, config=config, seed=0, epoch=0)
    assert isinstance(tree, TreeRow)
    separate = [draw_row(one, config=config, seed=0, epoch=0) for one in item]
    assert len(tree.labels) == sum(label != IGNORE for row in separate for label in row.labels)
    assert len(tree.input_ids) < sum(len(row.input_ids) for row in separate)


def test_a_long_prompt_is_cut_together_with_its_refusals(chats):
    chat = chats["bpe"]
    context = (Message(role="user", content="Tea? " * 30), Message(role="assistant", content=HARMFUL))
    encoded = encode(chat, TRIPLE.model_copy(update={"messages": context, "harmful_turns": (1,)}))
    row = rto_row(encoded, max_length=64, sorry_dropout=0, rng=Random(0))
    prompt = len(row.input_ids) - len(encoded.harmful_ids[: 64 - 32])
    valid = dict(zip(encoded.harmful_prompt_ids, encoded.earlier_refusals, strict=True))
    labelled = [
        token for token, label in zip(row.input_ids[:prompt], row.labels[:prompt], strict=True) if label != IGNORE
    ]
    assert labelled
    assert all(valid[token] or token in encoded.harmful_ids for token in labelled)
    assert safe_row(encoded, k=0, max_length=64).labels[:10] == [IGNORE] * 10


def test_a_harmful_turn_that_the_template_drops_is_an_error_that_names_the_triple(make_tokenizer):
    chat = chat_format(make_tokenizer(chat_template=FORGETS))
    split = split_triple(TRIPLE, FOLLOW_UPS)
    with pytest.raises(
        ModelError, match=rf"triple {split.id} \(no source\): expected the chat template to write message 1"
    ):
        encode(chat, split)
    with pytest.raises(ModelError, match=f"triple {TRIPLE.id} "):
        encode(chat, follow_ups=FOLLOW_UPS)
    encode(chat)


def test_the_released_code_has_no_split_and_a_split_needs_a_message():
    with pytest.raises(RecipeError, match="the released code has no earlier_turn_share"):
        RowConfig(reference=True, earlier_turn_share=0.1)
    with pytest.raises(RecipeError, match="at least one message of the user"):
        RowConfig(follow_ups=(), earlier_turn_share=0.1)
    assert RowConfig(follow_ups=()).earlier_turn_share == 0
