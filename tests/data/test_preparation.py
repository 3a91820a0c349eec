from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.config import DataSection, PrepareConfig
from derta.data.preferences import Preference
from derta.data.preparation import prepare
from derta.errors import DataError
from derta.records import Example, Message, Prompt, Request, Triple, short_hash

TRIPLES = [Triple(query=f"Paint {i}?", safe="I'm sorry, but no.", harmful=f"Step {i}.") for i in range(12)]


def example(request: str) -> Example:
    return Example(messages=(Message(role="user", content=request), Message(role="assistant", content="Flour.")))


EXAMPLES = [example(f"Bread {i}?") for i in range(120)]


@given(seed=st.integers(), held_out=st.integers(0, 6), held_out_helpful=st.integers(0, 20))
def test_nothing_that_is_evaluated_or_held_out_is_trained_on(seed: int, held_out: int, held_out_helpful: int) -> None:
    prepared = prepare(
        TRIPLES,
        [*EXAMPLES, *(example(triple.query.lower()) for triple in TRIPLES)],
        requests=["paint 3", Request(id="r", text="PAINT 4?"), "Bread 7"],
        seed=seed,
        helpful_per_safety=1,
        held_out_requests=held_out,
        held_out_helpful=held_out_helpful,
    )
    held = {request.text for request in prepared.held_out_requests}
    assert len(held) == held_out
    trained = {triple.query for triple in prepared.triples}
    assert not trained & ({"Paint 3?", "Paint 4?"} | held)
    learned = {one.messages[0].content for one in prepared.examples}
    assert not learned & ({"paint 3?", "paint 4?", "Bread 7?"} | {text.lower() for text in held})
    assert len(prepared.held_out_examples) == held_out_helpful
    assert not {one.id for one in prepared.held_out_examples} & {one.id for one in prepared.examples}
    assert prepared.dropped_examples == Counter(in_evaluation=3 + held_out)
    assert {triple.safe for triple in prepared.triples} == {"Sorry, but no."}


@given(seed=st.integers(), match=st.booleans())
def test_methods_share_their_examples_and_vanilla_holds_every_method_s_triples(seed: int, match: bool) -> None:
    prepared = prepare(TRIPLES, EXAMPLES, helpful_per_safety=1, match_instances=match)
    derta, vanilla = (prepared.training_set(triples_per_unit=units, seed=seed) for units in (1, 2))
    assert len(vanilla.triples) == (2 if match else 1) * len(derta.triples)
    assert vanilla.examples == derta.examples
    assert {triple.id for triple in derta.triples} <= {triple.id for triple in vanilla.triples}
    assert derta == prepared.training_set(seed=seed)


def test_data_that_was_prepared_without_vanilla_has_all_triples_and_none_for_it() -> None:
    prepared = prepare(TRIPLES, num_triples=12, triples_per_unit=1)
    assert len(prepared.training_set().triples) == 12
    assert prepared.notes[2] == "Each method trains on 12 triples and 0 helpful examples."
    with pytest.raises(DataError, match=r"expected triples_per_unit 1, .* got 2; add vanilla to the methods"):
        prepared.training_set(triples_per_unit=2)
    with pytest.raises(DataError, match=r"expected 24 triples .*, only 12 are available"):
        prepare(TRIPLES, num_triples=12)


def test_without_examples_the_mixture_holds_none() -> None:
    counts = prepare(TRIPLES).counts
    assert (counts.triples, counts.helpful) == (6, 0)
    with pytest.raises(DataError, match="are too few for one triple"):
        prepare(TRIPLES, EXAMPLES, requests=[one.messages[0].content for one in EXAMPLES])


def test_a_prompt_counts_by_its_request() -> None:
    messages = (Message(role="user", content="Dear painter, paint 3?"),)
    known = Prompt(id="1", request_id="1", request="Paint 3?", attack="by hand", messages=messages)
    unknown = known.model_copy(update={"request": None})
    assert prepare(TRIPLES, requests=[known, unknown]).dropped_triples == Counter(in_evaluation=1)


def test_raw_texts_are_trained_on_and_never_held_out() -> None:
    raw = Example(text="Bread.")
    prepared = prepare(TRIPLES, [raw, *EXAMPLES[:10]], num_triples=1, num_helpful=1, held_out_helpful=10)
    assert prepared.examples == [raw]
    with pytest.raises(DataError, match="expected 1 items, only 0 are available"):
        prepare(TRIPLES, [raw], held_out_helpful=1)


def test_the_notes_list_all_that_was_dropped_and_changed() -> None:
    pairs = [Preference(query=query, chosen="Yes.", rejected="No.") for query in ("Tea?", "Tea?", "Paint 3?")]
    prepared = prepare(
        [*TRIPLES, TRIPLES[0]], [*EXAMPLES, EXAMPLES[0]], requests=["Paint 3?"], preferences=pairs, helpful_per_safety=1
    )
    assert prepared.notes == [
        "11 triples remain for training; dropped: 1 duplicate, 1 in_evaluation; changed: 11 opener_normalized.",
        "120 helpful examples remain for training; dropped: 1 duplicate.",
        "Each method trains on 5 triples (vanilla: 10) and 10 helpful examples.",
        "1 preferences remain in addition to the triples; dropped: 1 duplicate, 1 in_evaluation.",
    ]
    assert len(prepare(TRIPLES).notes) == 3


def test_the_notes_count_preferences_where_there_are_or_were_any() -> None:
    pair = Preference(query="Tea?", chosen="Yes.", rejected="No.")
    for pairs, requests, note in (
        ([pair], [], "1 preferences remain in addition to the triples; dropped: none."),
        ([pair], ["tea"], "0 preferences remain in addition to the triples; dropped: 1 in_evaluation."),
    ):
        assert prepare(TRIPLES, preferences=pairs, requests=requests).notes[3:] == [note]


def test_the_identity_of_prepared_data_is_that_of_its_rows_in_order_and_of_its_counts() -> None:
    pair = Preference(query="Tea?", chosen="Yes.", rejected="No.")
    base = prepare(TRIPLES, EXAMPLES, preferences=[pair], helpful_per_safety=1)
    assert prepare(TRIPLES, EXAMPLES, preferences=[pair], helpful_per_safety=1).identity() == base.identity()
    ids = [",".join(one.id for one in rows) for rows in (base.triples, base.examples, base.preferences)]
    assert base.identity() == short_hash(*ids, str(base.counts))  # that of existing runs
    others = [
        base._replace(triples=base.triples[::-1]),
        base._replace(examples=base.examples[1:]),
        base._replace(preferences=[]),
        base._replace(counts=base.counts._replace(helpful=1)),
    ]
    assert len({base.identity(), *(other.identity() for other in others)}) == 5


def test_a_training_set_holds_all_preferences() -> None:
    pairs = [Preference(query=query, chosen="Yes.", rejected="No.") for query in ("Tea?", "Salt?")]
    prepared = prepare(TRIPLES, preferences=pairs)
    assert prepared.training_set().preferences == prepared.training_set(triples_per_unit=2).preferences == pairs


def test_the_seed_chooses_what_is_held_out_and_what_is_trained_on_and_is_0_by_default() -> None:
    def held_out(**seed: int) -> list[str]:
        prepared = prepare(TRIPLES, EXAMPLES, held_out_requests=3, held_out_helpful=5, helpful_per_safety=1, **seed)
        held = [*prepared.held_out_requests, *prepared.held_out_examples]
        return [one.id for one in held]

    def trained(**seed: int) -> list[str]:
        drawn = prepare(TRIPLES, EXAMPLES, num_triples=2, num_helpful=9).training_set(**seed)
        return [one.id for one in [*drawn.triples, *drawn.examples]]

    for draw in (held_out, trained):
        assert draw() == draw(seed=0)
        assert len({tuple(draw(seed=seed)) for seed in range(4)}) == 4


def test_apologies_and_duplicates_stay_where_the_settings_say_so() -> None:
    prepared = prepare(
        TRIPLES, [EXAMPLES[0], EXAMPLES[0]], normalize=False, drop_duplicates=False, num_triples=1, num_helpful=2
    )
    assert {triple.safe for triple in prepared.triples} == {"I'm sorry, but no."}
    assert len(prepared.examples) == 2
    assert prepare(TRIPLES, [EXAMPLES[0], EXAMPLES[0]], num_triples=1, num_helpful=1).dropped_examples == Counter(
        duplicate=1
    )
    assert {t.safe for t in prepare(TRIPLES, refusal_words=("Apologies", "Sorry")).triples} == {"Apologies, but no."}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_triple": 3}, r"prepare: unknown setting 'num_triple'; did you mean 'num_triples'\?"),
        ({"policy": "guess"}, r"prepare: policy: .*'drop', 'prepend', 'keep' or 'rewrite', got 'guess'"),
        ({"num_triples": 0}, "num_triples: .*greater than or equal to 1, got 0"),
        ({"num_triples": -1}, "num_triples: .*greater than or equal to 1, got -1"),
        ({"num_helpful": -1}, "num_helpful: .*greater than or equal to 0, got -1"),
        ({"helpful_per_safety": -1}, "helpful_per_safety: .*greater than or equal to 0, got -1"),
        ({"helpful_per_safety": float("nan")}, "helpful_per_safety: .*got nan"),
        ({"helpful_per_safety": 1001}, "helpful_per_safety: .*less than or equal to 1000"),
        ({"policy": "prepend", "opener": "Sure."}, "opener: expected a sentence that refuses"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare(TRIPLES, EXAMPLES, **settings)


def test_a_recipe_has_the_same_settings() -> None:
    assert set(PrepareConfig.model_fields) <= set(DataSection.model_fields)


def test_a_counter_example_whose_answer_is_a_harmful_response_is_dropped_because_no_label_holds_harm() -> None:
    harmful = Example(messages=(Message(role="user", content="Rice?"), Message(role="assistant", content="step 3")))
    prepared = prepare(TRIPLES, EXAMPLES, counter=[harmful, example("Salt?")])
    assert prepared.counter == [example("Salt?")]
    assert prepared.dropped_counter == Counter(answer_is_harmful=1)


def test_counter_examples_are_cleaned_as_helpful_ones_and_shuffled_by_the_seed() -> None:
    counter = [example(f"Salt {i}?") for i in range(9)]
    asked = [*counter, counter[0], example("Paint 3?"), EXAMPLES[0]]
    prepared = prepare(
        TRIPLES, EXAMPLES[:30], counter=asked, requests=["paint 3"], held_out_helpful=30, num_triples=2, num_helpful=0
    )
    assert prepared.counter == counter
    assert prepared.dropped_counter == Counter(duplicate=1, in_evaluation=1, held_out=1)
    assert prepared.notes[-1] == (
        "9 counter examples remain for training; dropped: 1 duplicate, 1 held_out, 1 in_evaluation."
    )
    orders = [prepared.training_set(seed=seed).counter for seed in range(4)]
    assert all({one.id for one in order} == {one.id for one in counter} for order in orders)
    assert len({tuple(one.id for one in order) for order in orders}) == 4
    without = prepare(TRIPLES, EXAMPLES, num_triples=2)
    assert without._replace(counter=counter).identity() != without.identity()


def test_triples_that_the_ratio_leaves_out_are_a_warning(caplog):
    triples = [Triple(query=f"Paint {i}?", safe="Sorry, no.", harmful="Sure.") for i in range(80)]
    examples = [
        Example(messages=(Message(role="user", content=f"Bread {i}?"), Message(role="assistant", content="Flour.")))
        for i in range(160)
    ]
    prepare(triples, examples, triples_per_unit=1)
    [warning] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert warning.getMessage().startswith("Only 8 of 80 triples are trained on: `data.helpful_per_safety` is 10")
