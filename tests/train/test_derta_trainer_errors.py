"""What a user of `DertaTrainer` can do wrong."""

import pytest
from trainer_cases import READY, TRIPLES
from transformers import TrainingArguments

from derta.data.rows import IGNORE
from derta.errors import DataError, RecipeError
from derta.records import Triple
from derta.train.trainer import DertaTrainer

NO_REFUSAL = Triple(query="q", safe="I think not.", harmful="Sure.")
LONG = {"input_ids": [5] * 40, "labels": [IGNORE] + [5] * 39, "term": "helpful"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"triples": [*TRIPLES, NO_REFUSAL]}, r"starts with Sorry, got 'I th.*\(1 of 7"),
        ({"data": False}, "expected triples=, examples= or train_dataset=, got none"),
        ({"train_dataset": READY}, "or train_dataset=, got both"),
        ({"data": False, "train_dataset": [{"input_ids": [1]}]}, "expected input_ids, labels, term, got input_ids"),
        ({"data": False, "train_dataset": [READY[0] | {"term": "x"}]}, "expected the term helpful, .*, got 'x'"),
        ({"data": False, "train_dataset": [READY[0] | {"labels": [IGNORE] * 5}]}, "every label is masked"),
        ({"data": False, "train_dataset": [READY[0] | {"input_ids": "words"}]}, "to be token ids, got .words."),
        ({"data": False, "train_dataset": [READY[0] | {"input_ids": [9999] * 5}]}, "below the model's .*, got 9999"),
        ({"data": False, "train_dataset": READY, "max_length": 32, "eval_dataset": [LONG]}, "most max_length .*got 40"),
        ({"triples": [{"query": "q", "safe": "Sorry.", "harmful": "Sure."}]}, "triples: expected records .*, got dict"),
        ({"examples": ["text"]}, r"examples: expected records \(Example\), got str"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_trained_on_are_refused_in_one_line(trainer_of, given, message):
    with pytest.raises(DataError, match=message) as caught:
        trainer_of(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "drta"}, "unknown method 'drta'; did you mean 'derta'"),
        ({"method": "dpo"}, "dpo has a separate trainer; use derta.methods.tune"),
        ({"method": "base"}, "expected one that trains, got base"),
        ({"peft_config": {"r": 4}}, r"peft_config: expected a PEFT config \(LoraConfig\), got dict"),
        (
            {"eval_strategy": "epoch"},
            "expected eval_triples=, eval_examples= or eval_dataset= for evaluation, got none",
        ),
    ],
)
def test_settings_that_it_cannot_train_with_are_refused(trainer_of, given, message):
    with pytest.raises(RecipeError, match=message):
        trainer_of(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"speed": 1}}, "lr_scheduler_kwargs: .*'speed'"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_type, lr_scheduler_kwargs: One of min_lr"),
        (
            {"optim": "galore_adamw", "optim_target_modules": "all-linear"},
            "optim, .*: You need to install `galore_torch`",
        ),
    ],
)
def test_invalid_optimizer_and_scheduler_settings_are_reported_by_name(trainer_of, given, message):
    with pytest.raises(RecipeError, match=message):
        trainer_of(**given).train()


def test_arguments_that_are_no_derta_config_are_refused(base, tmp_path):
    with pytest.raises(RecipeError, match="args: expected a DertaConfig, got TrainingArguments"):
        DertaTrainer(base, TrainingArguments(str(tmp_path), use_cpu=True), triples=TRIPLES)


def test_a_tokenizer_of_another_model_is_refused(trainer_of, make_model, make_tokenizer):
    small = make_model("llama", vocab_size=280)
    with pytest.raises(DataError, match=r"row .*: expected token ids below the model's vocabulary \(280\)"):
        trainer_of(small, processing_class=make_tokenizer())


def test_a_model_made_in_memory_needs_its_tokenizer(trainer_of, make_model):
    with pytest.raises(RecipeError, match="processing_class: expected the tokenizer of a model created in memory"):
        trainer_of(make_model("llama", vocab_size=512))


def test_balanced_without_counter_examples_is_an_error_that_names_them(trainer_of):
    with pytest.raises(DataError, match=r"counter_per_triple: expected counter examples, got none for 12 counter rows"):
        trainer_of(method="balanced")
    with pytest.raises(DataError, match=r"counter_examples: expected records \(Example\), got dict; .*load_examples"):
        trainer_of(method="balanced", counter_examples=[{}])
