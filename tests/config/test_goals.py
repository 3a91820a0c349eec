"""Goal files: one line for every mistake, and the shipped ones name what their recipes have."""

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml

from derta.config.goals import load_goals
from derta.demo import recipe as demo
from derta.errors import RecipeError

GOALS = Path("recipes/goals")
FILE = {
    "method": "ours",
    "baseline": "vanilla",
    "reference": "derta",
    "goals": [{"name": "safe", "measure": "attack_success", "keep": 0.95}],
}


@pytest.fixture
def write(tmp_path):
    def call(goal=None, **changes):
        path = tmp_path / "goals.yaml"
        goals = FILE["goals"] if goal is None else [{"name": "g", **goal}]
        path.write_text(yaml.safe_dump({**FILE, "goals": goals, **changes}))
        return path

    return call


def test_a_file_is_read(write):
    goals = load_goals(write())
    assert (goals.method, goals.goals[0].keep, goals.goals[0].margin) == ("ours", 0.95, 0.05)


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ({"measure": "attack_sucess", "keep": 0.9}, "unknown measure 'attack_sucess'; did you mean 'attack_success'"),
        ({"measure": "over_refusal", "at_mots": 0.1}, "unknown key `goals.0.at_mots`; did you mean 'at_most'"),
        ({"measure": "over_refusal", "worse_by": 0.1}, "expected `against` with a difference"),
        ({"measure": "over_refusal"}, "expected one of at_most, at_least, worse_by, keep and no_significant_loss"),
        ({"measure": "attack", "keep": 0.9, "each": "set"}, "`keep` is a share of the mean over sets"),
        ({"measure": "length_ratio", "against": "baseline", "keep": 0.9}, "a length_ratio has"),
        ({"measure": "attack", "keep": 1.5}, "less than or equal to 1"),
    ],
)
def test_a_mistake_is_one_line(goal, message, write):
    with pytest.raises(RecipeError, match=message):
        load_goals(write(goal))


def test_a_file_without_goals_is_refused(write, tmp_path):
    with pytest.raises(RecipeError, match="`goals`"):
        load_goals(write(goals=[]))
    with pytest.raises(RecipeError, match="cannot read"):
        load_goals(tmp_path / "missing.yaml")


def recipe_names(path):
    """Names of attacks and sets of a recipe, and of its fine-tuning study."""
    recipe = yaml.safe_load(path.read_text())
    names = [(one.get("name"), one.get("attack", "direct"), one.get("options", {})) for one in recipe["evaluate"]]
    found = {name or attack for name, attack, _ in names}
    return found | {f"{attack}@{depth}" for _, attack, options in names for depth in options.get("depths", ())}


@pytest.mark.parametrize("name", ["demo", "gemma-270m", "qwen25-coder-0.5b-instruct"])
def test_shipped_goals_name_sets_and_methods_of_their_recipe(name):
    goals = load_goals(GOALS / f"{name}.yaml")
    if name == "demo":
        study = demo.read_study()
        methods = study["groups"]["ablation"]
        names = {demo.TRAINED, demo.UNTRAINED, demo.HOLDING, demo.TWINS, demo.ALLOWED}
        names |= {one["attack"] for one in study["adaptive"]}
    else:
        path = Path(f"recipes/{name}-balanced.yaml")
        methods, names = yaml.safe_load(path.read_text())["methods"], recipe_names(path)
    assert {goals.method, goals.baseline, goals.reference} <= {*methods}
    for goal in goals.goals:
        for wanted in (*goal.sets, *goal.requires):
            assert any(fnmatchcase(one, wanted) for one in names), (goal.name, wanted)
