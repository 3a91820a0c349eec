import json
from math import ceil

import pytest
from tiny_training import config_of, tune_job

from derta.train.config import DertaConfig
from derta.train.dataset import RowDataset
from derta.train.estimate import (
    BatchShape,
    Plan,
    _speed,
    _StepTimer,
    measure,
    plan,
    plan_rows,
    probe,
    training_cost,
)
from derta.train.trainer import DertaTrainer

TRAIN = {
    "num_train_epochs": 2, "global_batch_size": 8, "per_device_train_batch_size": 4, "learning_rate": 1e-3,
    "max_length": 128, "pack_tokens": 128, "sorry_dropout": 0.5, "logging_steps": 1,
}  # fmt: skip


@pytest.fixture
def trainer_of(tmp_path, make_model_dir, make_tokenizer, small_data):
    base = make_model_dir(initializer_range=0.05)

    def make(**changes):
        config = config_of("derta", tmp_path / "checkpoints", **(TRAIN | changes))
        return DertaTrainer(str(base), config, train_dataset=small_data(), processing_class=make_tokenizer())

    make.base = base
    return make


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_steps": 4},
        {"num_train_epochs": 1},
        {"per_device_train_batch_size": 8},
        {"pack_tokens": 0, "train_sampling_strategy": "group_by_length"},
    ],
)
def test_a_plan_counts_what_the_training_then_does(trainer_of, tmp_path, changes):
    trainer = trainer_of(**changes)
    planned = plan(trainer)
    seen = []
    collator = trainer.data_collator
    trainer.data_collator = lambda rows: seen.append(rows) or collator(rows)
    trainer.train()
    assert planned.steps == trainer.state.global_step
    assert planned.micro_batches <= len(seen) <= planned.micro_batches + 1  # the loader is one ahead
    seen = seen[: planned.micro_batches]
    tokens = sum(len(row.input_ids) for rows in seen for row in rows)
    # the first epoch's harmful prefixes stand for all epochs'
    assert planned.tokens == pytest.approx(tokens, rel=0.1)
    assert planned.rows == sum(len(rows) for rows in seen)
    assert 0 <= planned.padding < 0.5


def test_a_budget_of_tokens_makes_the_steps(trainer_of):
    planned = plan(trainer_of())
    budget = ceil(planned.tokens / 2 / 5)  # two epochs, five steps each
    by_tokens = trainer_of(step_tokens=budget)
    assert plan(by_tokens).steps == pytest.approx(10, abs=2)
    by_tokens.train()
    assert by_tokens.state.global_step == plan(by_tokens).steps


def test_a_probe_gives_a_time_and_a_peak_and_leaves_nothing(trainer_of, tmp_path, small_data, make_tokenizer):
    trainer = trainer_of()
    estimated = probe(trainer, plan(trainer))
    assert estimated.seconds > 0
    assert estimated.peak_bytes > 10**7
    assert not (tmp_path / "checkpoints").exists() or not any((tmp_path / "checkpoints").iterdir())
    given = {"model": str(trainer_of.base), "data": small_data(), "tokenizer": make_tokenizer()}
    out = tune_job(settings=TRAIN, out=tmp_path / "model", **given)  # a run beside it is not disturbed
    assert (out / "train_log.json").exists()


def test_time_grows_with_the_multiplications_and_warming_up_comes_once():
    def shape(padded, logit_positions):
        return BatchShape([], padded, padded, logit_positions, logit_positions)

    sampled = (shape(10, 1), shape(30, 3))
    planned = Plan(rows=0, steps=50, micro_batches=100, tokens=0, labels=0, padding=0.0, sampled=sampled)
    timer = _StepTimer()
    timer.steps, timer.updates = [9.0, 5.0, 5.0], [2.0, 1.0, 1.0]
    # weights 2 and 5: a shape of 10 and 1 costs 25, so 8 s for 2 x 25 + 2 x 75 are 0.04 s a unit
    seconds = _speed(sampled, (*sampled, *sampled), timer=timer, weights=(2, 5)).estimate(planned).seconds
    first_beyond = 9 - 0.04 * 100 - 1
    assert seconds == pytest.approx(first_beyond + 0.04 * 50 * 100 + 50 * 1)


# --- cost of a finished training --------------------------------------------------------------------------------------


def log_of(folder, *, steps):
    folder.mkdir()
    entries = [{"loss": 1.0, "step": 1}, {"train_runtime": 2.5, "step": steps}, {"step": steps, "peak_memory_gib": 1}]
    (folder / "train_log.json").write_text(json.dumps(entries))
    return folder


@pytest.mark.parametrize(
    ("steps", "rows"),
    # 7 rows in steps of 3 are 3, 3 and 1 row an epoch
    [(1, 3), (2, 6), (3, 7), (4, 10), (6, 14), (7, 17)],
)
def test_rows_are_counted_over_epochs_and_short_last_steps(steps, rows, small_data, tmp_path):
    config = DertaConfig("out", global_batch_size=3, per_device_train_batch_size=1, max_length=128)
    given = small_data("vanilla", num_triples=0, num_examples=7)
    found = training_cost(log_of(tmp_path / "model", steps=steps), instances=given, config=config, seed=0)
    assert found[:2] == (steps, rows)
    assert found.seconds == 2.5
    if rows % 7 == 0:
        dataset = RowDataset(given, config=config, seed=0)
        assert found.tokens == rows // 7 * sum(len(dataset[index].input_ids) for index in range(7))


def test_the_tokens_are_those_that_the_trainer_was_given(small_data, train_losses, tmp_path):
    config = DertaConfig("out", global_batch_size=8, per_device_train_batch_size=8, max_length=128)
    given = small_data("vanilla", num_triples=0, num_examples=10)
    trainer = train_losses(given, num_train_epochs=2, steps=False)
    read, collate = [], trainer.data_collator
    trainer.data_collator = lambda rows: read.extend(len(row.input_ids) for row in rows) or collate(rows)
    trainer.train()
    found = training_cost(log_of(tmp_path / "model", steps=4), instances=given, config=config, seed=0)
    assert found[:3] == (4, len(read), sum(read)) == (4, 20, sum(read))


def test_rows_are_counted_without_a_model_as_their_trainer_counts_them(trainer_of, small_data, tmp_path):
    for changes in ({}, {"step_tokens": 200}, {"pack_tokens": 0, "train_sampling_strategy": "group_by_length"}):
        trainer = trainer_of(**changes)
        config = config_of("derta", tmp_path / "checkpoints", **(TRAIN | changes))
        assert plan_rows(small_data(), config) == plan(trainer)


def test_a_probe_stops_after_its_time_but_has_the_largest_micro_batch(trainer_of, monkeypatch):
    monkeypatch.setattr("derta.train.estimate._StepTimer", lambda: _StepTimer(limit=0.0))
    trainer = trainer_of()
    planned = plan(trainer)
    seen = []
    collator = trainer.data_collator
    trainer.data_collator = lambda rows: seen.append(rows) or collator(rows)
    assert measure(trainer, planned).per_unit > 0
    assert trainer.state.global_step == 2
    largest = max(planned.sampled, key=lambda shape: shape.padded)
    assert sum(len(row.input_ids) for row in seen[2]) == largest.tokens  # two micro-batches of the warmup before it
