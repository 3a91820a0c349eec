"""Experiment trackers: names of projects, and one run of the tracker for each model (a stand-in for wandb)."""

import os
import sys
from types import SimpleNamespace

import pytest

from derta.train.config import DertaConfig
from derta.train.tracking import project_name, tracked


class Wandb:
    """The part of wandb that counts open runs."""

    def __init__(self):
        self.run, self.finished = None, []

    def finish(self, exit_code):
        self.run = None
        self.finished.append(exit_code)


@pytest.fixture
def wandb(monkeypatch):
    fake = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def config(*trackers, project="mine"):
    return SimpleNamespace(report_to=list(trackers), project=project)


@pytest.mark.parametrize(
    ("trackers", "variables"),
    [
        (["wandb"], {"WANDB_PROJECT"}),
        (["mlflow", "wandb"], {"WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"}),
        (["trackio"], set()),
        ([], set()),
    ],
)
def test_trackers_that_take_their_project_from_the_environment_get_it(trackers, variables, monkeypatch):
    for name in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with tracked(config(*trackers)):
        assert {name for name in os.environ if os.environ[name] == "mine"} == variables
    assert dict(os.environ) == before


def test_the_users_own_project_is_left_alone(monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    with tracked(config("wandb")):
        assert os.environ["WANDB_PROJECT"] == "theirs"
    assert os.environ["WANDB_PROJECT"] == "theirs"


def test_a_config_without_a_project_names_none(monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    with tracked(config("wandb", project=DertaConfig.project)):
        assert "WANDB_PROJECT" not in os.environ


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, ValueError])
def test_a_run_of_wandb_that_the_training_opened_is_finished(wandb, error):
    try:
        with tracked(config("wandb")):
            wandb.run = "opened by the Trainer"
            if error:
                raise error
    except (KeyboardInterrupt, ValueError):
        pass
    assert wandb.finished == [0 if error is None else 1]


def test_a_run_of_wandb_that_was_open_before_stays_open(wandb):
    wandb.run = "opened by the user"
    with tracked(config("wandb")):
        pass
    assert wandb.run == "opened by the user"


def test_without_wandb_nothing_is_finished(wandb):
    with tracked(config("tensorboard")):
        wandb.run = "of somebody else"
    assert wandb.finished == []


@pytest.mark.parametrize(("title", "name"), [("a/b: c", "a b c"), ("#?%", "derta"), ("x" * 300, "x" * 128)])
def test_a_title_becomes_the_name_of_a_project(title, name):
    assert project_name(title) == name
