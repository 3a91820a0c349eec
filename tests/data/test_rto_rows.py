"""RTO rows: their targets, their dropout, and what truncation leaves."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from derta.config import RowConfig
from derta.data.rows import IGNORE, Instance, draw_row, rto_row
from encoded_rows import BARE, BARE_2, CLOSING, HARMFUL, SPACED, SPACED_2, learned, triple_of
from method_rows import instances_of


@given(dropout=st.floats(0, 0.99), length=st.integers(32, 90), seed=st.integers(0, 9))
def test_the_targets_of_a_set_are_all_tokens_that_a_label_is_drawn_from(dropout, length, seed):
    triple = triple_of(num_harmful=40, bare_positions={3, 7, 20})
    settings = {"max_length": length, "sorry_dropout": dropout}
    (instance,) = instances_of("rto", triples=[triple], examples=[])[1:]
    row, as_set = (
        draw_row(instance, config=RowConfig(rto_targets=targets, **settings), seed=seed, epoch=0)
        for targets in ("token", "set")
    )
    assert row.alternatives is None
    assert as_set._replace(alternatives=None) == row
    start = row.input_ids.index(HARMFUL[0])
    sets = {place: {label, *as_set.alternatives[place]} for place, label in enumerate(row.labels) if label != IGNORE}
    assert sets == {place: set(triple.refusal_ids[place - start]) for place in sets}


def test_sorry_dropout_leaves_out_that_share_of_the_labels():
    one = Instance("rto", triple_of(num_harmful=200, num_prompt=4), False, 0)
    for dropout in (0.0, 0.5, 0.95):
        settings = RowConfig(sorry_dropout=dropout)
        kept = sum(len(learned(draw_row(one, config=settings, seed=0, epoch=epoch))) for epoch in range(100))
        # 20,000 labels: five standard deviations of a binomial
        assert abs(kept - 20_000 * (1 - dropout)) <= 5 * (20_000 * dropout * (1 - dropout)) ** 0.5


def test_dropout_is_linear_in_the_depth_up_to_that_at_the_last_token():
    one = Instance("rto", triple_of(num_harmful=5, num_prompt=4), False, 0)
    settings = RowConfig(sorry_dropout=0.9, sorry_dropout_end=0.1)
    rows = [draw_row(one, config=settings, seed=0, epoch=epoch).labels[4:] for epoch in range(6000)]
    kept = [sum(labels[t] != IGNORE for labels in rows) for t in range(5)]
    # shares of labels: 0.1, 0.3, 0.5, 0.7, 0.9 of 6000 draws, with a row without any (0.9 · 0.7 · 0.5 · 0.3 · 0.1 of
    # them, 57) given one at a random place; five standard deviations, ± 194
    assert all(
        abs(count - 6000 * share) < 194 + 57 for count, share in zip(kept, (0.1, 0.3, 0.5, 0.7, 0.9), strict=True)
    )
    constant = RowConfig(sorry_dropout=0.5, sorry_dropout_end=0.5)
    assert draw_row(one, config=constant, seed=0, epoch=3) == draw_row(
        one, config=RowConfig(sorry_dropout=0.5), seed=0, epoch=3
    )


@given(num_harmful=st.integers(1, 30), seed=st.integers(0, 999))
def test_each_label_is_drawn_by_itself_and_one_more_only_where_none_is_left(num_harmful, seed):
    row = rto_row(triple_of(num_harmful=num_harmful), max_length=64, sorry_dropout=0.5, rng=Random(seed))
    rng = Random(seed)
    expected = [rng.random() >= 0.5 for _ in range(num_harmful)]
    found = [label != IGNORE for label in row.labels[20:]]
    assert found == expected if any(expected) else sum(found) == 1


@given(num_harmful=st.integers(1, 30), seed=st.integers(0, 999))
def test_dropout_keeps_one_label_at_least(num_harmful, seed):
    row = rto_row(triple_of(num_harmful=num_harmful), max_length=64, sorry_dropout=0.999999, rng=Random(seed))
    assert len(learned(row)) == 1


def test_without_dropout_every_place_of_the_harmful_response_teaches_the_refusal_that_fits_there():
    triple = triple_of(num_prompt=3, num_harmful=4, bare_positions={2})
    row = rto_row(triple, max_length=64, sorry_dropout=0, rng=Random(0))
    assert row.input_ids == [10, 11, 12, 5000, 5001, 5002, 5003]
    assert row.labels[:3] == [IGNORE] * 3
    forms = [{BARE, BARE_2}, {SPACED, SPACED_2}, {BARE, BARE_2}, {SPACED, SPACED_2}]
    assert all(label in form for label, form in zip(row.labels[3:], forms, strict=True))


def test_each_of_several_refusal_words_is_drawn():
    row = rto_row(triple_of(num_harmful=60, bare_positions=range(30)), max_length=128, sorry_dropout=0, rng=Random(0))
    assert set(learned(row)) == {BARE, BARE_2, SPACED, SPACED_2}


def test_the_closing_token_of_an_rto_row_is_not_learned():
    row = rto_row(triple_of(), max_length=64, sorry_dropout=0, rng=Random(0))
    assert not set(CLOSING) & set(row.input_ids)
    assert not set(CLOSING) & set(row.labels)


def test_an_overlong_rto_row_keeps_the_prompts_head_and_tail_and_the_start_of_the_harmful_response():
    row = rto_row(triple_of(num_prompt=90, num_harmful=90), max_length=32, sorry_dropout=0, rng=Random(0))
    assert row.input_ids == [*range(10, 18), *range(92, 100), *range(5000, 5016)]
