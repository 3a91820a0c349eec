"""`run.json`: what a run's report needs of its recipe, and sets outside the means."""

import json
import shutil
from pathlib import Path

import pytest

from derta.config import EvaluationSection, load_recipe
from derta.errors import RunError
from derta.metrics.axes import OUTSIDE
from derta.pipeline.contents import read_contents, section_judges
from derta.pipeline.frontier import frontier
from derta.pipeline.gate import gate
from derta.pipeline.report import report
from derta.pipeline.run import run

PREFILL = {"attack": "prefill", "requests": "held_out", "options": {"depths": ["0%", "50%"]}, "in_means": False}


@pytest.fixture
def copied(finished, tmp_path):
    return Path(shutil.copytree(finished.folder, tmp_path / "runs" / "seed0"))


def without_prefill(folder):
    """Set the attack `prefill` of a run outside the means, as the run would."""
    contents = json.loads((folder / "run.json").read_text())
    for section in contents["sections"]:
        section["in_means"] = section["attack"] != "prefill"
    (folder / "run.json").write_text(json.dumps(contents))


def test_a_section_outside_the_means_is_in_run_json_and_older_files_have_none(copied):
    section = EvaluationSection.model_validate({"prompts": "x.jsonl", "name": "held", "in_means": False})
    assert not section_judges(section).in_means
    assert read_contents(copied).outside == frozenset()
    without_prefill(copied)
    assert read_contents(copied).outside == {("attack", "prefill", None)}
    contents = json.loads((copied / "run.json").read_text())
    for one in contents["sections"]:
        del one["in_means"]
    (copied / "run.json").write_text(json.dumps(contents))
    assert read_contents(copied).outside == frozenset()


def test_a_finished_run_takes_the_key_of_its_edited_recipe_without_training(finished, copied):
    recipe = load_recipe(finished.recipe)
    changed = [PREFILL if one.attack == "prefill" else one.model_dump() for one in recipe.evaluate]
    weights = [path.stat().st_mtime_ns for path in sorted(copied.glob("*/model/*"))]
    summary = run(load_recipe(finished.recipe, overrides={"evaluate": changed}), out=copied)
    assert [path.stat().st_mtime_ns for path in sorted(copied.glob("*/model/*"))] == weights
    axis = next(one for one in summary.frontier.axes if one.name == "attack_not_refused")
    assert axis.sets == ("direct",)
    assert axis.left_out == {"prefill@0%": OUTSIDE, "prefill@50%": OUTSIDE}
    assert {cell.name for cell in summary.cells if not cell.in_means} == {"prefill@0%", "prefill@50%"}
    assert frontier(copied) == summary.frontier
    [result] = gate(copied, at_most=["attack_not_refused/prefill@50%=1"], method="derta").floors
    assert result.sets == ("prefill@50%",)


def test_pooled_runs_agree_on_what_is_in_the_means(copied):
    other = Path(shutil.copytree(copied, copied.with_name("seed1")))
    contents = (other / "run.json").read_text().replace("-seed0", "-seed1").replace('"seed": 0', '"seed": 1')
    (other / "run.json").write_text(contents)
    for home in other.glob("*-seed0"):
        home.rename(other / home.name.replace("-seed0", "-seed1"))
    without_prefill(other)
    with pytest.raises(RunError, match=r"seed1: .* got another `in_means` of prefill; set it in both recipes alike"):
        report(copied.parent)
    without_prefill(copied)
    summary = report(copied.parent)
    assert next(one for one in summary.frontier.axes if one.name == "attack_not_refused").sets == ("direct",)
