from functools import partial
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from derta.config import PrepareConfig
from derta.data.mixture import draw_mixture, hold_out_requests, plan_mixture, sample, unused_note
from derta.errors import DataError
from derta.records import Example, Message, Triple, short_hash

TRIPLES = [Triple(query=f"query {i}", safe="Sorry, no.", harmful=f"step {i}") for i in range(20)]
EXAMPLES = [
    Example(messages=(Message(role="user", content=f"bread {i}"), Message(role="assistant", content="flour")))
    for i in range(50)
]


def test_the_paper_s_counts_come_from_the_paper_s_data() -> None:
    # 3,000 triples are 6,000 instances; 60,000 helpful examples are ten for each; vanilla takes 6,000 triples
    assert plan_mixture(PrepareConfig(), available_triples=6000, available_helpful=60_000) == (3000, 6000, 60_000)


@pytest.mark.parametrize(
    ("config", "triples", "helpful", "expected"),
    [
        # half of the 972 triples would want 486 * 2 * 10 = 9,720 examples; 985 allow 985 / 20 = 49.25
        (PrepareConfig(), 972, 985, (49, 98, 980)),
        (PrepareConfig(helpful_per_safety=1), 972, 985, (486, 972, 972)),
        (PrepareConfig(helpful_per_safety=1, match_instances=False), 490, 985, (490, 490, 980)),
        (PrepareConfig(num_triples=5), 10, 100, (5, 10, 100)),
        (PrepareConfig(num_triples=5, num_helpful=3), 10, 100, (5, 10, 3)),
        (PrepareConfig(num_helpful=40), 10, 100, (2, 4, 40)),
        (PrepareConfig(helpful_per_safety=0), 9, 0, (4, 8, 0)),
        (PrepareConfig(num_triples=3, match_instances=False, num_helpful=0), 3, 0, (3, 3, 0)),
        (PrepareConfig(helpful_per_safety=0.05), 100, 3, (30, 60, 3)),
        (PrepareConfig(helpful_per_safety=0.55), 100, 33, (30, 60, 33)),  # 33 / 1.1 is 29.999999999999996 in floats
    ],
)
def test_counts_scale_with_the_data(
    config: PrepareConfig, triples: int, helpful: int, expected: tuple[int, int, int]
) -> None:
    assert plan_mixture(config, available_triples=triples, available_helpful=helpful) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (PrepareConfig(num_triples=10), (10, None, 200)),
        (PrepareConfig(num_triples=10, match_instances=False), (10, None, 200)),
        (PrepareConfig(), (10, None, 200)),
        (PrepareConfig(num_helpful=40), (2, None, 40)),
    ],
)
def test_without_vanilla_no_triples_are_reserved_for_it(
    config: PrepareConfig, expected: tuple[int, int | None, int]
) -> None:
    counts = plan_mixture(config, available_triples=10, available_helpful=200, triples_per_unit=1)
    assert counts == expected
    with pytest.raises(DataError, match=r"expected 11 triples \(num_triples 11, helpful_per_safety 10\)"):
        plan_mixture(PrepareConfig(num_triples=11), available_triples=10, available_helpful=999, triples_per_unit=1)


@given(
    st.integers(min_value=0, max_value=10**6),
    st.integers(min_value=0, max_value=10**6),
    st.floats(min_value=0, max_value=1000),
    st.booleans(),
)
def test_default_counts_never_ask_for_more_than_there_is(triples: int, helpful: int, ratio: float, match: bool) -> None:
    config = PrepareConfig(helpful_per_safety=ratio, match_instances=match)
    try:
        counts = plan_mixture(config, available_triples=triples, available_helpful=helpful)
    except DataError as error:
        assume("are too few for one triple" not in str(error))
        raise
    assert counts.vanilla_triples is not None
    assert 0 < counts.triples <= counts.vanilla_triples <= triples
    assert counts.helpful <= helpful
    assert abs(counts.helpful - 2 * ratio * counts.triples) <= 0.5


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (
            PrepareConfig(num_triples=8),
            "num_triples 8, helpful_per_safety 10, vanilla uses twice as many, unless `match",
        ),
        (
            PrepareConfig(num_triples=5, num_helpful=90),
            "num_triples 5, vanilla uses twice as many, unless `match_instances: false`",
        ),
        (PrepareConfig(num_triples=20, match_instances=False), "num_triples 20, helpful_per_safety 10"),
        (PrepareConfig(helpful_per_safety=90, match_instances=False), "triples by the ratio, helpful_per_safety 90"),
    ],
)
def test_an_impossible_mixture_names_the_settings_that_lead_to_it(config: PrepareConfig, settings: str) -> None:
    with pytest.raises(DataError) as error:
        plan_mixture(config, available_triples=10, available_helpful=60)
    assert f"({settings}" in str(error.value)
    if not config.match_instances:
        assert f"({settings})" in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            PrepareConfig(num_triples=8),
            r"16 triples \(num_triples 8, .*match_instances: false.*\), only 10 are available",
        ),
        (
            PrepareConfig(num_triples=5, match_instances=False),
            r"expected 100 helpful examples .*, only 60 are available",
        ),
        (PrepareConfig(num_triples=1, num_helpful=61), r"expected 61 helpful examples .*, only 60 are available"),
        (PrepareConfig(num_helpful=61), r"expected 61 helpful examples .*, only 60 are available"),
        (PrepareConfig(helpful_per_safety=100), r"10 triples and 60 helpful examples are too few for one triple"),
    ],
)
def test_an_impossible_mixture_is_reported_with_the_available_counts(config: PrepareConfig, message: str) -> None:
    with pytest.raises(DataError, match=message):
        plan_mixture(config, available_triples=10, available_helpful=60)


@given(st.integers(), st.integers(min_value=1, max_value=10), st.integers(min_value=0, max_value=50))
def test_sets_share_their_examples_and_fewer_triples_are_among_more(seed: int, n: int, helpful: int) -> None:
    few, many = (
        draw_mixture(triples=TRIPLES, examples=EXAMPLES, num_triples=count, num_helpful=helpful, seed=seed)
        for count in (n, 2 * n)
    )
    assert few.examples == many.examples
    assert (len(few.triples), len(many.triples)) == (n, 2 * n)
    assert {t.id for t in few.triples} <= {t.id for t in many.triples}
    assert len({t.id for t in many.triples}) == 2 * n


@given(st.randoms(use_true_random=False))
def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_the_data(rng: Random) -> None:
    draw = partial(draw_mixture, num_triples=5, num_helpful=10)
    triples, examples = rng.sample(TRIPLES, len(TRIPLES)), rng.sample(EXAMPLES, len(EXAMPLES))
    first = draw(triples=TRIPLES, examples=EXAMPLES, seed=1)
    assert draw(triples=triples, examples=examples, seed=1) == first
    assert draw(triples=TRIPLES, examples=EXAMPLES, seed=2) != first


def test_a_mixture_above_the_available_data_is_an_error() -> None:
    with pytest.raises(DataError, match="expected 51 helpful examples, only 50 are available"):
        draw_mixture(triples=TRIPLES, examples=EXAMPLES, num_triples=2, num_helpful=51, seed=0)
    with pytest.raises(DataError, match="expected 22 triples, only 20 are available"):
        draw_mixture(triples=TRIPLES, examples=EXAMPLES, num_triples=22, num_helpful=0, seed=0)


@given(st.lists(st.integers(), unique=True), st.data(), st.integers())
def test_a_sample_is_a_part_in_order_and_the_same_for_the_same_seed(
    items: list[int], data: st.DataObject, seed: int
) -> None:
    count = data.draw(st.integers(min_value=0, max_value=len(items)))
    drawn = sample(items, count, rng=Random(seed))
    assert len(set(drawn)) == count
    assert drawn == [item for item in items if item in set(drawn)]
    assert drawn == sample(items, count, rng=Random(seed))


@pytest.mark.parametrize("count", [4, -1])
def test_a_sample_above_the_number_of_items_is_an_error(count: int) -> None:
    with pytest.raises(DataError, match=f"expected {count} items, only 3 are available"):
        sample([1, 2, 3], count, rng=Random(0))


def test_a_held_out_query_leaves_with_all_its_triples() -> None:
    triples = [
        Triple(query=query, safe="Sorry, no.", harmful=harmful, category="food")
        for query, harmful in [("Bread?", "flour"), ("bread", "rye"), ("Cake?", "sugar"), ("Tea?", "leaves")]
    ]
    for seed in range(10):
        held_out = hold_out_requests(triples, 1, rng=Random(seed))
        (request,) = held_out.requests
        first = next(triple for triple in triples if triple.query == request.text)
        assert (request.id, request.harmful, request.category) == (short_hash(first.query), first.harmful, "food")
        assert len(held_out.triples) == (2 if request.text == "Bread?" else 3)
        assert request.text not in {triple.query for triple in held_out.triples}
    with pytest.raises(DataError, match="expected 4 items, only 3 are available"):
        hold_out_requests(triples, 4, rng=Random(0))


@pytest.mark.parametrize(
    ("config", "triples", "helpful", "per_unit", "parts"),
    [
        (PrepareConfig(), 80, 160, 1, ["Only 8 of 80", "`data.helpful_per_safety` is 10, which is 20", "are 160; add"]),
        (PrepareConfig(), 80, 160, 2, ["Only 16 of 80", "which is 10 helpful examples for each", "`data.num_triples`"]),
        (PrepareConfig(num_helpful=40), 80, 160, 1, ["Only 2 of 80", "there are 40; raise `data.num_helpful`"]),
        (PrepareConfig(), 80, 1600, 1, []),
        (PrepareConfig(), 9, 900, 2, []),  # the ninth has no partner
        (PrepareConfig(num_triples=8), 80, 160, 1, []),  # as the user says
        (PrepareConfig(helpful_per_safety=0), 80, 0, 1, []),
    ],
)
def test_triples_that_the_ratio_leaves_out_are_a_sentence_with_the_key(
    config, triples, helpful, per_unit, parts
) -> None:
    available = {"available_triples": triples, "available_helpful": helpful}
    note = unused_note(config, plan_mixture(config, **available, triples_per_unit=per_unit), **available)
    assert bool(note) == bool(parts)
    assert all(part in note for part in parts)
