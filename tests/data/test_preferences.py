"""Pairs for DPO. In ids: prompts are below 1000, safe text 1000 to 1999, harmful text from 5000, closing 8 and 9."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.chat import prompt_text, refusal_tokens
from derta.data.encoding import EncodedTriple, encode_triple
from derta.data.preferences import (
    EncodedPair,
    Preference,
    clean_preferences,
    cut_pair,
    encode_preference,
    load_preferences,
    triple_pair,
)
from derta.errors import DataError
from derta.records import Message, Triple

QUERY, SAFE, HARMFUL = "How do I bake bread?", "Sorry, I cannot help with that.", "Sure, here are the steps."
HELPFUL = Preference(query="How is tea made?", chosen="Boil the water.", rejected="The cat sleeps.")


def pair_of(*, num_prompt=20, num_chosen=6, num_rejected=12, trailing_blank=False):
    prompt_ids = tuple(range(10, 10 + num_prompt))
    return EncodedPair(
        "p",
        prompt_ids,
        (*range(1000, 1000 + num_chosen), 9, 8),
        (*prompt_ids, 999) if trailing_blank else prompt_ids,
        (*range(5000, 5000 + num_rejected), 9, 8),
    )


pairs = st.builds(
    pair_of,
    num_prompt=st.integers(1, 90),
    num_chosen=st.integers(1, 90),
    num_rejected=st.integers(1, 90),
    trailing_blank=st.booleans(),
)


# --- cutting ---------------------------------------------------------------------------------------------------------


@given(pair=pairs, max_length=st.integers(32, 120))
def test_a_cut_pair_fits_and_both_of_its_responses_begin_as_they_did(pair, max_length):
    cut = cut_pair(pair, max_length=max_length)
    assert len(cut.chosen_prompt_ids + cut.chosen_ids) <= max_length
    assert len(cut.rejected_prompt_ids + cut.rejected_ids) <= max_length
    for ids, whole in ((cut.chosen_ids, pair.chosen_ids), (cut.rejected_ids, pair.rejected_ids)):
        assert ids
        assert ids == whole[: len(ids)]


@given(pair=pairs, max_length=st.integers(32, 120))
def test_the_refusal_is_whole_unless_it_is_too_long_for_any_row(pair, max_length):
    cut = cut_pair(pair, max_length=max_length)
    assert cut.chosen_ids == pair.chosen_ids or len(cut.chosen_ids) >= max_length - 16


@given(pair=pairs, max_length=st.integers(32, 120))
def test_both_sides_of_a_cut_pair_answer_the_same_prompt(pair, max_length):
    cut = cut_pair(pair._replace(rejected_prompt_ids=pair.chosen_prompt_ids), max_length=max_length)
    assert cut.chosen_prompt_ids == cut.rejected_prompt_ids


@given(pair=pairs)
def test_a_pair_that_fits_is_left_as_it_is(pair):
    assert cut_pair(pair, max_length=300) == pair


# --- triples ---------------------------------------------------------------------------------------------------------


@given(num_safe=st.integers(1, 40), num_harmful=st.integers(1, 40), max_length=st.integers(32, 80))
def test_the_chosen_side_of_a_triple_never_holds_harmful_text(num_safe, num_harmful, max_length):
    harmful = tuple(range(5000, 5000 + num_harmful))
    triple = EncodedTriple(
        id="t",
        prompt_ids=tuple(range(10, 30)),
        harmful_prompt_ids=(*range(10, 30), 999),
        safe_ids=(*range(1000, 1000 + num_safe), 9),
        safe_spaced_ids=(),
        safe_bare_ids=(),
        harmful_ids=harmful,
        closing_ids=(9,),
        refusal_ids=(),
        bare_positions=frozenset(),
        word_cuts=(),
    )
    pair = cut_pair(triple_pair(triple), max_length=max_length)
    assert not set(pair.chosen_prompt_ids + pair.chosen_ids) & set(harmful)
    assert set(pair.rejected_ids) & set(harmful)


@pytest.mark.parametrize("kind", ["bpe", "spm", "word"])
@pytest.mark.parametrize("template", ["auto", "paper"])
def test_a_pair_reads_as_the_template_has_it_with_one_bos_and_its_closing_tokens(make_tokenizer, kind, template):
    from derta.chat import chat_format

    chat = chat_format(make_tokenizer(kind=kind), template=template)
    decode = chat.tokenizer.decode
    triple = Triple(query=QUERY, safe=SAFE, harmful=HARMFUL)
    pair = triple_pair(encode_triple(chat, triple, refusals=refusal_tokens(chat)))
    head = prompt_text(chat, [Message(role="user", content=QUERY)])
    for prompt_ids, ids, response in (
        (pair.chosen_prompt_ids, pair.chosen_ids, SAFE),
        (pair.rejected_prompt_ids, pair.rejected_ids, HARMFUL),
    ):
        joint = chat.tokenizer.encode(head + response, add_special_tokens=False)
        expected = decode([*joint, *chat.closing_ids]).removeprefix("<s>").strip()
        assert decode([*prompt_ids, *ids]).removeprefix("<s>").strip() == expected
        assert (*prompt_ids, *ids).count(chat.tokenizer.bos_token_id) == 1
        assert ids[-len(chat.closing_ids) :] == chat.closing_ids


def test_a_triple_whose_responses_are_one_text_is_refused(tiny_chat):
    triple = Triple(query=QUERY, safe=SAFE, harmful=SAFE)
    with pytest.raises(DataError, match="expected two different responses"):
        triple_pair(encode_triple(tiny_chat, triple, refusals=refusal_tokens(tiny_chat)))


@pytest.mark.parametrize(("num_chosen", "num_rejected"), [(0, 1), (1, 0), (0, 0)])
def test_a_response_of_closing_tokens_alone_is_refused(num_chosen, num_rejected):
    triple = EncodedTriple(
        id="t",
        prompt_ids=(10,),
        harmful_prompt_ids=(10,),
        safe_ids=(1000,) * num_chosen + (9, 8),
        safe_spaced_ids=(),
        safe_bare_ids=(),
        harmful_ids=(5000,) * num_rejected,
        closing_ids=(9, 8),
        refusal_ids=(),
        bare_positions=frozenset(),
        word_cuts=(),
    )
    with pytest.raises(DataError, match="pair t: expected two different responses of at least one token"):
        triple_pair(triple)


def test_the_longer_side_of_a_pair_with_its_prompt_is_its_length():
    assert pair_of(num_prompt=20, num_chosen=6, num_rejected=12).longest == 34  # with two closing tokens
    assert pair_of(num_prompt=20, num_chosen=15, num_rejected=12).longest == 37
    assert pair_of(num_prompt=20, num_chosen=12, num_rejected=12, trailing_blank=True).longest == 35


def test_a_long_rejected_response_takes_half_of_the_row_and_the_prompt_the_rest():
    cut = cut_pair(pair_of(num_prompt=100, num_chosen=2, num_rejected=100), max_length=64)
    assert [len(ids) for ids in cut[1:]] == [32, 4, 32, 32]
    short = cut_pair(pair_of(num_prompt=100, num_chosen=2, num_rejected=8), max_length=64)
    assert [len(ids) for ids in short[1:]] == [54, 4, 54, 10]


# --- a user's own pairs ----------------------------------------------------------------------------------------------


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("field", ["query", "prompt"])
def test_pairs_are_read_by_either_name_of_the_query(tmp_path, field):
    path = write(tmp_path / "mine.jsonl", {field: "How is tea made?", "chosen": "Boil it.", "rejected": "No.", "x": 1})
    assert load_preferences(path) == [
        Preference(query="How is tea made?", chosen="Boil it.", rejected="No.", source="mine")
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "a", "chosen": "b"}, "no known format has the fields query, chosen"),
        ({"query": "a", "chosen": "b", "rejected": " "}, "mine.jsonl:1.*rejected"),
        ({"prompt": "a", "chosen": [{"role": "user"}], "rejected": "c"}, "chosen: expected text, got a list"),
    ],
)
def test_an_invalid_pair_is_reported_with_its_place(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        load_preferences(write(tmp_path / "mine.jsonl", row))


def test_pairs_that_repeat_or_ask_what_is_evaluated_are_dropped_and_counted():
    other = HELPFUL.model_copy(update={"query": "Why?"})
    clean = clean_preferences([HELPFUL, HELPFUL, other], evaluation_requests=["why"], harmful=[HARMFUL])
    assert clean.preferences == [HELPFUL]
    assert clean.dropped == {"duplicate": 1, "in_evaluation": 1}


@pytest.mark.parametrize("chosen", ["sure, here are the steps", HELPFUL.rejected])
def test_a_pair_that_prefers_harm_or_nothing_stops_everything(chosen):
    swapped = HELPFUL.model_copy(update={"chosen": chosen})
    with pytest.raises(DataError, match="check that the columns are not swapped"):
        clean_preferences([swapped], evaluation_requests=[], harmful=[HARMFUL])


def test_a_users_pair_is_encoded_as_a_triples_is(tiny_chat):
    triple = Triple(query=QUERY, safe=SAFE, harmful=HARMFUL)
    expected = triple_pair(encode_triple(tiny_chat, triple, refusals=refusal_tokens(tiny_chat)))
    preference = Preference(query=QUERY, chosen=SAFE, rejected=HARMFUL)
    assert encode_preference(tiny_chat, preference) == expected._replace(id=preference.id)
