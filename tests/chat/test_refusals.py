import logging

import pytest

from derta.chat import RefusalTokens, chat_format, refusal_tokens
from derta.chat.logs import warn_once
from derta.errors import ModelError


def pieces(chat, forms):
    return [[chat.tokenizer.convert_ids_to_tokens(token) for token in form] for form in forms]


@pytest.fixture
def logged(caplog):
    """The lines of a process that has logged nothing before."""
    warn_once.cache_clear()
    caplog.set_level(logging.WARNING, logger="derta.chat.refusals")
    return lambda: caplog.messages


def test_a_refusal_word_has_a_bare_and_a_spaced_token(tiny_chat, logged):
    refusals = refusal_tokens(tiny_chat)
    assert pieces(tiny_chat, refusals.bare) == [["Sorry"]]
    assert pieces(tiny_chat, refusals.spaced) == [["ĠSorry"]]
    assert refusals.forms == refusals.bare + refusals.spaced
    assert refusals.ids == (refusals.bare[0][0], refusals.spaced[0][0])
    assert refusals.single == refusals.bare[0]
    assert logged() == []


@pytest.mark.parametrize(
    ("kind", "word", "bare", "spaced", "single", "line"),
    [
        # one token bare, several after a space: SmolLM2's "Sorry"
        ("bpe", "Sure", ["Sure"], ["ĠS", "u", "re"], "Sure", "'Sure' is 3 tokens after text: its first token ' S'"),
        # one token after a space, several bare: Llama 2's
        (
            "spm",
            "Sorry",
            ["S", "orry"],
            ["▁Sorry"],
            "▁Sorry",
            "'Sorry' is 2 tokens after white space: its first token 'S'",
        ),
    ],
)
def test_each_form_has_its_own_tokens_and_one_of_several_is_logged_once(
    make_tokenizer, logged, *, kind, word, bare, spaced, single, line
):
    chat = chat_format(make_tokenizer(kind=kind))
    refusals = refusal_tokens(chat, [word])
    assert (pieces(chat, refusals.bare), pieces(chat, refusals.spaced)) == ([bare], [spaced])
    assert pieces(chat, [refusals.ids]) == [[bare[0], spaced[0]]]
    assert pieces(chat, [refusals.single]) == [[single]]
    assert refusal_tokens(chat, [word]) == refusals
    assert logged() == [f"refusal word {line} is the target there"]


def test_a_word_of_several_tokens_in_both_forms_has_the_first_of_each_as_targets(tiny_chat, logged):
    refusals = refusal_tokens(tiny_chat, ["Sorry", "Unfortunately"])
    assert pieces(tiny_chat, [refusals.ids]) == [["Sorry", "U", "ĠSorry", "Ġ"]]
    assert [line.partition(":")[0].split(" is ")[1] for line in logged()] == [
        "11 tokens after text",
        "10 tokens after white space",
    ]


def test_a_form_that_is_the_same_at_all_places_counts_once(make_tokenizer):
    refusals = refusal_tokens(chat_format(make_tokenizer(kind="word")))
    assert refusals.bare == refusals.spaced
    assert (len(refusals.ids), len(refusals.forms)) == (1, 1)


def test_each_id_counts_once_in_order():
    tokens = RefusalTokens(words=("a", "b"), bare=((5,), (7,)), spaced=((6,), (7, 8)))
    assert tokens.ids == (5, 7, 6)
    assert tokens.forms == ((5,), (7,), (6,))  # (7, 8) is a case of (7,)


def test_an_unknown_word_is_refused_with_the_way_out(make_tokenizer):
    with pytest.raises(ModelError, match=r"words that this tokenizer knows, got 'Unfortunately'; .*refusal_words: \["):
        refusal_tokens(chat_format(make_tokenizer(kind="word")), ["Unfortunately"])


def test_no_words_are_refused(tiny_chat):
    with pytest.raises(ModelError, match="expected at least one word"):
        refusal_tokens(tiny_chat, [])
