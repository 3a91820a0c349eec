"""Pairs for DPO. In ids: prompts are below 1000, safe text 1000 to 1999, harmful text from 5000, closing 8 and 9."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_files import every_kind
from derta.chat import answer_head, refusal_tokens
from derta.data.preferences import (
    EncodedPair,
    Preference,
    clean_preferences,
    cut_pair,
    encode_preference,
    load_preferences,
    read_preferences,
    triple_pair,
)
from derta.data.triple_encoding import EncodedTriple, encode_triple
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
    head = answer_head(chat, [Message(role="user", content=QUERY)]).text
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


PKU = {
    "prompt": "How is tea made?",
    "response_0": "Boil it.",
    "response_1": "No.",
    "is_response_0_safe": True,
    "is_response_1_safe": True,
    "safer_response_id": 1,
    "better_response_id": 0,
}


def messages(*texts):
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(texts)]


def transcript(*texts):
    return "".join(f"\n\n{'Human' if i % 2 == 0 else 'Assistant'}: {text}" for i, text in enumerate(texts))


FORMS = {
    "text": {"prompt": "Tea?", "chosen": "Boil it.", "rejected": "No."},
    "messages": {
        "prompt": messages("Tea?"),
        "chosen": messages("", "Boil it.")[1:],
        "rejected": messages("", "No.")[1:],
    },
    "ultrafeedback": {
        "prompt": "Tea?",
        "prompt_id": "1",
        "chosen": messages("Tea?", "Boil it."),
        "rejected": messages("Tea?", "No."),
        "messages": messages("Tea?", "Boil it."),
        "score_chosen": 9.0,
        "score_rejected": 1.0,
    },
    "implicit": {"chosen": messages("Tea?", "Boil it."), "rejected": messages("Tea?", "No.")},
    "implicit text": {"chosen": "Tea? Boil it.", "rejected": "Tea? Bring it."},
    "hh": {"chosen": transcript("Tea?", "Boil it."), "rejected": transcript("Tea?", "No.")},
    "hh prompt": {"prompt": transcript("Tea?", ""), "chosen": " Boil it.", "rejected": " No."},
    "llama factory": {
        "conversations": [{"from": "human", "value": "Tea?"}],
        "chosen": {"from": "gpt", "value": "Boil it."},
        "rejected": {"from": "gpt", "value": "No."},
    },
    "alpaca": {"instruction": "Tea?", "input": "", "chosen": "Boil it.", "rejected": "No."},
    "cells": {
        key: str(value)
        for key, value in (("chosen", messages("Tea?", "Boil it.")), ("rejected", messages("Tea?", "No.")))
    },
    "pku better": PKU | {"prompt": "Tea?", "safer_response_id": 0},
}


@pytest.mark.parametrize("name", FORMS)
def test_pairs_are_read_in_every_published_form(tmp_path, name):
    read = read_preferences(write(tmp_path / "mine.jsonl", FORMS[name]))
    rejected = "Bring it." if name == "implicit text" else "No."
    assert read.preferences == [Preference(query="Tea?", chosen="Boil it.", rejected=rejected, source="mine")]
    assert not read.dropped


@pytest.mark.parametrize("name", FORMS)
def test_files_of_every_kind_have_the_same_pairs(tmp_path, name):
    rows = [json.loads(json.dumps(FORMS[name]).replace("Tea?", f"Tea {i}?")) for i in range(5)]
    for path in every_kind(tmp_path, rows):
        read = read_preferences(path)
        assert [(pair.query, pair.chosen) for pair in read.preferences] == [(f"Tea {i}?", "Boil it.") for i in range(5)]
        assert not read.dropped


def test_earlier_turns_of_both_sides_are_the_context(tmp_path):
    said = ("Tea?", "Boil it.", "How long?")
    rows = (
        {"chosen": transcript(*said, "An hour."), "rejected": transcript(*said, "No.")},
        {"chosen": messages(*said, "An hour."), "rejected": messages(*said, "No.")},
    )
    for row in rows:
        [pair] = load_preferences(write(tmp_path / "mine.jsonl", row))
        assert (pair.query, pair.chosen, pair.rejected) == ("How long?", "An hour.", "No.")
        assert [(m.role, m.content) for m in pair.messages] == [("user", "Tea?"), ("assistant", "Boil it.")]


def test_rows_that_are_no_pair_are_dropped_and_counted(tmp_path, caplog):
    good = FORMS["implicit"]
    rows = [
        good,
        {"chosen": messages("Tea?", "Boil it."), "rejected": messages("Why?", "No.")},
        {"chosen": messages("Tea?", "Boil it."), "rejected": messages("Tea?", "Boil it.")},
        {"chosen": messages("Tea?", "Boil it."), "rejected": messages("Tea?", "")},
        {"chosen": messages("Tea?"), "rejected": messages("Tea?")},
        {"chosen": messages("Tea?", "Boil it.")[1:], "rejected": messages("Tea?", "No.")[1:]},
        {"chosen": messages("", "Boil it."), "rejected": messages("", "No.")},
    ]
    path = write(tmp_path / "mine.jsonl", *rows)
    read = read_preferences(path)
    assert len(read.preferences) == 1
    reasons = ("different_prompts", "same_responses", "empty_response", "no_answer", "no_request", "empty_turn")
    assert read.dropped == Counter(dict.fromkeys(reasons, 1))
    assert len(load_preferences(path)) == 1
    assert "mine.jsonl: 1 preferences; dropped: 1 different_prompts, 1 empty_response" in caplog.text


def test_of_pku_the_safer_response_is_chosen_and_an_unsafe_one_never(tmp_path):
    path = write(tmp_path / "mine.jsonl", PKU, PKU | {"is_response_1_safe": False}, PKU | {"prompt": ""})
    read = read_preferences(path)
    assert [pair.chosen for pair in read.preferences] == ["No."]
    assert read.dropped == Counter(chosen_is_unsafe=1, empty_turn=1)
    assert [pair.chosen for pair in load_preferences(path, format="pku_saferlhf_better")] == ["Boil it.", "Boil it."]


def test_a_pair_that_a_check_refuses_is_dropped_counted_and_named(tmp_path, caplog):
    path = write(tmp_path / "mine.jsonl", FORMS["text"], FORMS["text"] | {"system": "Be brief."})
    read = read_preferences(path, fault_of=lambda pair: "no system role" if pair.messages else None)
    assert (len(read.preferences), read.dropped) == (1, Counter(refused_by_template=1))
    assert read.first_fault == f"{path}:2: no system role"
    assert f"{read.first_fault} (1 rows of this file" in caplog.text


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
        ({"query": "a", "chosen": "b", "rejected": " "}, r"expected pairs .*found none \(\{'empty_response': 1\}\)"),
        ({"prompt": "a", "chosen": [{"role": "user"}], "rejected": "c"}, r"1: chosen\[0\]: expected a field 'content'"),
        ({"prompt": "a", "chosen": ["b"], "rejected": "c"}, r"mine.jsonl:1: chosen: expected text, got a list"),
        ({**PKU, "safer_response_id": 2}, r"mine.jsonl:1: safer_response_id: expected 0 or 1, got '2'"),
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


def test_a_pair_whose_responses_differ_in_case_and_punctuation_alone_is_dropped_and_counted():
    same = [HELPFUL.model_copy(update={"chosen": text}) for text in (HELPFUL.rejected, HELPFUL.rejected.upper() + "!")]
    clean = clean_preferences([HELPFUL, *same], evaluation_requests=[], harmful=[HARMFUL])
    assert clean.preferences == [HELPFUL]
    assert clean.dropped == {"same_responses": 2}


def test_a_pair_that_prefers_harm_stops_everything():
    swapped = HELPFUL.model_copy(update={"chosen": "sure, here are the steps"})
    with pytest.raises(DataError, match="check that the columns are not swapped"):
        clean_preferences([swapped], evaluation_requests=[], harmful=[HARMFUL])


def test_a_users_pair_is_encoded_as_a_triples_is(tiny_chat):
    triple = Triple(query=QUERY, safe=SAFE, harmful=HARMFUL)
    expected = triple_pair(encode_triple(tiny_chat, triple, refusals=refusal_tokens(tiny_chat)))
    preference = Preference(query=QUERY, chosen=SAFE, rejected=HARMFUL)
    assert encode_preference(tiny_chat, preference) == expected._replace(id=preference.id)
