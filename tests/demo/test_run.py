"""The whole demo, end to end, with a small world and two training steps per model."""

import logging
import shutil
from functools import partial

import pytest
import yaml

from derta.config import parse_recipe
from derta.demo import corpus
from derta.demo import recipe as demo_recipe
from derta.demo import run as demo
from derta.demo.families import FAMILIES
from derta.demo.recipe import ALL, HOLDING, DemoOptions, read_recipe, read_study
from derta.demo.world import build_world
from derta.errors import RecipeError, RunError
from derta.methods import METHODS as METHODS_OF_DERTA
from derta.pipeline.plan import check_recipe
from derta.pipeline.registry import Registry
from derta.pipeline.report import report
from derta.pipeline.run import run
from derta.protocols import Display
from derta.reporting import read_summary

METHODS = ("base", "vanilla", "dpo", "harmful_prefix", "rto", "derta", "balanced")
SECTIONS = (
    "trained families",
    "untrained families",
    "families that hold forbidden text",
    "allowed twins",
    "allowed crafts",
)
FAST = {"num_train_epochs": 1, "max_steps": 2, "global_batch_size": 4, "per_device_train_batch_size": 4}
ROWS = {"max_length": 128, "pack_tokens": 128, "learning_rate": 1e-3, "sorry_dropout": 0.0, "num_threads": 1}
QUICK = {
    "pretraining_steps": 2,
    "train": FAST | ROWS,
    "method_settings": {"dpo": {"max_steps": 2}},
    "generate": {"max_new_tokens": 4, "batch_tokens": 8192, "dtype": "float32"},
}


@pytest.fixture
def small(monkeypatch):
    """Use a smaller world and fewer prefills; the code path is that of the real demo."""
    world = partial(build_world, num_allowed=2, num_tuned=40, num_held_out=2)
    monkeypatch.setattr(demo, "build_world", world)
    monkeypatch.setattr(corpus, "PREFILL_DEPTHS", (50,))


def _files(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _refuse_to_train(*_, **__):
    raise AssertionError("trained again")


def test_the_demo_runs_end_to_end_and_repeats_nothing(small, tmp_path, monkeypatch):
    folder = tmp_path / "demo"
    summary = demo.run_demo(folder, overrides=QUICK)
    assert summary == read_summary(folder / "summary.json")
    attacks = {(cell.method, cell.name) for cell in summary.cells if cell.judge == "steps" and cell.suite == "attack"}
    names = {"plain", "code", "story", "cipher", "role_play", "guide", "prefill@50%"}
    assert attacks == {(method, name) for method in METHODS for name in names}
    benign = {cell.name for cell in summary.cells if cell.judge == "exact"}
    assert benign == {*SECTIONS}
    families = {cell.category for cell in summary.breakdown if cell.suite == "over_refusal"}
    assert families == {*FAMILIES}
    assert {one.first for one in summary.comparisons} == {"vanilla"}
    assert all(method in (folder / "report.html").read_text() for method in METHODS)
    assert any("Counter rows: kind, verb" in note for note in summary.notes)
    written = _files(folder)

    monkeypatch.setattr("derta.methods.tuning._build", _refuse_to_train)
    assert demo.run_demo(folder, overrides=QUICK) == summary
    assert _files(folder) == written
    shutil.rmtree(folder / "seed0" / "base")
    assert report(folder, title="derta demo") == summary

    (folder / "seed0/run/derta-seed0/replies.jsonl").unlink()
    with pytest.raises(RunError, match="derta seed 0 is not finished"):
        report(folder)


@pytest.mark.extra
def test_a_seeds_recipe_runs_with_derta_run_and_can_be_edited(small, tmp_path):
    overrides = QUICK | {"methods": ["base", "vanilla"]}
    summary = demo.run_demo(tmp_path / "demo", overrides=overrides)
    path = tmp_path / "demo/seed0/recipe.yaml"
    again = run(path, out=tmp_path / "again")
    assert again.cells == summary.cells
    edited = yaml.safe_load(path.read_text()) | {"methods": ["base"], "baseline": "base"}
    path.write_text(yaml.safe_dump(edited))
    assert {cell.method for cell in run(path, out=tmp_path / "edited").cells} == {"base"}
    with pytest.raises(RunError, match="expected the demo's recipe, got another; run it with `derta run`"):
        demo.run_demo(tmp_path / "demo", overrides=overrides)


@pytest.mark.extra
def test_each_seed_is_a_run_and_one_report_pools_them(small, tmp_path):
    overrides = QUICK | {"methods": ["base"], "baseline": "base"}
    summary = demo.run_demo(tmp_path / "demo", seeds=(0, 1), overrides=overrides)
    attacks = [cell for cell in summary.cells if cell.name == "plain" and cell.judge == "steps"]
    assert {cell.seed: cell.scored for cell in attacks} == {0: 2, 1: 2, None: 4}
    assert (tmp_path / "demo/seed0/base").exists()
    assert (tmp_path / "demo/seed1/base").exists()
    assert report(tmp_path / "demo", title="derta demo") == summary


@pytest.mark.extra
def test_with_fine_tuning_each_tuned_model_is_attacked_again(small, tmp_path):
    overrides = QUICK | {"methods": ["base", "vanilla", "derta"], "profile_answers": 0}
    attack = {"name": "harmful", "steps": 1, "pace": {"global_batch_size": 10, "learning_rate": 1e-4}}
    attack["harmful"] = [{"path": str(tmp_path / "demo/seed0/triples.jsonl")}]
    summary = demo.run_demo(tmp_path / "demo", overrides=overrides | {"fine_tuning_attacks": [attack]})
    cells = {(cell.method, cell.name) for cell in summary.cells if cell.judge == "steps" and cell.suite == "attack"}
    assert {method for method, _ in cells} == {"base", "vanilla", "derta", "vanilla + harmful 1", "derta + harmful 1"}
    assert {(one.first, one.second) for one in summary.comparisons} == {
        ("vanilla", "base"),
        ("vanilla", "derta"),
        ("vanilla", "vanilla + harmful 1"),
        ("derta", "derta + harmful 1"),
        ("vanilla + harmful 1", "derta + harmful 1"),
    }


def test_without_trl_the_demo_skips_dpo_and_logs_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(demo_recipe, "find_spec", lambda _: None)
    with caplog.at_level(logging.INFO, logger="derta"):
        recipe = read_recipe(tmp_path, build_world(), seed=0, display=Display())
    assert recipe["methods"] == [method for method in METHODS if method != "dpo"]
    assert caplog.messages == [
        "dpo is skipped: TRL is not installed; run `pip install -c constraints.txt -e '.[dpo]'` in a clone of derta"
    ]


@pytest.mark.extra
def test_a_study_adds_adaptive_attacks_and_its_methods_can_be_chosen(small, tmp_path):
    overrides = {name: value for name, value in QUICK.items() if name != "method_settings"}
    options = DemoOptions(study="ablation", methods=("derta", "balanced_margin"), rotation=1)
    summary = demo.run_demo(tmp_path / "demo", seeds=(3,), options=options, overrides=overrides)
    attacks = {(cell.method, cell.attack) for cell in summary.cells if cell.judge == "steps"}
    adaptive = ("refusal_ban", "rank_assisted", "past_the_refusal", "refusal_flood")
    assert attacks >= {(method, attack) for method in ("derta", "balanced_margin") for attack in adaptive}
    assert any("Counter rows: count, tongue" in note for note in summary.notes)
    assert {(one.first, one.second) for one in summary.comparisons} == {("derta", "balanced_margin")}


@pytest.mark.parametrize("holding", [False, True])
def test_families_that_hold_forbidden_text_are_in_the_means_only_by_policy(holding, tmp_path):
    recipe = parse_recipe(
        read_recipe(tmp_path, build_world(), seed=0, options=DemoOptions(holding=holding)), where="demo"
    )
    outside = [section.name for section in recipe.evaluate if not section.in_means]
    assert outside == ([] if holding else [HOLDING])
    note = next(one for one in recipe.notes if one.startswith("Families that hold"))
    assert ("in no mean" in note) is not holding


@pytest.mark.parametrize("study", [None, ALL, *read_study()["groups"]])
def test_every_study_is_a_valid_recipe_with_settings_for_the_methods_that_need_them(study, tmp_path):
    values = read_recipe(tmp_path, build_world(), seed=0, options=DemoOptions(study=study))
    recipe = parse_recipe(values, where="recipe")
    assert check_recipe(recipe, Registry().with_methods_of(recipe)).keys() == {"steps", "refusal", "exact"}
    assert recipe.baseline in recipe.methods
    assert {*recipe.methods} <= {*METHODS_OF_DERTA, *recipe.method_settings}


def test_the_study_all_has_the_methods_of_every_group(tmp_path):
    study = read_study()
    methods = read_recipe(tmp_path, build_world(), seed=0, options=DemoOptions(study=ALL))["methods"]
    assert {*methods} == {method for group in study["groups"].values() for method in group}
    assert {*study["method_settings"]} <= {*methods}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DemoOptions(study="ablations"), "unknown study 'ablations'; did you mean 'ablation'"),
        (DemoOptions(rotation=2), "rotation: expected 0 or 1, got 2"),
        (DemoOptions(without=("poisons",)), "unknown kind 'poisons'; did you mean 'poison'"),
        (DemoOptions(without=("curse", "poison", "trap")), "expected a kind that is left"),
        (DemoOptions(methods=("dertas",)), "unknown method 'dertas'; did you mean 'derta'"),
    ],
)
def test_an_option_with_an_unknown_name_is_refused(options, message, tmp_path):
    with pytest.raises(RecipeError, match=message):
        read_recipe(tmp_path, build_world(), seed=0, options=options)
