"""What a training is said to have read is what it read."""

import json

import pytest

from derta.train.config import DertaConfig
from derta.train.dataset import RowDataset
from derta.train.estimate import training_cost


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
