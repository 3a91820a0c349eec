"""Rows of every method, what is drawn for them, and how they are put together."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.config import RowConfig
from derta.data.rows import (
    IGNORE,
    Instance,
    TrainRow,
    check_row,
    draw_row,
    helpful_row,
    instances,
    max_tokens,
    rto_row,
    safe_row,
)
from derta.methods import METHODS
from encoded_rows import (
    BARE,
    BARE_2,
    CLOSING,
    HARMFUL,
    SPACED,
    SPACED_2,
    decoded_k,
    example_of,
    examples,
    learned,
    row_settings,
    rows_of,
    triple_of,
    triples,
)
from method_rows import ROW_METHODS, instances_of

SAFE = [*range(1000, 1006), *CLOSING]
FIRST_SAFE = {1000, 1100, 1200}  # at the start, after text, after white space


# --- what holds for every method ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ROW_METHODS)
@given(triple=triples, example=examples, settings=row_settings, seed=st.integers(0, 99))
def test_no_label_is_ever_taken_from_harmful_text(method, triple, example, settings, seed):
    for row in rows_of(method, triples=[triple], examples=[example], settings=settings, seed=seed, epoch=seed % 5):
        assert not set(row.labels) & set(HARMFUL)
        for read, label in zip(row.input_ids, row.labels, strict=True):
            if read in HARMFUL:
                assert label in {IGNORE, BARE, SPACED, BARE_2, SPACED_2}
                assert label == IGNORE or row.term == "rto"


@pytest.mark.parametrize("method", ROW_METHODS)
@given(triple=triples, example=examples, settings=row_settings, seed=st.integers(0, 99))
def test_every_row_fits_and_teaches_something_and_its_first_label_is_masked(method, triple, example, settings, seed):
    for row in rows_of(method, triples=[triple], examples=[example], settings=settings, seed=seed):
        check_row(row)
        assert len(row.input_ids) == len(row.labels) <= settings.max_length
        assert row.labels[0] == IGNORE
        if not settings.reference:  # the released code's dropout falls where it falls
            assert learned(row)


@given(triple=triples, settings=row_settings, method=st.sampled_from(ROW_METHODS), seed=st.integers(0, 99))
def test_truncation_never_drops_the_first_token_of_a_refusal(triple, settings, method, seed):
    safe = [row for row in rows_of(method, triples=[triple], settings=settings, seed=seed) if row.term == "safe"]
    assert [learned(row)[0] in FIRST_SAFE for row in safe] == [True]


@given(triple=triples, settings=row_settings, seed=st.integers(0, 99))
def test_labels_are_the_tokens_themselves_except_on_harmful_text(triple, settings, seed):
    for row in rows_of("derta", triples=[triple], settings=settings, seed=seed):
        if row.term == "safe":
            assert all(label in (IGNORE, read) for read, label in zip(row.input_ids, row.labels, strict=True))


@given(triple=triples, example=examples, settings=row_settings, seed=st.integers(0, 9))
def test_derta_is_harmful_prefix_and_rto_together(triple, example, settings, seed):
    def drawn(method):
        return set(map(repr, rows_of(method, triples=[triple], examples=[example], settings=settings, seed=seed)))

    rto_only = {
        repr(row) for row in rows_of("rto", triples=[triple], settings=settings, seed=seed) if row.term == "rto"
    }
    assert drawn("derta") == drawn("harmful_prefix") | rto_only
    assert len(drawn("derta")) == 3


@given(triple=triples, max_length=st.integers(32, 120), seed=st.integers(0, 9))
def test_harmful_prefix_without_prefixes_is_vanilla(triple, max_length, seed):
    settings = RowConfig(max_length=max_length, prefix_share=0)
    assert rows_of("harmful_prefix", triples=[triple], settings=settings, seed=seed) == rows_of(
        "vanilla", triples=[triple], settings=settings, seed=seed
    )


def test_vanilla_and_vanilla_half_differ_only_in_how_many_triples_they_take():
    settings = RowConfig()
    given_triples = [triple_of(name=str(i)) for i in range(4)]
    assert rows_of("vanilla", triples=given_triples, settings=settings) == rows_of(
        "vanilla_half", triples=given_triples, settings=settings
    )
    assert METHODS["vanilla"].triples_per_unit == 2 * METHODS["vanilla_half"].triples_per_unit
    assert {spec.triples_per_unit for name, spec in METHODS.items() if name != "vanilla"} == {1}


def test_the_instances_of_a_method_by_hand():
    triple, example = triple_of(), example_of()
    helpful, safe = Instance("helpful", example, False, 0), Instance("safe", triple, False, 0)
    assert instances(triples=[triple], examples=[example]) == [helpful, safe]
    with_prefix, rto = Instance("safe", triple, True, 0), Instance("rto", triple, False, 0)
    assert instances(triples=[triple], examples=[example], harmful_prefix=True, rto=True) == [
        helpful,
        with_prefix,
        rto,
    ]


def test_an_id_names_the_term_the_source_and_every_branch_but_the_first():
    one = Instance("safe", triple_of(name="7"), True, 0)
    assert [one._replace(branch=branch).id for branch in range(3)] == ["safe:7", "safe:7#1", "safe:7#2"]


def test_instances_have_unique_ids():
    found = instances_of("derta", triples=[triple_of(name=str(i)) for i in range(5)], examples=[example_of(name="0")])
    assert len({one.id for one in found}) == len(found) == 11


# --- what is drawn -----------------------------------------------------------------------------------------------


def test_a_row_depends_on_seed_epoch_and_id_and_not_on_the_order_of_access():
    settings = RowConfig(sorry_dropout=0.5)
    found = instances_of("derta", triples=[triple_of(name=str(i), num_harmful=40) for i in range(30)], examples=[])

    def draw(one, epoch=0, seed=0):
        return draw_row(one, config=settings, seed=seed, epoch=epoch)

    there, back = [draw(one) for one in found], [draw(one) for one in reversed(found)]
    assert there == back[::-1]
    moved = [Instance(one.term, one.source, one.harmful_prefix, source_index=99) for one in found]
    assert [draw(one) for one in moved] == there
    for other in ([draw(one, epoch=1) for one in found], [draw(one, seed=1) for one in found]):
        same = sum(a == b for a, b in zip(there, other, strict=True))
        assert same < len(found) / 3  # 1/9 of the prefix rows draw k = 0 twice; RTO rows of 40 labels never agree


def test_k_is_uniform_over_the_tokens_where_there_is_a_prefix_and_two_thirds_of_the_rows_have_one():
    one = Instance("safe", triple_of(num_harmful=5), True, 0)
    k = Counter(decoded_k(draw_row(one, config=RowConfig(), seed=0, epoch=epoch)) for epoch in range(6000))
    # 6000 draws: k = 0 in 1/3 (2000 ± 37), each of 1 … 5 in 2/15 (800 ± 26); five standard deviations are allowed.
    assert set(k) == set(range(6))
    assert abs(k[0] - 2000) < 185
    assert all(abs(k[i] - 800) < 132 for i in range(1, 6))


def test_with_a_maximum_k_is_uniform_up_to_it():
    one = Instance("safe", triple_of(num_harmful=12), True, 0)
    settings = RowConfig(prefix_share=0.5, max_prefix=4)
    k = Counter(decoded_k(draw_row(one, config=settings, seed=0, epoch=epoch)) for epoch in range(4000))
    # 4000 draws: k = 0 in a half (2000 ± 32), each of 1 … 4 in an eighth (500 ± 21); five standard deviations
    assert set(k) == set(range(5))
    assert abs(k[0] - 2000) < 160
    assert all(abs(k[i] - 500) < 105 for i in range(1, 5))
    assert max_tokens(one, config=settings) == 20 + 4 + 8
    short = Instance("safe", triple_of(num_harmful=2), True, 0)
    assert max_tokens(short, config=settings) == 20 + 2 + 8


def test_an_instance_without_a_harmful_prefix_reads_nothing_harmful():
    for reference in (False, True):
        one = Instance("safe", triple_of(), False, 1)
        rows = [
            draw_row(one, config=RowConfig(prefix_share=1, reference=reference), seed=0, epoch=epoch)
            for epoch in range(20)
        ]
        assert rows == [TrainRow("t", "safe", [*range(10, 30), *SAFE], [IGNORE] * 20 + SAFE)] * 20


def test_a_share_of_one_puts_a_prefix_before_every_safe_response():
    one = Instance("safe", triple_of(), True, 0)
    settings = RowConfig(prefix_share=1)
    assert all(decoded_k(draw_row(one, config=settings, seed=0, epoch=epoch)) for epoch in range(200))


# --- how a row is put together -----------------------------------------------------------------------------------


def test_the_safe_response_has_the_form_for_the_text_before_it():
    triple = triple_of(num_prompt=2, num_safe=2, num_harmful=4, bare_positions={3}, trailing_blank=True)
    at_start, after_text, after_space = (safe_row(triple, k=k, max_length=64) for k in (0, 2, 3))
    assert at_start.input_ids == [10, 11, 1000, 1001, *CLOSING]
    assert after_text.input_ids == [10, 11, 999, 5000, 5001, 1100, 1101, *CLOSING]
    assert after_space.input_ids == [10, 11, 999, 5000, 5001, 5002, 1200, 1201, *CLOSING]
    assert after_space.labels == [IGNORE] * 6 + [1200, 1201, *CLOSING]


def test_truncation_takes_the_prefix_then_the_prompt_then_the_end_of_the_safe_response():
    prefix_gives_way = safe_row(triple_of(num_prompt=20, num_safe=6, num_harmful=40), k=40, max_length=40)
    assert (decoded_k(prefix_gives_way), len(prefix_gives_way.input_ids)) == (12, 40)  # 40 - 20 - 8
    prompt_gives_way = safe_row(triple_of(num_prompt=60, num_safe=6), k=5, max_length=40)
    assert decoded_k(prompt_gives_way) == 0
    assert prompt_gives_way.input_ids[:32] == [*range(10, 26), *range(54, 70)]
    assert learned(prompt_gives_way) == [*range(1000, 1006), *CLOSING]
    safe_gives_way = safe_row(triple_of(num_prompt=60, num_safe=60), k=5, max_length=40)
    assert safe_gives_way.input_ids[:16] == [*range(10, 18), *range(62, 70)]
    assert learned(safe_gives_way) == list(range(1000, 1024))


def test_the_prefix_gives_way_to_the_longest_form_of_the_safe_response():
    triple = replace(triple_of(num_prompt=10, num_safe=2, num_harmful=30), safe_spaced_ids=tuple(range(1100, 1120)))
    for k in range(1, 31):
        row = safe_row(triple, k=k, max_length=40)
        assert decoded_k(row) == min(k, 10)  # 40 - 10 - 20
        assert learned(row) == list(range(1100, 1120))


@pytest.mark.parametrize("method", ROW_METHODS)
@given(triple=triples, example=examples, settings=row_settings, seed=st.integers(0, 99))
def test_no_row_is_longer_than_the_maximum_of_its_instance(method, triple, example, settings, seed):
    for one in instances_of(method, triples=[triple], examples=[example]):
        length = len(draw_row(one, config=settings, seed=seed, epoch=seed % 5).input_ids)
        longest = max_tokens(one, config=settings)
        assert length <= longest if one.harmful_prefix else length == longest


def test_the_maximum_of_tokens_by_hand():
    triple = triple_of(num_prompt=10, num_safe=6, num_harmful=30, trailing_blank=True)  # a harmful prompt of 11
    longer = replace(triple, safe_spaced_ids=tuple(range(1100, 1120)))

    def longest(term, source, *, prefix=False, **settings):
        return max_tokens(Instance(term, source, prefix, 0), config=RowConfig(**settings))

    assert longest("helpful", example_of()) == 28
    assert (longest("rto", triple), longest("rto", triple, reference=True)) == (41, 43)
    assert (longest("safe", triple), longest("safe", triple, prefix=True)) == (18, 49)
    assert longest("safe", longer, prefix=True) == len(safe_row(longer, k=30, max_length=1024).input_ids) == 61
    assert longest("safe", longer, prefix=True, max_length=40) == 40
    assert max_tokens(TrainRow("r", "safe", [1] * 2000, [1] * 2000), config=RowConfig()) == 2000


def test_an_overlong_answer_leaves_the_prompt_half_of_the_row():
    harmful = rto_row(triple_of(num_prompt=90, num_harmful=90), max_length=64, sorry_dropout=0, rng=Random(0))
    assert (harmful.input_ids[:32], decoded_k(harmful)) == ([*range(10, 26), *range(84, 100)], 32)
    helpful = helpful_row(example_of(num_prompt=90, num_response=90), max_length=64)
    answer = list(range(2000, 2032))
    assert helpful == TrainRow("e", "helpful", [*harmful.input_ids[:32], *answer], [IGNORE] * 32 + answer)


def test_an_overlong_helpful_answer_is_cut_at_its_end():
    one = Instance("helpful", example_of(num_prompt=90, num_response=90), False, 0)
    row = draw_row(one, config=RowConfig(max_length=32), seed=0, epoch=0)
    assert row.input_ids == [*range(10, 18), *range(92, 100), *range(2000, 2016)]
    assert learned(row) == list(range(2000, 2016))
