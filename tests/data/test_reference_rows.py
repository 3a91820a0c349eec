"""Reference mode: the released code's choices, written out again from their description."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from derta.config import RowConfig
from derta.data.rows import (
    IGNORE,
    Instance,
    draw_row,
    reference_dropout,
    reference_rto_row,
    safe_row,
)
from encoded_rows import (
    BARE,
    CLOSING,
    decoded_k,
    triple_of,
)


def released_prefix_words(index, words, rng):
    """Every third triple has no prefix; the others the first randint(1, words - 2) words, drawn once."""
    return [] if index % 3 == 0 else words[: rng.randint(1, len(words) - 2)]


def released_sorry_labels(prompt_length, total_length, bare_id):
    """Every label that is not masked becomes the refusal id: the closing token's too."""
    labels = [IGNORE] * prompt_length + list(range(total_length - prompt_length))
    return [label if label == IGNORE else bare_id for label in labels]


REFERENCE = RowConfig(reference=True)


def test_reference_rto_rows_relabel_the_closing_token_too():
    row = reference_rto_row(triple_of(num_prompt=3, num_harmful=4, bare_positions={2}), max_length=64, redraw="x")
    assert row.input_ids == [10, 11, 12, 5000, 5001, 5002, 5003, *CLOSING]
    assert row.labels == [IGNORE] * 3 + [BARE] * 6 == released_sorry_labels(3, 9, BARE)


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=5), key=st.text(max_size=5))
def test_reference_dropout_keeps_ceil_of_a_twentieth_of_all_padded_places(lengths, key):
    padded = -(-max(lengths) // 8) * 8
    for i, length in enumerate(lengths):
        every_place = reference_dropout([BARE] * padded, padded_length=padded, redraw=f"{key}{i}")
        assert sum(label == BARE for label in every_place) == max(1, -(-padded // 20))
        of_row = reference_dropout([BARE] * length, padded_length=padded, redraw=f"{key}{i}")
        assert of_row == every_place[:length]  # what falls on the padding is lost


def test_reference_dropout_draws_every_place_alike_and_may_keep_none():
    drawn = [reference_dropout([IGNORE] * 10 + [BARE] * 10, padded_length=40, redraw=str(i)) for i in range(4000)]
    kept = Counter(place for labels in drawn for place, label in enumerate(labels) if label != IGNORE)
    # 2 of 40 places in each of 4000 draws: 200 ± 14 a place, five standard deviations; the prompt's never count
    assert set(kept) == set(range(10, 20))
    assert all(abs(count - 200) < 70 for count in kept.values())
    empty = sum(not any(label != IGNORE for label in labels) for labels in drawn)
    assert abs(empty / 4000 - 30 * 29 / (40 * 39)) < 0.04  # both of the two places outside the ten labelled


def test_reference_dropout_is_drawn_anew_in_every_epoch_and_the_prefix_only_once():
    triple = triple_of(num_prompt=10, num_harmful=40, num_words=8)
    safe, rto = Instance("safe", triple, True, 1), Instance("rto", triple, False, 1)
    safe_rows = [draw_row(safe, config=REFERENCE, seed=0, epoch=epoch) for epoch in range(5)]
    assert all(row == safe_rows[0] for row in safe_rows)
    assert decoded_k(safe_rows[0]) > 0
    keys = [draw_row(rto, config=REFERENCE, seed=0, epoch=epoch).redraw for epoch in range(5)]
    assert len(set(keys)) == 5
    assert None not in keys


def test_reference_prefixes_leave_every_third_triple_bare_and_cut_the_others_at_a_word():
    cuts = Counter()
    for place in range(3000):
        triple = triple_of(name=str(place), num_harmful=12, num_words=4)  # words end at tokens 3, 6, 9 and 12
        row = draw_row(Instance("safe", triple, True, place), config=REFERENCE, seed=0, epoch=0)
        k = decoded_k(row)
        words = [f"w{i}" for i in range(4)]
        allowed = {3 * len(released_prefix_words(place, words, Random(i))) for i in range(20)}
        assert k in allowed
        cuts[k] += 1
    assert set(cuts) == {0, 3, 6}  # 1 or 2 = words - 2 words
    assert cuts[0] == 1000
    assert abs(cuts[3] - 1000) < 112  # five standard deviations


def test_the_draws_of_the_reference_mode_come_from_the_seed_the_epoch_and_the_id():
    triple = triple_of(name="7", num_harmful=40, num_words=20)
    safe, rto = Instance("safe", triple, True, 1), Instance("rto", triple, False, 1)
    for seed in range(5):
        k = 2 * Random(f"{seed}:0:safe:7").randint(1, 18)  # two tokens a word; epoch 0 in every epoch
        assert draw_row(safe, config=REFERENCE, seed=seed, epoch=3) == safe_row(triple, k=k, max_length=1024)
    assert draw_row(rto, config=REFERENCE, seed=2, epoch=3).redraw == "2:3:rto:7"


def test_a_harmful_response_of_three_words_has_its_first_word_as_the_reference_prefix():
    triple = triple_of(num_harmful=6, num_words=3)
    row = draw_row(Instance("safe", triple, True, 1), config=REFERENCE, seed=0, epoch=0)
    assert decoded_k(row) == 2


def test_a_harmful_response_of_two_words_has_no_reference_prefix():
    triple = triple_of(num_harmful=2, num_words=2)
    row = draw_row(Instance("safe", triple, True, 1), config=REFERENCE, seed=0, epoch=0)
    assert row.input_ids == [*triple.prompt_ids, *triple.safe_ids]
