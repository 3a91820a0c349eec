"""Rows from ids alone: prompts are below 1000, safe text 1000 to 1999, harmful text from 5000, refusals 1 to 4.

Harmful text of an earlier turn is from 5500.
"""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.config import RowConfig
from derta.data.encoding import EncodedExample, EncodedTriple
from derta.data.rows import (
    IGNORE,
    Instance,
    TrainRow,
    check_row,
    draw_row,
    helpful_row,
    instances,
    max_tokens,
    reference_dropout,
    reference_rto_row,
    rto_row,
    safe_row,
)
from derta.errors import DataError
from derta.methods import METHODS
from method_rows import ROW_METHODS, instances_of

BARE, SPACED, BARE_2, SPACED_2 = 1, 2, 3, 4
CLOSING = (9, 8)
HARMFUL = range(5000, 6000)
SAFE = [*range(1000, 1006), *CLOSING]
FIRST_SAFE = {1000, 1100, 1200}  # at the start, after text, after white space


def triple_of(
    *,
    name="t",
    num_prompt=20,
    num_safe=6,
    num_harmful=12,
    num_words=4,
    bare_positions=(),
    trailing_blank=False,
    num_earlier=0,
):
    bare = frozenset(bare_positions)
    allowed = [(BARE, BARE_2) if t in bare or t == 0 else (SPACED, SPACED_2) for t in range(num_harmful)]
    start = tuple(range(10, 10 + num_prompt))
    earlier = tuple(HARMFUL[500 : 500 + num_earlier])
    prompt_ids = (*start, *earlier, *start) if earlier else start
    harmful_prompt_ids = (*prompt_ids, 999) if trailing_blank else prompt_ids
    return EncodedTriple(
        id=name,
        prompt_ids=prompt_ids,
        harmful_prompt_ids=harmful_prompt_ids,
        earlier_refusals=tuple((SPACED, SPACED_2) if token in earlier else () for token in harmful_prompt_ids)
        if earlier
        else (),
        safe_ids=(*range(1000, 1000 + num_safe), *CLOSING),
        safe_spaced_ids=(*range(1100, 1100 + num_safe), *CLOSING),
        safe_bare_ids=(*range(1200, 1200 + num_safe), *CLOSING),
        harmful_ids=tuple(HARMFUL[:num_harmful]),
        closing_ids=CLOSING,
        refusal_ids=(*allowed, (BARE, BARE_2)),
        bare_positions=bare,
        word_cuts=tuple(num_harmful * n // num_words for n in range(num_words + 1)),
    )


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


def example_of(*, name="e", num_prompt=20, num_response=6):
    return EncodedExample(name, tuple(range(10, 10 + num_prompt)), (*range(2000, 2000 + num_response), *CLOSING))


triples = st.builds(
    triple_of,
    num_prompt=st.integers(1, 90),
    num_safe=st.integers(1, 90),
    num_harmful=st.integers(1, 90),
    bare_positions=st.sets(st.integers(1, 90)),
    trailing_blank=st.booleans(),
    num_earlier=st.integers(0, 40),
)
examples = st.builds(example_of, num_prompt=st.integers(1, 90), num_response=st.integers(1, 90))
row_settings = st.builds(
    RowConfig,
    max_length=st.integers(32, 120),
    prefix_share=st.floats(0, 1),
    sorry_dropout=st.floats(0, 0.99),
    reference=st.booleans(),
)


def rows_of(method, *, triples, examples=(), settings, seed=0, epoch=0):
    found = instances_of(method, triples=triples, examples=examples)
    return [draw_row(one, config=settings, seed=seed, epoch=epoch) for one in found]


def learned(row):
    return [label for label in row.labels if label != IGNORE]


def decoded_k(row):
    """How many tokens of the harmful response a safe row reads."""
    return sum(token in HARMFUL[:500] for token in row.input_ids)


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


def test_an_overlong_rto_row_keeps_the_prompts_head_and_tail_and_the_start_of_the_harmful_response():
    row = rto_row(triple_of(num_prompt=90, num_harmful=90), max_length=32, sorry_dropout=0, rng=Random(0))
    assert row.input_ids == [*range(10, 18), *range(92, 100), *range(5000, 5016)]


def test_an_overlong_helpful_answer_is_cut_at_its_end():
    one = Instance("helpful", example_of(num_prompt=90, num_response=90), False, 0)
    row = draw_row(one, config=RowConfig(max_length=32), seed=0, epoch=0)
    assert row.input_ids == [*range(10, 18), *range(92, 100), *range(2000, 2016)]
    assert learned(row) == list(range(2000, 2016))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (TrainRow("r", "safe", [1, 2], [IGNORE]), "as many labels as tokens, got 1 and 2"),
        (TrainRow("r", "safe", [], []), "as many labels as tokens, got 0 and 0"),
        (TrainRow("r", "safe", [1, 2], [1, 2]), "a prompt before the first label"),
        (TrainRow("r", "rto", [1, 2], [IGNORE, IGNORE]), r"row r \(rto\): every label is masked; raise max_length"),
    ],
)
def test_a_row_that_a_loss_could_not_use_is_refused_by_name(row, message):
    with pytest.raises(DataError, match=message):
        check_row(row)


# --- reference mode: the released code's choices, written out again from their description ------------------------


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
