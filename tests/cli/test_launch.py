import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from derta.cli import launch
from derta.errors import RunError
from derta.train.launch import OPTIONS, check_config, without_options
from forks import distributed, launch_env, run_forks
from tolerances import assert_trained_alike

CONFIGS = Path(__file__).parents[2] / "recipes" / "accelerate"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
WORDS = st.text("abc-=", min_size=1, max_size=5).filter(lambda word: word.partition("=")[0] not in OPTIONS)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_config_is_one_that_accelerate_knows_every_key_of(name):
    path = CONFIGS / f"{name}.yaml"
    check_config(path, num_processes=None)
    config = load_config_from_file(str(path))  # refuses unknown keys at the top
    known = {action.dest for action in launch_command_parser()._actions}
    for section in (config.fsdp_config, config.deepspeed_config):
        assert section.keys() <= known
    assert {"ddp": "MULTI_GPU", "cpu": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}[name] == (
        config.distributed_type.value
    )


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "does not exist"),
        ("distributed_type: FSDP\nnum_procesess: 2\n", "num_procesess"),
        ("distributed_type: SOMETHING\n", "SOMETHING"),
        ("- a list\n", "expected an accelerate config"),
        ("[", "expected an accelerate config"),
        ("distributed_type: MULTI_GPU\nmachine_rank: 0\n", "--num-processes"),
    ],
)
def test_a_config_that_cannot_be_is_told(tmp_path, text, part):
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RunError, match=part):
        check_config(path, num_processes=None)


@given(words=st.lists(WORDS), value=WORDS, place=st.integers(0, 9))
def test_only_the_launchers_options_are_left_out(words, value, place):
    for given_option in ([OPTIONS[0], value], [f"{OPTIONS[1]}={value}"]):
        assert without_options([*words[:place], *given_option, *words[place:]]) == words
    assert without_options(words) == words


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--num-processes", "2"], "expected --launch CONFIG beside it"),
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
