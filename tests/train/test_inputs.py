from types import SimpleNamespace

import pytest

from derta.data.mixture import TrainingSet
from derta.data.rows import IGNORE, TrainRow
from derta.data.tree import TreeRow
from derta.errors import DataError, RecipeError
from derta.methods import METHODS, Method
from derta.records import Example, Message, Triple
from derta.train.config import DertaConfig
from derta.train.inputs import (
    check_ids,
    check_refusal_openings,
    dataset_from_rows,
    encode,
    encode_evaluation,
    micro_batches_per_step,
    row_method_of,
    tokenizer_of,
)

TRIPLES = [
    Triple(query=f"How do I paint {thing}?", safe=f"Sorry, no {thing}.", harmful=f"Sure, {thing}. Step 1: wait.")
    for thing in ("bread", "tea", "a kite")
]
EXAMPLES = [Example(messages=(Message(role="user", content="And tea?"), Message(role="assistant", content="A story.")))]
ROWS = [
    {"input_ids": [5, 6, 7, 8, 9], "labels": [IGNORE, IGNORE, 7, 8, 9], "term": "helpful"},
    {"input_ids": [5, 6, 7, 8], "labels": [IGNORE, IGNORE, 3, 3], "term": "rto"},
]


@pytest.fixture
def config(tmp_path):
    return DertaConfig(str(tmp_path), method="derta", max_length=64)


@pytest.fixture
def encoded(make_tokenizer, config):
    def run(triples=(), examples=(), counter=(), tokenized=None, config=config):
        what = "triples= or rows="
        data = TrainingSet(triples, examples, counter=counter)
        return encode(data, tokenized=tokenized, what=what, tokenizer=make_tokenizer(), config=config)

    return run


def test_triples_give_two_rows_each_and_examples_one(encoded):
    rows = encoded(TRIPLES, EXAMPLES)
    assert not rows.is_tokenized
    assert sorted(rows[index].term for index in range(len(rows))) == ["helpful", *["rto"] * 3, *["safe"] * 3]


def test_triples_give_a_tree_each_with_tree_rows(encoded, tmp_path):
    rows = encoded(TRIPLES, config=DertaConfig(str(tmp_path), max_length=64, tree_rows=True))
    assert [type(rows[index]) for index in range(len(rows))] == [TreeRow] * 3


def test_an_iterator_of_records_is_read_once_and_completely(encoded):
    assert len(encoded(iter(TRIPLES), iter(EXAMPLES))) == 7


def test_tokenized_rows_are_used_unchanged(encoded):
    rows = encoded(tokenized=ROWS)
    assert rows.is_tokenized
    assert [(rows[i].input_ids, rows[i].labels, rows[i].term) for i in range(2)] == [
        tuple(row.values()) for row in ROWS
    ]


@pytest.mark.parametrize(("data", "got"), [({}, "none"), ({"triples": TRIPLES, "tokenized": ROWS}, "both")])
def test_records_or_rows_are_required_but_not_both(encoded, data, got):
    with pytest.raises(DataError, match=f"expected triples= or rows=, got {got}; pass either rows or records"):
        encoded(**data)


@pytest.mark.parametrize("rows", [[], iter([])])
def test_no_rows_are_refused(config, rows):
    with pytest.raises(DataError, match="expected rows for training or evaluation, got none"):
        dataset_from_rows(rows, config=config)


def test_a_tokenized_row_longer_than_max_length_is_refused(config):
    long = {"input_ids": [5] * 65, "labels": [IGNORE] + [5] * 64, "term": "helpful", "id": "long"}
    with pytest.raises(DataError, match=r"row long: expected at most max_length \(64\) tokens, got 65"):
        dataset_from_rows([*ROWS, long], config=config)


def test_safe_responses_must_start_with_a_refusal_word():
    check_refusal_openings(TRIPLES, ["Sorry"])
    check_refusal_openings([Triple(query="q", safe="  Sorry.", harmful="Sure.")], ["I cannot", "Sorry"])
    invalid = Triple(query="q", safe="I think not.", harmful="Sure.")
    with pytest.raises(DataError, match=rf"triple {invalid.id}: .* starts with Sorry, got 'I think.*\(2 of 5 triples"):
        check_refusal_openings([*TRIPLES, invalid, invalid], ["Sorry"])


def test_several_evaluation_sets_keep_their_names(make_tokenizer, config):
    sets = encode_evaluation(
        TrainingSet(), tokenized={"a": ROWS, "b": ROWS[:1]}, tokenizer=make_tokenizer(), config=config
    )
    assert {name: len(rows) for name, rows in sets.items()} == {"a": 2, "b": 1}


@pytest.mark.parametrize("settings", [{"eval_strategy": "epoch"}, {"eval_on_start": True}])
def test_evaluation_without_data_is_refused_and_without_both_there_is_none(make_tokenizer, tmp_path, config, settings):
    assert encode_evaluation(TrainingSet(), tokenized=None, tokenizer=make_tokenizer(), config=config) is None
    evaluating = DertaConfig(str(tmp_path), **settings)
    with pytest.raises(RecipeError, match=r"eval_strategy, eval_on_start: expected .* for evaluation, got none"):
        encode_evaluation(TrainingSet(), tokenized=None, tokenizer=make_tokenizer(), config=evaluating)


@pytest.mark.parametrize(
    ("rows", "token"),
    [([ROWS[0] | {"input_ids": [5, 6, 7, 8, 96]}], 96), ([ROWS[0] | {"labels": [IGNORE, 6, 7, 8, 99]}], 99)],
)
def test_input_ids_and_labels_must_be_in_the_models_vocabulary(make_model, make_tokenizer, config, rows, token):
    model = make_model("llama", vocab_size=96)
    check_ids(dataset_from_rows(ROWS, config=config), model, make_tokenizer())
    with pytest.raises(DataError, match=rf"row 0: expected token ids below the model's vocabulary \(96\), got {token}"):
        check_ids(dataset_from_rows(rows, config=config), model, make_tokenizer())


@pytest.mark.parametrize(("step_tokens", "expected"), [(None, 1), (1, 1), (240, 6), (244, 6)])
def test_micro_batches_of_a_step_hold_about_its_tokens(config, step_tokens, expected):
    """Rows of 5 tokens, two of them in a micro-batch, on two processes: 20 tokens at once, 40 with rows of 10."""
    rows = dataset_from_rows(
        [TrainRow(str(i), "helpful", [5] * n, [IGNORE] + [5] * (n - 1)) for i, n in enumerate((5, 15))], config=config
    )
    shape = SimpleNamespace(per_device_train_batch_size=2, world_size=2, step_tokens=step_tokens)
    assert micro_batches_per_step(rows, shape) == expected


def test_the_tokenizer_of_a_folder_or_of_a_loaded_model_is_found_by_its_path(make_model_dir, make_model, config):
    folder = make_model_dir()
    by_path = tokenizer_of(folder, config)
    assert tokenizer_of(SimpleNamespace(name_or_path=str(folder)), config).get_vocab() == by_path.get_vocab()
    with pytest.raises(RecipeError, match="expected the tokenizer of a model created in memory, got none"):
        tokenizer_of(make_model("llama", vocab_size=96), config)


def test_only_methods_that_train_on_rows_are_accepted(tmp_path):
    for name, method in METHODS.items():
        config = DertaConfig(str(tmp_path), method=name)
        if method.trains and method.trainer is None:
            assert row_method_of(config) is method
        else:
            with pytest.raises(RecipeError, match=r"^method: "):
                row_method_of(config)
    custom = Method(name="custom", dataset=lambda data, **_: ROWS * len(data.triples))
    assert row_method_of(DertaConfig(str(tmp_path), method=custom)) is custom
