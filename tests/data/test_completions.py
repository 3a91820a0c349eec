"""Completion rows: a benign answer (2000 …) is broken off by a refusal (1100 … or, after white space, 1200 …)."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.chat import chat_format, decode_continuation, refusal_tokens
from derta.config import RowConfig
from derta.data.completions import (
    AnswerPool,
    BenignAnswer,
    Completion,
    EncodedRefusal,
    benign_answer,
    completion_row,
    encode_refusal,
)
from derta.data.encoding import EncodedExample, encode_example
from derta.data.rows import IGNORE, Instance, check_row, draw_row, instances, max_tokens
from derta.data.tree import group_instances
from derta.records import Example, Message, Triple

CLOSING = (9, 8)
BENIGN, REFUSAL = range(2000, 3000), range(1100, 1400)
KINDS = ("bpe", "spm", "word")
SAFE = "Sorry, I cannot help with that."
TRIPLE = Triple(query="How do I paint a cat?", safe=SAFE, harmful="QXZ.")


def answer_of(*, num_prompt=20, num_answer=8, bare_positions=()):
    return BenignAnswer(
        tuple(range(10, 10 + num_prompt)), tuple(BENIGN[:num_answer]), frozenset(bare_positions) & {*range(num_answer)}
    )


def refusal_of(*, num_spaced=6, num_bare=5, spaced_word=1, bare_word=1):
    return EncodedRefusal(
        (*range(1100, 1100 + num_spaced), *CLOSING),
        (*range(1200, 1200 + num_bare), *CLOSING),
        min(spaced_word, num_spaced),
        min(bare_word, num_bare),
    )


answers = st.builds(
    answer_of,
    num_prompt=st.integers(1, 90),
    num_answer=st.integers(1, 90),
    bare_positions=st.sets(st.integers(1, 90)),
)
refusals = st.builds(
    refusal_of,
    num_spaced=st.integers(1, 90),
    num_bare=st.integers(1, 90),
    spaced_word=st.integers(1, 3),
    bare_word=st.integers(1, 3),
)


# --- rows from ids ---------------------------------------------------------------------------------------------------


def test_labels_by_hand():
    answer = answer_of(num_prompt=2, num_answer=4, bare_positions={3})
    refusal = refusal_of(num_spaced=4, num_bare=3, spaced_word=2)
    after_text = completion_row(refusal, answer, name="t", k=2, max_length=64)
    assert after_text.term == "completion"
    assert after_text.input_ids == [10, 11, 2000, 2001, 1100, 1101, 1102, 1103, *CLOSING]
    assert after_text.labels == [*[IGNORE] * 6, 1102, 1103, *CLOSING]
    after_space = completion_row(refusal, answer, name="t", k=3, max_length=64)
    assert after_space.input_ids == [10, 11, 2000, 2001, 2002, 1200, 1201, 1202, *CLOSING]
    assert after_space.labels == [*[IGNORE] * 6, 1201, 1202, *CLOSING]


@given(
    pool=st.lists(answers, min_size=1, max_size=3), refusal=refusals, length=st.integers(32, 120), seed=st.integers()
)
def test_neither_the_answer_nor_the_refusals_first_word_has_a_label(pool, refusal, length, seed):
    one = Instance("completion", Completion("t", refusal, AnswerPool(tuple(pool))), False, 0)
    row = check_row(draw_row(one, config=RowConfig(max_length=length), seed=seed, epoch=1))
    assert len(row.input_ids) <= max_tokens(one, config=RowConfig(max_length=length)) <= length
    labelled = [token for token, label in zip(row.input_ids, row.labels, strict=True) if label != IGNORE]
    assert labelled == [label for label in row.labels if label != IGNORE]  # labels are the tokens themselves
    assert not {*labelled} & {*BENIGN}
    num_read = sum(token in BENIGN for token in row.input_ids)
    assert num_read >= 1
    begin = row.input_ids.index(next(token for token in row.input_ids if token in REFUSAL))
    is_bare = row.input_ids[begin] == 1200
    word, form = (refusal.bare_word, refusal.bare_ids) if is_bare else (refusal.spaced_word, refusal.spaced_ids)
    assert all(label == IGNORE for label in row.labels[: begin + word])
    assert row.labels[begin + word :] == list(form[word : word + len(labelled)])
    assert any(is_bare == (num_read in answer.bare_positions) for answer in pool)


def test_truncation_takes_the_answer_then_the_prompt_then_the_end_of_the_refusal():
    answer_gives_way = completion_row(refusal_of(), answer_of(num_answer=40), name="t", k=40, max_length=40)
    assert answer_gives_way.input_ids == [*range(10, 30), *range(2000, 2012), *range(1100, 1106), *CLOSING]
    prompt_gives_way = completion_row(refusal_of(), answer_of(num_prompt=60), name="t", k=5, max_length=40)
    assert prompt_gives_way.input_ids[:32] == [*range(10, 26), *range(55, 70), 2000]
    assert prompt_gives_way.input_ids[32:] == [*range(1100, 1106), *CLOSING]
    refusal = refusal_of(num_spaced=60)
    refusal_gives_way = completion_row(refusal, answer_of(num_prompt=60), name="t", k=5, max_length=40)
    assert refusal_gives_way.input_ids[16:] == [2000, *range(1100, 1123)]


def test_each_draw_takes_another_answer_and_another_place_and_depends_on_seed_epoch_and_id_only():
    pool = AnswerPool(tuple(answer_of(num_prompt=n, num_answer=5) for n in (2, 3, 4)))
    one = Instance("completion", Completion("t", refusal_of(), pool), False, 0)

    def draw(instance=one, *, epoch=0, seed=0):
        return draw_row(instance, config=RowConfig(), seed=seed, epoch=epoch)

    drawn = Counter((row.input_ids.index(2000), len(row.input_ids)) for row in (draw(epoch=i) for i in range(3000)))
    # 15 pairs of an answer and a place: 200 draws of each, ± 14; five standard deviations
    assert {(prompt, length - prompt - 8) for prompt, length in drawn} == {
        (n, k) for n in (2, 3, 4) for k in range(1, 6)
    }
    assert all(abs(count - 200) < 70 for count in drawn.values())
    assert draw(one._replace(source_index=7)) == draw()
    assert one.id == "completion:t"
    branches = [one._replace(branch=branch) for branch in range(40)]
    assert branches[3].id == "completion:t#3"
    assert len({str(draw(branch)) for branch in branches}) > 5
    assert len({str(draw(seed=seed)) for seed in range(40)}) > 5


def test_completions_are_taken_in_turn_and_are_items_of_their_own_beside_trees():
    pool = AnswerPool((answer_of(),))
    sources = [Completion(name, refusal_of(), pool) for name in "abc"]
    found = instances(triples=[], examples=[], completions=sources, num_completions=8)
    names = ["a", "b", "c", "a#1", "b#1", "c#1", "a#2", "b#2"]
    assert [one.id for one in found] == [f"completion:{name}" for name in names]
    items = group_instances(found, config=RowConfig(tree_rows=True, branches_per_triple=3))
    assert items == [[one] for one in found]


def test_counter_examples_are_rows_of_the_counter_term_and_copies_are_numbered():
    rows = [EncodedExample(name, (1, 2), (3, 4)) for name in "ab"]
    found = instances(triples=[], examples=[rows[0]], counter=[[rows[0]], [rows[1]], [rows[0]]])
    assert [one.id for one in found] == ["helpful:a", "counter:a", "counter:b", "counter:a#1"]
    row = draw_row(found[1], config=RowConfig(), seed=0, epoch=0)
    assert (row.term, row.input_ids, row.labels) == ("counter", [1, 2, 3, 4], [IGNORE, IGNORE, 3, 4])
    trees = group_instances(found, config=RowConfig(tree_rows=True))
    assert trees == [[one] for one in found]


# --- rows from texts -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chat_of(make_tokenizer):
    formats = {kind: chat_format(make_tokenizer(kind=kind)) for kind in KINDS}
    return formats.__getitem__


def example_of(*turns):
    roles = ("user", "assistant") * len(turns)
    return Example(messages=tuple(Message(role=role, content=turn) for role, turn in zip(roles, turns, strict=False)))


def encoded(chat, *, safe=SAFE, words=("Sorry",)):
    return encode_refusal(chat, TRIPLE.model_copy(update={"safe": safe}), refusals=refusal_tokens(chat, words))


def text(chat, ids):
    return decode_continuation(chat.tokenizer, [token for token in ids if token != IGNORE])


@pytest.mark.parametrize("kind", ["bpe", "spm"])
@given(answer=st.text("QXZé .\n", min_size=1, max_size=40).filter(str.strip), data=st.data())
def test_a_row_is_the_answers_start_and_the_refusal_with_one_space_after_text_and_none_after_white_space(
    chat_of, kind, answer, data
):
    chat = chat_of(kind)
    example = example_of("Tell me.", answer)
    benign = benign_answer(chat, encode_example(chat, example))
    k = data.draw(st.integers(1, len(benign.answer_ids)))
    row = completion_row(encoded(chat), benign, name="t", k=k, max_length=256)
    start = text(chat, benign.answer_ids[:k])
    seam = "" if k in benign.bare_positions else " "
    assert text(chat, row.input_ids[len(benign.prompt_ids) :]) == start + seam + SAFE + chat.closing
    comma = "" if kind == "spm" and seam else ","  # "▁Sorry," is one token, which is read
    assert text(chat, row.labels) == f"{comma} I cannot help with that.{chat.closing}"
    assert not set("QXZ") & set(text(chat, row.labels))
    whole = encode_example(chat, example)[0]
    assert (*benign.prompt_ids, *benign.answer_ids, *chat.closing_ids) == (*whole.prompt_ids, *whole.response_ids)


def test_a_refusal_word_of_several_tokens_is_read_whole(chat_of):
    chat = chat_of("bpe")
    refusal = encoded(chat, safe="Apologies, no.", words=("Apologies",))
    assert refusal.spaced_word > 1
    assert text(chat, refusal.spaced_ids[: refusal.spaced_word]) == " Apologies"
    assert text(chat, refusal.bare_ids[: refusal.bare_word]) == "Apologies"
    assert text(chat, refusal.spaced_ids[refusal.spaced_word :]) == ", no." + chat.closing


def test_bytes_of_a_words_last_character_are_read(chat_of):
    chat = chat_of("bpe")
    refusal = encoded(chat, safe="Désolé, no.", words=("Désolé",))
    assert text(chat, refusal.bare_ids[refusal.bare_word :]) == ", no." + chat.closing


def test_a_refusal_without_a_refusal_word_has_no_completion_rows(chat_of):
    assert encoded(chat_of("word"), safe="I cannot help with that.") is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_is_broken_off_in_its_last_answer(chat_of, kind):
    chat = chat_of(kind)
    example = example_of("And bread?", "First wait.", "Tell me.", "Here is a story.")
    benign = benign_answer(chat, encode_example(chat, example))
    only_last = benign_answer(chat, encode_example(chat, example, assistant_turns="last"))
    assert benign == only_last
    assert text(chat, benign.answer_ids).strip() == chat.tokenizer.decode(
        chat.tokenizer.encode("Here is a story.", add_special_tokens=False)
    )
    assert "wait" in text(chat, benign.prompt_ids)


@pytest.mark.parametrize("kind", KINDS)
def test_a_raw_text_is_a_benign_answer_without_a_prompt(chat_of, kind):
    chat = chat_of(kind)
    benign = benign_answer(chat, encode_example(chat, Example(text="First clean the wood.")), is_text=True)
    assert len(benign.prompt_ids) == 1
    assert chat.tokenizer.eos_token_id not in benign.answer_ids
    row = check_row(completion_row(encoded(chat), benign, name="t", k=2, max_length=64))
    assert text(chat, row.input_ids).startswith(text(chat, [*benign.prompt_ids, *benign.answer_ids[:2]]))
