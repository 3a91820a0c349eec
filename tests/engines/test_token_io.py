from math import log

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from derta.chat import Turn
from derta.engines.token_io import (
    detokenize,
    likelihood_row,
    refusal_probabilities,
    refusal_rows,
    reply_from_tokens,
)
from derta.records import Prompt

KINDS = ("bpe", "spm", "word")
text_without_specials = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(lambda t: "<" not in t)


@pytest.fixture(scope="module")
def tokenizers(make_tokenizer):
    return {kind: make_tokenizer(kind=kind) for kind in KINDS}


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@settings(deadline=None)
@example(kind="spm", ids=[457, 391, 391])  # bytes that are invalid one by one and merge when decoded together
@given(kind=st.sampled_from(KINDS), ids=st.lists(st.integers(0, 10_000), max_size=25))
def test_any_ids_decode_to_their_text_with_ordered_starts(tokenizers, kind, ids):
    tokenizer = tokenizers[kind]
    ids = [token % len(tokenizer) for token in ids]
    text, starts = detokenize(tokenizer, ids)
    assert "</s>" + text == tokenizer.decode([tokenizer.eos_token_id, *ids])
    assert len(starts) == len(ids)
    assert list(starts) == sorted(starts)
    assert all(0 <= start <= len(text) for start in starts)


@settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(text=text_without_specials)
def test_starts_equal_the_tokenizers_offsets_even_within_characters(tokenizers, text):
    encoding = tokenizers["bpe"](text, add_special_tokens=False, return_offsets_mapping=True)
    results = detokenize(tokenizers["bpe"], encoding["input_ids"])
    assert results.text == text
    assert results.token_starts == tuple(start for start, _ in encoding["offset_mapping"])


@pytest.mark.parametrize("kind", ["bpe", "spm"])
def test_tokens_that_share_a_character_begin_at_it(tokenizers, kind):
    tokenizer = tokenizers[kind]
    emoji = [
        tokenizer.convert_tokens_to_ids(token)
        for token in (["<0xF0>", "<0x9F>", "<0x90>", "<0x88>"] if kind == "spm" else ["ð", "Ł", "Ĳ", "Ī"])
    ]
    [stop] = ids_of(tokenizer, "a.")[-1:]
    # four bytes of one cat, then a full stop: characters 0 and 1
    assert detokenize(tokenizer, [*emoji, stop]) == ("🐈.", (0, 0, 0, 0, 1))


@pytest.mark.parametrize("kind", ["bpe", "spm"])
def test_the_leading_space_is_preserved(tokenizers, kind):
    tokenizer = tokenizers[kind]
    ids = ids_of(tokenizer, "a Sorry, I")[1:]
    text, starts = detokenize(tokenizer, ids)
    assert text == " Sorry, I"
    assert starts[0] == 0


def test_text_after_invalid_bytes_has_exact_starts(tokenizers):
    tokenizer = tokenizers["bpe"]
    [broken] = [tokenizer.convert_tokens_to_ids("ð")]
    text, starts = detokenize(tokenizer, [*ids_of(tokenizer, "Sorry"), broken, *ids_of(tokenizer, " Sorry")])
    assert text == "Sorry\ufffd Sorry"
    assert starts == (0, 5, 6)


def test_a_truncated_emoji_does_not_shift_the_following_starts(tokenizers):
    tokenizer = tokenizers["bpe"]
    ids = [*tokenizer.convert_tokens_to_ids(["ð", "Ł"]), *ids_of(tokenizer, " Sorry. Sorry")]
    text, starts = detokenize(tokenizer, ids)
    assert text == "\ufffd Sorry. Sorry"
    assert starts[2:] == (1, 7, 8)


def test_special_tokens_are_not_hidden(tokenizers):
    tokenizer = tokenizers["bpe"]
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    assert detokenize(tokenizer, [user, *ids_of(tokenizer, " Sorry")]) == ("<|user|> Sorry", (0, 8))


def test_no_ids_decode_to_an_empty_text(tokenizers):
    assert detokenize(tokenizers["bpe"], []) == ("", ())


# token ids of other decode loops

PROMPT = Prompt(id="p", request_id="r", request="?", attack="a", mode="raw", text="?")


def test_the_stop_token_is_not_part_of_the_reply(tiny_chat):
    words = tiny_chat.tokenizer.encode("Boil the water", add_special_tokens=False)
    text_token = words[-1]
    for ends in (tiny_chat.tokenizer.eos_token_id, *tiny_chat.closing_ids):
        reply = reply_from_tokens(tiny_chat, PROMPT, [*words, ends], finish_reason="stop")
        assert (reply.text, reply.token_ids, reply.stop_reason) == ("Boil the water", tuple(words), "eos")
        assert len(reply.token_starts) == len(words)
    named = reply_from_tokens(tiny_chat, PROMPT, words, finish_reason="stop", stop_reason=text_token)
    assert named.token_ids == tuple(words[:-1])


@pytest.mark.parametrize(
    ("finish", "expected"), [("length", "length"), ("stop", "eos"), (None, "unknown"), ("abort", "unknown")]
)
def test_a_reply_without_a_stop_token_is_complete(tiny_chat, finish, expected):
    words = tiny_chat.tokenizer.encode("Boil the water", add_special_tokens=False)
    reply = reply_from_tokens(tiny_chat, PROMPT, words, finish_reason=finish, stop_reason="a stop text")
    assert (reply.token_ids, reply.stop_reason) == (tuple(words), expected)


def test_a_stop_token_in_the_middle_or_at_the_limit_is_part_of_the_reply(tiny_chat):
    eos = tiny_chat.tokenizer.eos_token_id
    reply = reply_from_tokens(tiny_chat, PROMPT, [eos, eos], finish_reason="length")
    assert (reply.text, reply.token_ids) == ("</s></s>", (eos, eos))


@given(
    response=st.lists(st.integers(10, 19), max_size=6),
    forms=st.lists(st.lists(st.integers(5, 7), min_size=1, max_size=3), min_size=1, max_size=3),
)
def test_each_position_of_a_response_has_a_row_for_each_form_of_a_refusal_word(response, forms):
    rows = refusal_rows(Turn([1, 2], response, []), forms)
    assert len(rows) == (len(response) + 1) * len(forms)
    assert {tuple(row.token_ids[: row.start]) for row in rows} == {
        (1, 2, *response[:place]) for place in range(len(response) + 1)
    }
    assert [row.token_ids[row.start :] for row in rows] == [form for _ in range(len(response) + 1) for form in forms]
    probabilities = refusal_probabilities(
        [[log(0.25)] * len(form) for _ in range(len(response) + 1) for form in forms], len(forms)
    )
    assert probabilities == pytest.approx([sum(0.25 ** len(form) for form in forms)] * (len(response) + 1))
    assert likelihood_row(Turn([1, 2], response, [])) == ([1, 2, *response], 2)
