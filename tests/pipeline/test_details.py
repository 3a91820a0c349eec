"""Details of a run in its report: training, cost, judges, and how to repeat it."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from derta.config import parse_recipe
from derta.errors import DataError, RunError
from derta.metrics.calibration import calibrate
from derta.pipeline.contents import read_contents
from derta.pipeline.details import read_details
from derta.pipeline.report import pool, report
from derta.records import Verdict


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, whose few steps have logged no loss: two lines of a longer training are added."""
    folder = Path(shutil.copytree(finished.folder, tmp_path / "mine"))
    for home in folder.glob("*-seed0"):
        rows = json.loads((home / "train_log.json").read_text())
        logged = [{"step": step, "loss": 1 / step, "loss_rto": 2 / step, "grad_norm": 1.0} for step in (1, 2)]
        for log in (home / "train_log.json", home / "model" / "train_log.json"):
            log.write_text(json.dumps([*logged, *rows]))
    return folder


def details_of(folder):
    return read_details({folder: read_contents(folder)}, pool([folder])[1])


def test_a_run_has_its_training_its_cost_and_the_recipe_that_repeats_it(copied):
    details = details_of(copied)
    assert [log.method for log in details.training] == ["vanilla", "derta"]
    assert details.training[1].terms == {"loss": (1.0, 0.5), "loss_rto": (2.0, 1.0)}
    cost = details.costs[1]
    assert cost.steps is not None
    assert cost.steps > 0
    assert cost.seconds is not None
    lines = (copied / "derta-seed0/replies.jsonl").read_text().splitlines()
    assert cost.replies == len(lines)
    (origin,) = details.origins
    recipe = parse_recipe(yaml.safe_load(origin.recipe), where="report")
    assert recipe == parse_recipe(json.loads((copied / "manifest.json").read_text())["recipe"], where="manifest")
    assert origin.name == "mine"
    assert origin.inputs


def test_the_training_log_outlives_the_model(copied):
    before = details_of(copied)
    shutil.rmtree(copied / "derta-seed0/model")
    assert details_of(copied) == before


def test_a_model_without_a_log_has_no_training(copied):
    shutil.rmtree(copied / "derta-seed0/model")
    (copied / "derta-seed0/train_log.json").unlink()
    details = details_of(copied)
    assert [log.method for log in details.training] == ["vanilla"]
    assert (details.costs[1].steps, details.costs[1].seconds) == (None, None)


def test_a_calibration_in_the_folder_is_shown_and_one_of_another_version_is_named(copied):
    verdicts = [Verdict(prompt_id=str(i), judge="refusal", refused=i < 8) for i in range(20)]
    calibration = calibrate(verdicts, [True] * 10 + [False] * 10)
    path = copied / "refusal.calibration.json"
    path.write_text(calibration.model_copy(update={"producer": {"judge": "another"}}).model_dump_json())
    (errors,) = details_of(copied).judges
    assert (errors.recall.value, errors.specificity.value, errors.is_current) == (0.8, 1.0, False)
    report(copied)
    assert "another version than this run" in (copied / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("derta-seed0/train_log.json", "{", RunError, "expected the log of a training"),
        ("derta-seed0/train_log.json", "{}", RunError, "expected a list of logged values"),
        ("refusal.calibration.json", "{}", DataError, "not a calibration"),
        ("manifest.json", "{}", RunError, "expected a run's manifest"),
    ],
)
def test_a_file_that_is_not_valid_is_an_error_that_names_it(copied, name, content, error, message):
    outcomes = pool([copied])[1]
    (copied / name).write_text(content)
    with pytest.raises(error, match=message) as caught:
        read_details({copied: read_contents(copied)}, outcomes)
    assert name in str(caught.value)


def test_variables_of_a_recipe_are_named(copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["recipe"]["model"]["path"] = "$DERTA_MODELS/a"
    (copied / "manifest.json").write_text(json.dumps(manifest))
    assert details_of(copied).origins[0].variables == ("DERTA_MODELS",)
