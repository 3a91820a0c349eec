import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.chat import answer_head, chat_format, decode_continuation, refusal_tokens
from derta.config import RowConfig
from derta.data.rows import IGNORE, Instance, draw_row, reference_rto_row, rto_row, safe_row
from derta.data.triple_encoding import encode_triple
from derta.errors import DataError
from derta.records import Message, Triple
from method_rows import ROW_METHODS, instances_of

QUERY = "How do I bake bread?"
SAFE = "Sorry, I cannot help with that."
HARMFUL = "Sure, here are the steps. Step 1: boil the water.\nStep 2: add the tea."
KINDS = ("bpe", "spm", "word")
TEMPLATES = ("auto", "paper", "paper_eval")

words = st.sampled_from(["Sure", "boil", "the", "water.", "1.", "Step", "tea,", "é", "ASAP"])
gaps = st.sampled_from([" ", "\n", "\n\n", ",", " - ", "  ", " \n ", "\u00a0", "\u3000"])
answers = st.tuples(st.sampled_from(["", "\n"]), words, st.lists(st.tuples(gaps, words), max_size=8)).map(
    lambda drawn: drawn[0] + drawn[1] + "".join(gap + word for gap, word in drawn[2])
)


@pytest.fixture(scope="module")
def chat_of(make_tokenizer):
    """Built before the first example is drawn: hypothesis times the examples."""
    formats = {(k, t): chat_format(make_tokenizer(kind=k), template=t) for k in KINDS for t in TEMPLATES}
    for chat in formats.values():
        answer_head(chat, [Message(role="user", content="compiles the template")])
    return lambda kind, template: formats[kind, template]


def encode(chat, *, query=QUERY, safe=SAFE, harmful=HARMFUL, words=("Sorry",)):
    triple = Triple(query=query, safe=safe, harmful=harmful)
    return encode_triple(chat, triple, refusals=refusal_tokens(chat, words))


def joint_ids(chat, response, *, query=QUERY):
    """The whole text encoded at once, with one BOS: what a model that goes on from this prompt reads."""
    text = answer_head(chat, [Message(role="user", content=query)]).text + response
    ids = chat.tokenizer.encode(text, add_special_tokens=False)
    return ids if ids[0] == chat.tokenizer.bos_token_id else [chat.tokenizer.bos_token_id, *ids]


def decode(chat, ids):
    return chat.tokenizer.decode([int(token) for token in ids])


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
@given(safe=answers, harmful=answers)
def test_both_responses_are_tokenized_together_with_the_prompt(chat_of, kind, template, safe, harmful):
    chat = chat_of(kind, template)
    encoded = encode(chat, safe=safe, harmful=harmful)
    assert [*encoded.prompt_ids, *encoded.safe_ids] == [*joint_ids(chat, safe), *chat.closing_ids]
    assert [*encoded.harmful_prompt_ids, *encoded.harmful_ids] == joint_ids(chat, harmful)


def test_a_blank_of_the_template_is_kept_before_a_response_that_does_not_take_it_in(chat_of):
    chat = chat_of("bpe", "paper")
    encoded = encode(chat, harmful="\nSure, here are the steps.")
    blank = chat.tokenizer.convert_tokens_to_ids("Ġ")
    assert encoded.harmful_prompt_ids == (*encoded.prompt_ids, blank)
    row = rto_row(encoded, max_length=128, sorry_dropout=0, rng=Random(0))
    assert row.input_ids == joint_ids(chat, "\nSure, here are the steps.")
    assert decode(chat, row.labels[len(encoded.harmful_prompt_ids) :][:1]) == "Sorry"  # the blank is there already
    prefixed = safe_row(encoded, k=2, max_length=128)
    assert prefixed.input_ids[: len(encoded.harmful_prompt_ids)] == list(encoded.harmful_prompt_ids)


@pytest.mark.parametrize(
    ("kind", "template", "token"),
    [
        ("bpe", "auto", "Sorry"),  # after the template's line break
        ("bpe", "paper", "ĠSorry"),  # the template's last blank is part of the first token
        ("bpe", "paper_eval", "ĠSorry"),
        ("spm", "paper", "▁Sorry"),
        ("word", "auto", "Sorry"),
    ],
)
def test_at_the_start_the_refusal_token_is_the_one_that_the_template_demands(chat_of, kind, template, token):
    chat = chat_of(kind, template)
    encoded = encode(chat, harmful="Sure, here are the steps.", safe="Sorry . I cannot help with that.")
    assert chat.tokenizer.convert_ids_to_tokens(list(encoded.refusal_ids[0])) == [token]
    assert encoded.refusal_ids[0][0] == encoded.safe_ids[0]  # as the safe response itself begins


@given(harmful=answers)
def test_everywhere_else_it_is_bare_after_white_space_and_spaced_after_text(chat_of, harmful):
    chat = chat_of("bpe", "auto")
    encoded = encode(chat, harmful=harmful)
    assert len(encoded.refusal_ids) == len(encoded.harmful_ids) + 1
    for t in range(1, len(encoded.harmful_ids)):
        before = chat.tokenizer.decode(encoded.harmful_ids[:t])
        (refusal,) = (decode(chat, [token]) for token in encoded.refusal_ids[t])
        assert refusal == ("Sorry" if before[-1].isspace() else " Sorry")


def test_every_refusal_word_has_its_form_at_every_place(make_tokenizer):
    chat = chat_format(make_tokenizer())
    encoded = encode(chat, words=("Sorry", "Sure"))
    assert all(len(allowed) == 2 for allowed in encoded.refusal_ids)
    assert [decode(chat, [token]) for token in encoded.refusal_ids[0]] == ["Sorry", "Sure"]


@pytest.mark.parametrize("kind", ["bpe", "spm"])
@given(harmful=answers, safe=st.sampled_from([SAFE, "  " + SAFE, "Sorry."]))
def test_a_safe_response_continues_any_prefix_with_one_blank_after_text_and_none_after_white_space(
    chat_of, kind, harmful, safe
):
    chat = chat_of(kind, "auto")
    encoded = encode(chat, harmful=harmful, safe=safe)
    head = len(encoded.harmful_prompt_ids)
    for k in range(1, len(encoded.harmful_ids) + 1):
        row = safe_row(encoded, k=k, max_length=512)
        prefix = decode_continuation(chat.tokenizer, encoded.harmful_ids[:k])
        join = "" if prefix[-1].isspace() else " "
        closing = decode(chat, chat.closing_ids)
        assert decode_continuation(chat.tokenizer, row.input_ids[head:]) == prefix + join + safe.strip() + closing


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    ("kind", "word"),
    [*((kind, word) for kind in ("bpe", "spm") for word in ("Sorry", "Sure", "Unfortunately")), ("word", "Sorry")],
)
@given(harmful=answers, rest=st.sampled_from([".", ", I cannot help with that.", "", "\nNo."]))
def test_rto_and_safe_rows_have_one_target_for_one_place(chat_of, *, kind, word, template, harmful, rest):
    chat = chat_of(kind, template)
    encoded = encode(chat, harmful=harmful, safe=word + rest, words=(word,))
    row = rto_row(encoded, max_length=512, sorry_dropout=0, rng=Random(0))
    targets = [label for label in row.labels if label != IGNORE]
    assert len(targets) == len(encoded.harmful_ids)
    same_prompt = encoded.prompt_ids == encoded.harmful_prompt_ids  # else the places are different
    for t in range(0 if same_prompt else 1, len(targets)):
        safe = safe_row(encoded, k=t, max_length=512)
        assert (
            safe.input_ids[: len(row.input_ids) - len(targets) + t]
            == row.input_ids[: len(row.labels) - len(targets) + t]
        )
        assert next(label for label in safe.labels if label != IGNORE) == targets[t]


def test_with_several_words_the_one_that_opens_the_safe_response_has_its_first_token(chat_of):
    chat = chat_of("bpe", "auto")
    chat_words = ("Sorry", "Sure")
    encoded = encode(chat, safe="Sure. No.", words=chat_words)
    refusals = refusal_tokens(chat, chat_words)
    assert encoded.refusal_ids[1] == (refusals.spaced[0][0], encoded.safe_spaced_ids[0])


@pytest.mark.parametrize(("kind", "word", "token"), [("bpe", "Sure", "Sure"), ("spm", "Sorry", "▁Sorry")])
def test_reference_rows_have_the_form_of_one_token_at_all_places(chat_of, kind, word, token):
    chat = chat_of(kind, "auto")
    row = reference_rto_row(encode(chat, safe=word + ".", words=(word,)), max_length=512, redraw="x")
    assert {chat.tokenizer.convert_ids_to_tokens(label) for label in row.labels if label != IGNORE} == {token}


def test_rows_close_the_answers_that_are_learned_and_no_other(chat_of):
    chat = chat_of("bpe", "auto")
    encoded = encode(chat)
    closing = list(chat.closing_ids)
    for k in (0, 3, 9):
        assert safe_row(encoded, k=k, max_length=256).labels[-len(closing) :] == closing
    row = rto_row(encoded, max_length=256, sorry_dropout=0, rng=Random(0))
    assert row.input_ids == [*encoded.harmful_prompt_ids, *encoded.harmful_ids]


@pytest.mark.parametrize("method", ROW_METHODS)
@pytest.mark.parametrize("template", ["auto", "paper"])
@given(
    texts=st.tuples(
        st.text("abc ?\n", min_size=1, max_size=80).filter(str.strip),
        st.text("abc .\n", max_size=80).map(lambda text: "Sorry" + text),
        st.text("QXZ .\n", min_size=1, max_size=80).filter(str.strip),
    ),
    settings=st.builds(RowConfig, max_length=st.integers(32, 90), reference=st.booleans()),
)
def test_harmful_characters_never_reach_a_label(chat_of, method, template, texts, settings):
    chat = chat_of("bpe", template)
    encoded = encode(chat, query=texts[0], safe=texts[1], harmful=texts[2])
    for one in instances_of(method, triples=[encoded], examples=[]):
        row = draw_row(one, config=settings, seed=0, epoch=1)
        taught = decode(chat, [label for label in row.labels if label != IGNORE])
        assert not set("QXZ") & set(taught)
        assert len(row.input_ids) <= settings.max_length


@pytest.mark.parametrize("template", ["auto", "paper"])
@pytest.mark.parametrize("kind", ["bpe", "spm"])
def test_a_reference_prefix_is_the_first_words_joined_by_single_spaces(chat_of, kind, template):
    chat = chat_of(kind, template)
    harmful = "Sure, here are the steps: boil  the water, add the tea"  # two blanks: one of the words is empty
    encoded = encode(chat, harmful=harmful)
    words = harmful.split(" ")
    assert len(encoded.word_cuts) == len(words) + 1
    for n, cut in enumerate(encoded.word_cuts):
        text = chat.tokenizer.decode(encoded.harmful_ids[:cut]).strip()
        assert text == " ".join(words[:n]).strip()


def test_a_reference_row_reads_prompt_then_words_then_safe_response_joined_by_single_spaces(chat_of):
    chat = chat_of("bpe", "paper")
    words = "Sure, here are the steps to boil the water"
    encoded = encode(chat, harmful=words)
    released = set()
    for n in range(1, 9 - 2 + 1):
        prefix = " ".join(words.split(" ")[:n])
        released.add(f"<s>[INST] {QUERY} [\\INST] {prefix} {SAFE}</s>")
    drawn = {
        decode(chat, draw_row(one, config=RowConfig(reference=True), seed=seed, epoch=0).input_ids)
        for seed in range(100)
        for one in [Instance("safe", encoded, True, 1)]
    }
    assert drawn == released
    bare = draw_row(Instance("safe", encoded, True, 3), config=RowConfig(reference=True), seed=0, epoch=0)
    assert decode(chat, bare.input_ids) == f"<s>[INST] {QUERY} [\\INST] {SAFE}</s>"


def test_a_response_without_a_token_is_refused(chat_of):
    chat = chat_of("bpe", "auto")
    for responses in ({"safe": "", "harmful": HARMFUL}, {"safe": SAFE, "harmful": ""}):
        empty = Triple.model_construct(query=QUERY, **responses)
        with pytest.raises(DataError, match="responses of at least one token"):
            encode_triple(chat, empty, refusals=refusal_tokens(chat))


def test_a_very_long_query_leaves_room_for_both_responses(chat_of):
    chat = chat_of("bpe", "auto")
    encoded = encode(chat, query="How do I paint a garden fence? " * 200)
    for one in instances_of("derta", triples=[encoded], examples=[]):
        row = draw_row(one, config=RowConfig(max_length=64, prefix_share=1), seed=0, epoch=0)
        text = decode(chat, row.input_ids)
        assert len(row.input_ids) == 64
        assert text.startswith("<s><|user|>\nHow do I paint")
        assert re.search(r"<\|assistant\|>\n(Sorry, I cannot help with that.<\|end\|>|Sure, here)", text)
