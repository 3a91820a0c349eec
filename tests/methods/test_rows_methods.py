from collections import Counter

import pytest

from derta.chat import decode_continuation, refusal_tokens
from derta.config import RowConfig
from derta.data.mixture import TrainingSet
from derta.errors import DataError
from derta.methods import METHODS
from derta.methods.ingredients import take_counter
from derta.methods.rows_methods import BASE, ROW_METHODS, encode_rows
from derta.records import Example, Message, Triple
from derta.train.config import DertaConfig

TRIPLES = [Triple(query=f"Paint {i}?", safe="Sorry, no.", harmful="Mix.") for i in range(3)]


def example(answer):
    return Example(messages=(Message(role="user", content="Tea?"), Message(role="assistant", content=answer)))


SAFE, RTO = {"helpful": 3, "safe": 2}, {"helpful": 3, "safe": 2, "rto": 2}


@pytest.mark.parametrize(
    ("name", "terms", "harmful_prefix"),
    [
        ("vanilla", SAFE, False),
        ("vanilla_half", SAFE, False),
        ("harmful_prefix", SAFE, True),
        ("rto", RTO, False),
        ("derta", RTO, True),
        ("deep_alignment", SAFE, True),
        ("balanced", RTO | {"completion": 5, "counter": 4}, True),
    ],
)
def test_each_method_has_the_terms_of_the_paper(name, terms, harmful_prefix, small_data):
    rows = small_data(name, num_triples=2, num_examples=3)
    assert Counter(row.term for row in rows) == terms
    assert {row.harmful_prefix for row in rows if row.term == "safe"} == {harmful_prefix}
    assert not any(row.harmful_prefix for row in rows if row.term != "safe")


def test_only_vanilla_gets_two_triples_for_each_of_dertas():
    """DeRTa has two rows a triple, so vanilla needs twice the triples for as many rows; vanilla_half has half."""
    assert {method.name: method.triples_per_unit for method in ROW_METHODS} == {
        "vanilla": 2,
        "vanilla_half": 1,
        "harmful_prefix": 1,
        "rto": 1,
        "derta": 1,
        "deep_alignment": 1,
        "balanced": 1,
    }


def test_half_of_the_rows_of_deep_alignment_follow_a_hundred_tokens_at_most():
    config = DertaConfig("out", method="deep_alignment", use_cpu=True)
    assert (config.prefix_share, config.max_prefix) == (0.5, 100)


def test_balanced_has_completion_and_counter_rows_by_default_and_without_counter_examples_says_so():
    config = DertaConfig("out", method="balanced", counter_per_triple=1, use_cpu=True)
    assert (config.completion_per_triple, config.counter_per_triple) == (2.5, 1)
    with pytest.raises(DataError, match=r"counter_per_triple: expected counter examples, got none for 3 counter rows"):
        take_counter(TrainingSet(TRIPLES), config)
    one, two = (example(text) for text in ("A", "B"))
    assert take_counter(TrainingSet(TRIPLES, counter=[one, two]), config) == [one, two, one]


def test_completion_rows_read_helpful_and_taken_counter_examples_and_need_one(tiny_chat):
    refusals = refusal_tokens(tiny_chat)

    def pool(examples, counter, **settings):
        config = RowConfig(completion_per_triple=1, **settings)
        data = TrainingSet(TRIPLES, examples, counter=counter)
        rows = encode_rows(data, chat=tiny_chat, refusals=refusals, config=config)
        sources = [row.source for row in rows if row.term == "completion"]
        assert [one.id for one in sources] == [triple.id for triple in TRIPLES]
        assert len({id(one.pool) for one in sources}) == 1
        return [decode_continuation(tiny_chat.tokenizer, one.answer_ids) for one in sources[0].pool.answers]

    one, two, three = (example(text) for text in ("A", "B", "C"))
    assert pool([one, one], [two]) == ["A"]
    assert pool([one], [two, three], counter_per_triple=2 / 3) == ["A", "B", "C"]
    assert pool([], [two, three], counter_per_triple=1 / 3) == ["B"]
    with pytest.raises(DataError, match="completion_per_triple: expected helpful or counter examples"):
        pool([], [])


def test_completion_rows_take_the_triples_in_turn_whose_refusal_opens_with_a_refusal_word(tiny_chat):
    def ids(*triples):
        config, data = RowConfig(completion_per_triple=1.5), TrainingSet(triples, [example("A")])
        rows = encode_rows(data, chat=tiny_chat, refusals=refusal_tokens(tiny_chat), config=config)
        return [row.id for row in rows if row.term == "completion"]

    other = Triple(query="Tea?", safe="I cannot help.", harmful="Mix.")
    names = [f"completion:{triple.id}" for triple in TRIPLES[:2]]
    assert ids(TRIPLES[0], other, TRIPLES[1]) == [*names, *(f"{name}#1" for name in names)]
    with pytest.raises(DataError, match="expected safe responses that start with Sorry, got none"):
        ids(other)


def test_the_base_model_is_the_only_method_without_training():
    assert [method.name for method in METHODS.values() if not method.trains] == ["base"]
    assert METHODS["base"] is BASE
    assert list(METHODS) == ["base", *(method.name for method in ROW_METHODS), "dpo", "balanced_dpo"]
