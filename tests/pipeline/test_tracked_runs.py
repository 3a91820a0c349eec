"""Experiment trackers in a run: one named run of the tracker for each model, and files that outlive the checkpoints."""

import json
import sys

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from derta.config import load_recipe
from derta.errors import RecipeError
from derta.methods import METHODS
from derta.pipeline.method import train_one
from derta.pipeline.models import recipe_config
from derta.pipeline.run import run


def names_of(recipe, tmp_path, method, **train):
    values = yaml.safe_load(recipe.read_text())
    values["train"] |= train
    recipe.write_text(yaml.safe_dump(values))
    config = recipe_config(load_recipe(recipe), METHODS[method], seed=3, output_dir=tmp_path / "out")
    return config.project, config.run_name


def test_a_model_is_named_by_its_method_and_seed_in_the_project_of_the_recipe(recipe, tmp_path):
    assert names_of(recipe, tmp_path, "vanilla") == ("a small run", "vanilla-seed3")
    assert names_of(recipe, tmp_path, "derta", run_name="mine", project="theirs") == ("theirs", "mine")


def test_the_names_are_no_part_of_a_trainings_identity(finished):
    manifest = json.loads((finished.folder / "manifest.json").read_text())
    assert not {"run_name", "project"} & manifest["training"]["train"].keys()
    saved = json.loads((finished.folder / "derta-seed0/model/training_args.json").read_text())
    assert (saved["project"], saved["run_name"]) == ("a small run", "derta-seed0")


def test_the_files_of_tensorboard_stay_beside_each_model_of_a_run(recipe, tmp_path):
    short = {"evaluate": [], "profile_answers": 0, "train.report_to": "tensorboard", "train.logging_steps": 1}
    run(load_recipe(recipe, overrides={**short, "train.max_steps": 2}), out=tmp_path / "run")
    for name in ("vanilla-seed0", "derta-seed0"):
        home = tmp_path / "run" / name
        assert sorted(path.name for path in home.iterdir() if path.is_dir()) == ["model", "model.runs"]
        (events,) = home.joinpath("model.runs").rglob("events.out.tfevents*")
        found = EventAccumulator(str(events.parent)).Reload()
        assert [event.step for event in found.Scalars("train/loss")] == [1, 2]


@pytest.mark.parametrize("logger", ["wandb", "mlflow", "trackio"])
def test_a_tracker_that_is_not_installed_is_named_before_any_model_is_loaded(recipe, tmp_path, logger, monkeypatch):
    monkeypatch.setitem(sys.modules, logger, None)  # as if it were not installed
    loaded = []
    monkeypatch.setattr("derta.loading.load_model", lambda *a, **k: loaded.append(a))
    with pytest.raises(RecipeError, match=rf"`train\.report_to`: expected an installed logger .*got '{logger}'"):
        train_one(load_recipe(recipe, overrides={"train.report_to": logger}), method="derta", out=tmp_path / "model")
    assert loaded == []
    assert not (tmp_path / "model").exists()
