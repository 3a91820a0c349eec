from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from derta.data.rows import IGNORE, TrainRow
from derta.errors import RecipeError
from derta.train.config import DertaConfig
from derta.train.dataloaders import SetEpochCallback, collator_of, dataloader, evaluation_sampler, training_sampler
from derta.train.dataset import RowDataset

CPU = torch.device("cpu")


@pytest.fixture
def config(tmp_path):
    return DertaConfig(
        str(tmp_path), global_batch_size=4, per_device_train_batch_size=2, per_device_eval_batch_size=3, max_length=64
    )


@pytest.fixture
def rows(some_rows, config):
    return RowDataset(some_rows, config=config, seed=config.rows_seed)


def test_training_visits_every_row_once_in_micro_batches_of_the_configs_size(rows, config):
    batches = list(training_sampler(rows, config))
    assert sorted(key for keys in batches for key in keys) == [(0, index) for index in range(7)]
    assert Counter(map(len, batches)) == {2: 3, 1: 1}


def test_evaluation_visits_every_row_of_epoch_0_once_in_batches_of_the_evaluation_size(rows, config):
    batches = list(evaluation_sampler(rows, config))
    assert sorted(key for keys in batches for key in keys) == [(0, index) for index in range(7)]
    assert len(batches) == 3


@pytest.mark.parametrize(("epoch", "expected"), [(None, 0), (0.0, 0), (1.0, 1), (1.9999999, 2), (2.5, 2)])
def test_the_callback_sets_the_epoch_that_training_starts_or_resumes_in(rows, config, epoch, expected):
    sampler = training_sampler(rows, config)
    SetEpochCallback(sampler).on_epoch_begin(None, SimpleNamespace(epoch=epoch), None)
    assert {key[0] for keys in sampler for key in keys} == {expected}


def test_padding_needs_no_padding_token(tmp_path):
    rows = [TrainRow("a", "helpful", [5, 6, 7, 8], [IGNORE, 6, 7, 8]), TrainRow("b", "helpful", [5, 6], [IGNORE, 6])]
    batch = collator_of(DertaConfig(str(tmp_path), pack_tokens=0))(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [5, 6, 0, 0]]


def test_the_collator_weights_labels_as_the_config_says(some_rows, tmp_path):
    config = DertaConfig(str(tmp_path), rto_weight=3.0, normalization="row")
    batch = collator_of(config)(some_rows)
    assert int(batch["items"]) == len(some_rows)
    rto_rows = sum(row.term == "rto" for row in some_rows)
    assert float(batch["weights"][batch["terms"] == 2].sum()) == pytest.approx(3 * rto_rows)


def test_a_dataloader_yields_the_collated_batches_in_order(rows, config):
    loader = dataloader(
        rows,
        [[(0, 1), (0, 2)], [(0, 0)]],
        collator=lambda drawn: {"n": torch.tensor(len(drawn))},
        config=config,
        device=CPU,
    )
    assert [int(batch["n"]) for batch in loader] == [2, 1]


def test_an_option_that_torch_rejects_is_a_recipe_error_with_its_name(rows, tmp_path):
    config = DertaConfig(str(tmp_path), dataloader_num_workers=1, dataloader_multiprocessing_context="threads")
    with pytest.raises(RecipeError, match=r"dataloader_multiprocessing_context, dataloader_num_workers: .*threads"):
        dataloader(rows, [[(0, 0)]], collator=list, config=config, device=CPU)


@pytest.mark.parametrize(("device", "multiple"), [("cpu", 1), ("cuda", 16)])
def test_bins_on_a_gpu_have_a_multiple_of_16_tokens(tmp_path, monkeypatch, device, multiple):
    config = DertaConfig(str(tmp_path), pack_tokens=64)
    monkeypatch.setattr(DertaConfig, "device", torch.device(device))
    row = TrainRow("a", "helpful", [1, 2, 3, 4, 5], [IGNORE, 2, 3, 4, 5])
    assert collator_of(config)([row])["input_ids"].shape == (1, -(-5 // multiple) * multiple)
