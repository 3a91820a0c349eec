"""A training that is killed (SIGKILL) at any write ends, after the same command, as one that was never stopped."""

import json
import signal

import pytest

from derta.config import load_recipe
from derta.pipeline.method import train_one
from forks import run_forks
from small_run import small_recipe

KILLING = """
import importlib, os, sys
import derta.cli.main
module, name, number = os.environ["KILL_AT"].split(":")
owner = importlib.import_module(module)
function, calls = getattr(owner, name), []
def killing(*args, **kwargs):
    calls.append(1)
    if len(calls) == int(number):
        os.kill(os.getpid(), 9)
    return function(*args, **kwargs)
setattr(owner, name, killing)
sys.argv += ["--out", os.environ["OUT"]]
derta.cli.main.main()
"""
PLACES = (
    "torch:save:2",  # in the first checkpoint
    "derta.train.checkpoint_files:delete_older:2",
    "derta.train.checkpoints:finish_folder:1",  # all steps are trained, in the middle of an epoch
)


def read_log(model):
    entries = json.loads((model / "train_log.json").read_text())
    return [entry for entry in entries if "loss" in entry]


@pytest.mark.extra
def test_a_training_killed_at_any_write_ends_as_an_undisturbed_one(derta, tmp_path, tiny_model_dir):
    train = {
        "max_steps": 3, "global_batch_size": 2, "per_device_train_batch_size": 2, "max_length": 96, "pack_tokens": 0,
        "num_threads": 1, "learning_rate": 1e-3, "save_steps": 1, "logging_steps": 1, "lr_scheduler_type": "constant",
    }  # fmt: skip
    recipe = small_recipe(tmp_path, tiny_model_dir, train=train)
    expected = train_one(load_recipe(recipe), method="derta", out=tmp_path / "expected")
    outputs = [tmp_path / str(number) / "model" for number in range(len(PLACES))]
    environments = [
        {"KILL_AT": place, "OUT": str(out), "OMP_NUM_THREADS": "1"} for place, out in zip(PLACES, outputs, strict=True)
    ]
    words = ["train", recipe, "--method", "derta"]
    for process in run_forks(KILLING, *words, folder=tmp_path, environments=environments):
        assert process.returncode == -signal.SIGKILL, process.stderr[-500:]
    for place, out in zip(PLACES, outputs, strict=True):
        result = derta(*words, "--out", out)
        assert result.code == 0, (place, result)
        for name in ("model.safetensors", "config.json", "tokenizer.json"):
            assert (out / name).read_bytes() == (expected / name).read_bytes(), place
        assert read_log(out) == read_log(expected), place
        assert [path.name for path in out.parent.iterdir()] == ["model"], place
