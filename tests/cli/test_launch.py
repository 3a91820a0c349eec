import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from derta.cli import launch
from forks import distributed, launch_env, run_forks
from tolerances import assert_trained_alike

CONFIGS = Path(__file__).parents[2] / "recipes" / "accelerate"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--num-processes", "2"], "expected --launch CONFIG with it"),
        (["--launch", "nowhere.yaml"], "nowhere.yaml: expected an accelerate config"),
        (["--launch", "nowhere.yaml", "--method", "dreta"], "'dreta'"),
        (["--launch", "nowhere.yaml", "--set", "train.num_train_epochs=-1"], "`train.num_train_epochs`"),
    ],
)
def test_a_mistake_is_told_before_any_process_is_started(recipe, tmp_path, derta, words, part):
    called = derta("train", recipe, "--method", "derta", "--out", tmp_path / "model", *words)
    assert called.code == 2
    assert part in called.err
    assert called.err.count("derta: ") == 1


def test_a_run_in_several_processes_is_refused(recipe, tmp_path, derta, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    called = derta("run", recipe, "--out", tmp_path / "run")
    assert (called.code, called.err.count("\n")) == (2, 1)
    assert "run: expected one process, got 2" in called.err


@pytest.mark.parametrize(("rank", "waits"), [("0", []), ("1", [launch.GRACE_SECONDS])])
def test_other_processes_leave_the_main_one_the_time_to_tell_a_common_fault(recipe, derta, monkeypatch, rank, waits):
    slept = []
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(launch.time, "sleep", slept.append)
    monkeypatch.setattr(launch.warnings, "simplefilter", lambda _: None)
    called = derta("train", recipe, "--method", "nonsense", "--out", recipe.parent / "model")
    assert called.code == 2
    assert slept == waits


def train_by_accelerate(words, *, folder):
    del folder
    command = [sys.executable, "-m", "derta.cli.main", *map(str, words), "--launch", CONFIGS / "cpu.yaml"]
    done = subprocess.run(  # noqa: S603 - the launcher takes over its process's signals: not in this one
        [*command, "--num-processes", "2"],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return [done]


def train_by_forks(words, *, folder):
    """In the processes that accelerate would start."""
    environments = [launch_env(CONFIGS / "cpu.yaml") | one for one in distributed(2)]
    return run_forks("from derta.cli.main import main; main()", *words, folder=folder, environments=environments)


@pytest.mark.parametrize("start", [train_by_forks, pytest.param(train_by_accelerate, marks=pytest.mark.extra)])
def test_a_launched_training_ends_as_one_process_does_and_speaks_with_one_voice(recipe, tmp_path, derta, start):
    settings = ["--set", "train.per_device_train_batch_size=1", "--set", "train.logging_steps=1"]
    words = ["train", recipe, "--method", "derta", *settings, "--out"]
    assert derta(*words, tmp_path / "alone").code == 0
    ended = start([*words, tmp_path / "both"], folder=tmp_path)
    assert [one.returncode for one in ended] == [0] * len(ended), ended
    assert "".join(one.stdout for one in ended) == ""
    assert "".join(one.stderr for one in ended).count("step 1 of 4") == 1
    logs = [json.loads((tmp_path / name / "train_log.json").read_text()) for name in ("alone", "both")]
    assert [entry.get("loss") for entry in logs[0]] == pytest.approx([entry.get("loss") for entry in logs[1]], abs=2e-4)
    alone, both = (load_file(tmp_path / name / "model.safetensors") for name in ("alone", "both"))
    assert_trained_alike(both, alone, learning_rate=1e-3, steps=4)
