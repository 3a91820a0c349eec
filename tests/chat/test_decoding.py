import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.chat import decode_continuation, positions_after_space

KINDS = ("bpe", "spm", "word")
texts = st.lists(st.sampled_from([*"aé🙂. \n\t", "  ", "\u00a0", "\u3000", "Sorry"]), max_size=12).map("".join)


@pytest.fixture(scope="module")
def tokenizers(make_tokenizer):
    return {kind: make_tokenizer(kind=kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@given(text=texts)
def test_positions_after_space_are_those_at_which_the_decoded_text_ends_in_white_space(tokenizers, kind, text):
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode("." + text, add_special_tokens=False)
    found = positions_after_space(tokenizer, ids)
    assert found == {t for t in range(1, len(ids) + 1) if decode_continuation(tokenizer, ids[:t])[-1:].isspace()}


def test_a_lone_blank_of_sentencepiece_is_white_space(tokenizers):
    ids = tokenizers["spm"].convert_tokens_to_ids(["▁the", "▁", "▁the"])
    assert tokenizers["spm"].decode(ids[1:2]) == ""  # at the start of a text
    assert decode_continuation(tokenizers["spm"], ids[1:2]) == " "
    assert positions_after_space(tokenizers["spm"], ids) == {2}


def test_a_token_of_text_that_ends_in_white_space_counts_and_one_that_begins_with_it_does_not(make_tokenizer):
    tokenizer = make_tokenizer(kind="bpe")
    tokenizer.add_tokens(["tea\n", "\ntea"])
    ids = tokenizer.convert_tokens_to_ids(["tea\n", "\ntea", "tea\n"])
    assert positions_after_space(tokenizer, ids) == {1, 3}


def test_a_long_text_of_broken_bytes_is_read_in_reasonable_time(tokenizers):
    byte = tokenizers["bpe"].convert_tokens_to_ids("ģ")
    assert positions_after_space(tokenizers["bpe"], [byte] * 2000) == set()


def test_no_ids_are_no_text(tokenizers):
    assert decode_continuation(tokenizers["spm"], []) == ""
