"""A checkpoint that a power failure damaged is skipped and named, and what a kill leaves is cleaned up."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from derta.config import load_recipe
from derta.errors import RunError
from derta.pipeline.data import prepare_data
from derta.pipeline.method import train_one
from derta.train import checkpoints as saving
from derta.train.config import DertaConfig
from derta.train.trainer import DertaTrainer
from small_run import small_recipe


class Job(NamedTuple):
    """A recipe, and the weights of an undisturbed training."""

    recipe: Path
    weights: bytes


@pytest.fixture(scope="module")
def job(tmp_path_factory, tiny_model_dir):
    folder = tmp_path_factory.mktemp("job")
    train = {
        "max_steps": 4, "global_batch_size": 2, "per_device_train_batch_size": 2, "max_length": 96, "pack_tokens": 0,
        "num_threads": 1, "learning_rate": 1e-3, "save_steps": 1, "save_total_limit": 2, "logging_steps": 1,
    }  # fmt: skip
    recipe = small_recipe(folder, tiny_model_dir, train=train)
    out = train_one(load_recipe(recipe), method="derta", out=folder / "model")
    return Job(recipe, (out / "model.safetensors").read_bytes())


class StoppedError(Exception):
    """Stand-in for a kill."""


@pytest.fixture
def stopped(derta, job, tmp_path, monkeypatch):
    """The checkpoints of steps 3 and 4 of a training that was stopped before it saved its model."""

    def stop(*_, **__):
        raise StoppedError

    with monkeypatch.context() as patched:
        patched.setattr(saving, "check_weights", stop)
        with pytest.raises(StoppedError):
            derta("train", job.recipe, "--method", "derta", "--out", tmp_path / "model")
    folder = tmp_path / "model.checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-3", "checkpoint-4"]
    return folder


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("optimizer.pt", truncate),
        ("optimizer.pt", zero),
        ("optimizer.pt", Path.unlink),
        ("model.safetensors", truncate),
        ("scheduler.pt", Path.unlink),
        ("rng_state.pth", zero),
    ],
)
def test_a_damaged_checkpoint_is_named_and_training_resumes_from_the_one_before(derta, job, stopped, name, damage):
    tmp_path = stopped.parent
    damage(stopped / "checkpoint-4" / name)
    result = derta("train", job.recipe, "--method", "derta", "--out", tmp_path / "model")
    assert result.code == 0, result
    assert f"checkpoint-4: this checkpoint {name}" in " ".join(result.err.split())
    assert "step 4 of 4" in result.err
    assert "step 3 of 4" not in result.err
    assert (tmp_path / "model/model.safetensors").read_bytes() == job.weights
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_without_an_intact_checkpoint_training_starts_again(derta, job, stopped, tmp_path):
    for checkpoint in stopped.iterdir():
        truncate(checkpoint / "optimizer.pt")
    result = derta("train", job.recipe, "--method", "derta", "--out", tmp_path / "model")
    assert result.code == 0, result
    assert all(f"checkpoint-{step}: this checkpoint optimizer.pt has" in result.err for step in (3, 4))
    assert (tmp_path / "model/model.safetensors").read_bytes() == job.weights


@pytest.mark.parametrize("name", ["optimizer.pt", "model.safetensors"])
def test_the_trainer_refuses_to_resume_from_a_damaged_checkpoint(stopped, job, tiny_model_dir, name):
    data = prepare_data(load_recipe(job.recipe)).training_set(triples_per_unit=1, seed=0)
    config = DertaConfig(str(stopped), method="derta", max_steps=4, global_batch_size=2, per_device_train_batch_size=2)
    trainer = DertaTrainer(str(tiny_model_dir), config, triples=data.triples, examples=data.examples)
    (stopped / "checkpoint-4" / name).unlink()
    with pytest.raises(RunError, match=f"checkpoint-4: expected a complete checkpoint, but it {name} is missing"):
        trainer.train(resume_from_checkpoint=True)


def test_a_kill_after_the_model_is_complete_leaves_nothing_after_the_next_run(derta, job, stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "copy")
    shutil.copy(tmp_path / "model.origin.json", tmp_path / "copy.json")
    assert derta("train", job.recipe, "--method", "derta", "--out", tmp_path / "model").code == 0
    for name in ("model.checkpoints", "model.partial"):  # as if it had been killed before it deleted them
        shutil.copytree(tmp_path / "copy", tmp_path / name)
    (tmp_path / "model.checkpoints/runs/one").mkdir(parents=True)
    (tmp_path / "model.checkpoints/runs/one/events").write_text("log")
    shutil.copy(tmp_path / "copy.json", tmp_path / "model.origin.json")
    result = derta("train", job.recipe, "--method", "derta", "--out", tmp_path / "model")
    assert result.code == 0, result
    assert (tmp_path / "model/model.safetensors").read_bytes() == job.weights
    assert sorted(path.name for path in tmp_path.glob("model*")) == ["model", "model.runs"]
    assert (tmp_path / "model.runs/one/events").read_text() == "log"
