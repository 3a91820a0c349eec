from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from derta.config import LoraSection, TrainSection
from derta.data.rows import row_settings
from derta.errors import RecipeError
from derta.train.arguments import accumulation_steps, adds_in_place, on_one_device, training_arguments


def test_a_batch_that_the_processes_cannot_share_is_refused():
    with pytest.raises(RecipeError, match=r"multiple of micro_batch_size x processes \(4 x 3\), got 8"):
        accumulation_steps(TrainSection(batch_size=8, micro_batch_size=4), num_processes=3)


@given(micro=st.integers(1, 16), accumulated=st.integers(1, 16), processes=st.integers(1, 8))
def test_a_step_has_the_recipes_rows_on_however_many_processes(micro, accumulated, processes):
    train = TrainSection(batch_size=micro * accumulated * processes, micro_batch_size=micro)
    assert accumulation_steps(train, num_processes=processes) == accumulated


def test_a_recipes_settings_reach_the_trainer(tmp_path):
    train = TrainSection(max_steps=7, schedule="linear", warmup=0.1, weight_decay=0.5, save_steps=3, reference=True)
    arguments = training_arguments(train, seed=3, folder=tmp_path, accumulation=16)
    assert (arguments.max_steps, arguments.gradient_accumulation_steps, arguments.seed) == (7, 16, 3)
    assert (str(arguments.lr_scheduler_type.value), arguments.save_steps) == ("linear", 3)
    assert arguments.get_warmup_steps(100) == 10
    assert arguments.weight_decay == 0.5
    assert row_settings(train).reference
    assert row_settings(train).max_length == 1024


@pytest.mark.parametrize(
    ("settings", "device", "world_size", "expected"),
    [
        ({}, "cpu", 1, True),
        ({}, "cuda", 1, False),
        ({}, "cpu", 2, False),
        ({"fp16": True}, "cpu", 1, False),
        ({"lora": LoraSection(r=4)}, "cpu", 1, False),
    ],
)
def test_gradients_bypass_autograd_only_where_nothing_else_wants_them(settings, device, world_size, expected):
    arguments = SimpleNamespace(device=torch.device(device), world_size=world_size)
    assert adds_in_place(TrainSection(**settings), arguments) is expected


def test_one_process_keeps_to_one_gpu(tmp_path):
    arguments = training_arguments(TrainSection(), seed=0, folder=tmp_path)
    arguments._n_gpu = 4  # as TrainingArguments counts what is visible
    assert on_one_device(arguments).n_gpu == 1
