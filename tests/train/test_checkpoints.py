import errno
import json

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from derta.errors import RunError
from derta.train.checkpoint_files import record_files
from derta.train.checkpoints import (
    NonFiniteLossError,
    check_weights,
    disk_full_as_run_error,
    last_complete_checkpoint,
    save,
)


def test_the_newest_complete_checkpoint_is_found_by_number(tmp_path):
    assert last_complete_checkpoint(tmp_path) is None
    for step in (9, 10, 100):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text("{}")
        record_files(folder)
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")
    (tmp_path / "checkpoint-100/trainer_state.json").write_bytes(b"\xff\xfe")
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


@pytest.mark.parametrize("state", [None, "", json.dumps({"global_step": 5})[:-3]])
def test_a_partially_written_checkpoint_is_skipped_with_a_warning(tmp_path, caplog, state):
    for step in (4, 5):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-4/trainer_state.json").write_text("{}")
    record_files(tmp_path / "checkpoint-4")
    if state is not None:
        (tmp_path / "checkpoint-5/trainer_state.json").write_text(state)
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    assert "checkpoint-5: this checkpoint was not completely written; resuming from an earlier one" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
    ],
)
def test_the_errors_of_a_full_disk_become_one_that_names_the_folder_and_the_fix(tmp_path, error):
    with (
        pytest.raises(RunError, match=r"model: cannot write a checkpoint .*free space") as caught,
        disk_full_as_run_error(tmp_path / "model"),
    ):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "Permission denied"),
        RuntimeError("shapes do not fit"),
        SafetensorError("Error while deserializing header: incomplete metadata, file not fully covered"),
        RuntimeError("PytorchStreamReader failed reading zip archive: failed finding central directory"),
    ],
)
def test_other_errors_are_not_reported_as_a_full_disk(tmp_path, error):
    with pytest.raises(type(error)) as caught, disk_full_as_run_error(tmp_path):
        raise error
    assert caught.value is error


def test_what_a_killed_run_left_in_the_partial_folder_is_not_in_the_model(tmp_path, small_data, train_losses):
    trainer = train_losses(small_data("vanilla"), steps=False)
    leftover = tmp_path / "model.partial" / "adapter_model.safetensors"
    leftover.parent.mkdir()
    leftover.write_bytes(b"half of another model")
    save(trainer, tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "train_log.json", "training_args.json"} <= names
    assert leftover.name not in names


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_trained_weight_that_is_not_finite_is_an_error_with_its_name(value):
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    check_weights(net)
    with torch.no_grad():
        net[1].weight[0, 1] = value
    with pytest.raises(NonFiniteLossError, match=r"expected finite weights, got NaN or infinity in 1\.weight"):
        check_weights(net)


def test_frozen_weights_are_not_checked():
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight[0, 0] = float("nan")
    net.weight.requires_grad_(requires_grad=False)
    check_weights(net)
