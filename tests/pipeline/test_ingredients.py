"""Balanced, and methods that a recipe defines from others, from the recipe to the report."""

import json
from collections import Counter

import pytest
import yaml

from derta.config import load_recipe
from derta.data.preparation import prepare
from derta.demo import corpus
from derta.demo.run import write_example
from derta.demo.world import build_world
from derta.errors import RecipeError, RunError
from derta.files import write_records
from derta.methods import METHODS, row_method
from derta.pipeline.estimate import estimate
from derta.pipeline.ingredients import ingredient_notes, num_counter
from derta.pipeline.method import export_rows
from derta.pipeline.registry import Registry
from derta.pipeline.run import run
from derta.records import Triple
from small_run import THINGS, write_jsonl

ABLATION = {"completions": {"method": "derta", "completion_per_triple": 1.5}}


@pytest.fixture
def own(recipe, tmp_path):
    """The values of the small recipe, with counter examples."""
    counter = [
        {"instruction": f"How do I kill time with {thing}?", "output": f"Read about {thing}."} for thing in THINGS
    ]
    path = write_jsonl(tmp_path / "counter.jsonl", counter[:3])
    values = yaml.safe_load(recipe.read_text())
    values["data"]["counter"] = [{"path": str(path)}]
    values["train"] |= {"max_steps": 1, "warmup_steps": 0}
    return values


@pytest.fixture
def derta_data(derta, tmp_path):
    """Rows that `derta data` exports, by term."""

    def call(values, method, *words):
        path, out = tmp_path / "own.yaml", tmp_path / "rows.jsonl"
        path.write_text(yaml.safe_dump(values))
        called = derta("data", path, "--method", method, "--out", out, *words)
        assert called.code == 0, called.err
        return Counter(json.loads(line)["term"] for line in out.read_text().splitlines()), called.err

    return call


def test_the_rows_of_balanced_are_exported_with_a_note_of_their_numbers(own, derta_data):
    terms, log = derta_data(own, "balanced")
    assert terms == {"helpful": 4, "safe": 2, "rto": 2, "completion": 5, "counter": 4}
    assert "3 counter examples remain for training; dropped: none." in log
    assert "balanced has in addition 5 completion rows and 4 counter examples (3 different)." in log


def test_settings_of_a_method_reach_its_exported_rows(own, derta_data):
    own["method_settings"] = {"balanced": {"counter_per_triple": 0}, "derta": {"completion_per_triple": 0.5}} | ABLATION
    assert derta_data(own, "balanced")[0] == {"helpful": 4, "safe": 2, "rto": 2, "completion": 5}
    assert derta_data(own, "derta")[0] == {"helpful": 4, "safe": 2, "rto": 2, "completion": 1}
    assert derta_data(own, "completions")[0] == {"helpful": 4, "safe": 2, "rto": 2, "completion": 3}
    terms, _ = derta_data(own, "completions", "--set", "train.counter_per_triple=1", "--set", "baseline=vanilla")
    assert terms == {"helpful": 4, "safe": 2, "rto": 2, "completion": 3, "counter": 2}


def test_balanced_without_counter_examples_is_one_line_that_says_what_to_add(recipe, tmp_path, derta):
    out = tmp_path / "out"
    for words in (
        ("run", recipe, "--out", out, "--set", "methods=[balanced]"),
        ("train", recipe, "--method", "balanced", "--out", out),
    ):
        called = derta(*words)
        assert (called.code, called.err.count("\n")) == (2, 1), called.err
        assert (
            "data.counter: expected sources of counter examples for balanced, which has 2 for each triple" in called.err
        )
        assert "set method_settings.balanced.counter_per_triple to 0" in called.err
        assert not out.exists()
    with pytest.raises(RecipeError, match=r"data\.counter: expected sources of counter examples for balanced"):
        estimate(load_recipe(recipe, overrides={"methods": ["balanced"]}))
    overrides = {"methods": ["mine"], "method_settings.mine": {"method": "dpo", "init_from": "balanced"}}
    with pytest.raises(RecipeError, match=r"counter examples for balanced"):  # which is trained first
        estimate(load_recipe(recipe, overrides=overrides))


def test_counter_settings_of_all_methods_are_no_matter_of_those_without_rows(recipe):
    overrides = {"methods": ["base"], "train.counter_per_triple": 1}
    assert estimate(load_recipe(recipe, overrides=overrides)) == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"derta": {"method": "vanilla"}}, "method_settings: expected a name that is not built in, got 'derta'"),
        ({"mine": {"method": "detra"}}, "method_settings.mine.method: unknown method 'detra'; did you mean 'derta'"),
        ({"mine": {"method": "base"}}, "method_settings.mine.method: expected a method that trains, got 'base'"),
        ({"mine": {"method": ["derta"]}}, r"method_settings.mine.method: unknown method"),
        ({"../up": {"method": "derta"}}, "method_settings: expected a name of letters, digits"),
        (
            {"mine": {"method": "derta", "init_from": "mine"}},
            "init_from: expected a method that is trained before, got 'm",
        ),
        ({"mine": {"method": "derta", "init_from": "vanila"}}, "mine.init_from: .*did you mean 'vanilla'"),
        ({"mine": {"method": "derta", "init_from": ["derta"]}}, r"mine.init_from: methods: unknown method"),
        (
            {"mine": {"method": "derta", "init_from": "base"}},
            "mine.init_from: expected a method that trains, got 'base'",
        ),
        ({"mine": {"method": "derta", "beta": 1}}, "unknown key `method_settings.mine.beta`"),
        ({"mine": {"method": "derta", "counter_per_triple": -1}}, "`method_settings.mine.counter_per_triple`.*got -1"),
        ({"dpo": {"init_from": "derta"}}, "unknown key `method_settings.dpo.init_from`"),
        ({"mine": {"completion_per_triple": 1}}, "unknown method 'mine'"),
    ],
)
def test_a_definition_that_cannot_be_is_one_line(entry, message, recipe, tmp_path):
    loaded = load_recipe(recipe, overrides={"methods": [*entry], "method_settings": entry})
    with pytest.raises(RecipeError, match=message):
        run(loaded, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_recipe_cannot_define_a_method_of_the_callers_name(own, tmp_path):
    own |= {"methods": ["mine"], "method_settings": {"mine": {"method": "derta"}}}
    with pytest.raises(RecipeError, match="method_settings: expected a name that is not built in, got 'mine'"):
        run(
            own,
            out=tmp_path / "run",
            methods={"mine": row_method("mine")},
        )


def test_a_defined_method_is_a_method_of_its_own_and_its_chain_is_trained_before_it(own, tmp_path):
    own |= {
        "methods": ["balanced", "completions", "after"],
        "method_settings": ABLATION | {"after": {"method": "vanilla_half", "init_from": "completions"}},
        "evaluate": own["evaluate"][:1],
        "profile_answers": 0,
    }
    summary = run(own, out=tmp_path / "run")
    assert {cell.method for cell in summary.cells} == {"balanced", "completions", "after"}
    log = json.loads((tmp_path / "run/completions-seed0/model/train_log.json").read_text())
    arguments = json.loads((tmp_path / "run/completions-seed0/model/training_args.json").read_text())
    assert (arguments["completion_per_triple"], arguments["counter_per_triple"]) == (1.5, 0)
    assert (arguments["method"], log[0]["step"]) == ("completions", 1)
    weights = {name: (tmp_path / f"run/{name}-seed0/model/model.safetensors").read_bytes() for name in own["methods"]}
    assert len({*weights.values()}) == 3
    contents = json.loads((tmp_path / "run/run.json").read_text())
    assert "balanced has in addition 5 completion rows and 4 counter examples (3 different)." in contents["notes"]
    assert "completions has in addition 3 completion rows and 0 counter examples (0 different)." in contents["notes"]
    assert run(own, out=tmp_path / "run") == summary  # resumed
    changed = own | {
        "method_settings": own["method_settings"] | {"completions": ABLATION["completions"] | {"max_prefix": 9}}
    }
    with pytest.raises(RunError, match=r"differs in method_settings\.completions\.max_prefix"):
        run(changed, out=tmp_path / "run")


def test_a_methods_own_defaults_are_a_part_of_a_runs_identity(own, tmp_path):
    own |= {"methods": ["balanced", "derta"], "evaluate": own["evaluate"][:1], "profile_answers": 0}
    run(own, out=tmp_path / "run")
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    defaults = {"balanced": {"completion_per_triple": 2.5, "counter_per_triple": 2.0}}
    assert manifest["training"]["method_defaults"] == defaults
    manifest["training"]["method_defaults"]["balanced"]["counter_per_triple"] = 1.0
    (tmp_path / "run/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=r"differs in method_defaults\.balanced\.counter_per_triple"):
        run(own, out=tmp_path / "run")


def test_one_method_is_trained_alone_and_a_defined_one_from_the_model_of_another(own, tmp_path, derta):
    own["method_settings"] = {"after": {"method": "vanilla_half", "init_from": "balanced"}}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(own))
    first, second = tmp_path / "first", tmp_path / "second"
    assert derta("train", path, "--method", "balanced", "--out", first).code == 0
    assert json.loads((first / "training_args.json").read_text())["completion_per_triple"] == 2.5
    called = derta("train", path, "--method", "after", "--out", second)
    assert "after: expected --init-from, the folder of the balanced model, got none" in called.err
    assert derta("train", path, "--method", "after", "--init-from", first, "--out", second).code == 0
    assert (second / "model.safetensors").exists()


def test_an_estimate_counts_the_rows_of_balanced(own):
    own |= {"methods": ["derta", "balanced", "completions"], "method_settings": ABLATION}
    own["train"] |= {"max_steps": -1}
    rows = {one.method: one.rows for one in estimate(own)}
    assert rows == {"derta": 8, "balanced": 8 + 5 + 4, "completions": 8 + 3}


def test_notes_count_vanillas_triples_for_vanilla(own, recipe):
    triples = [Triple(query=f"Paint {i}?", safe="Sorry, no.", harmful="Mix.") for i in range(6)]
    loaded = load_recipe(recipe, overrides={"train.completion_per_triple": 1})
    notes = ingredient_notes(loaded, Registry().all_methods(["vanilla", "derta"]), prepared=prepare(triples))
    assert notes == [
        "vanilla has in addition 6 completion rows and 0 counter examples (0 different).",
        "derta has in addition 3 completion rows and 0 counter examples (0 different).",
    ]


def test_in_the_demo_world_balanced_and_an_ablation_run_end_to_end(tmp_path):
    values = yaml.safe_load(write_example(tmp_path, methods=["derta", "balanced", "completions"]).read_text())
    world = build_world(num_allowed=2, num_tuned=2, num_held_out=2)
    counter = [one for one in corpus.helpful_examples(world) if "what kind of thing" in str(one.messages[:1])]
    write_records(tmp_path / "counter.jsonl", counter)
    values["data"]["counter"] = [{"path": str(tmp_path / "counter.jsonl")}]
    values["method_settings"] = ABLATION
    summary = run(values, out=tmp_path / "run")
    assert {cell.method for cell in summary.cells} == {"derta", "balanced", "completions"}
    for name, terms in (("derta", set()), ("balanced", {"completion", "counter"}), ("completions", {"completion"})):
        out = tmp_path / f"{name}.jsonl"
        export_rows(load_recipe_of(values, tmp_path), method=name, seed=0, epoch=0, out=out)
        found = {json.loads(line)["term"] for line in out.read_text().splitlines()}
        assert found == {"helpful", "safe", "rto"} | terms


def load_recipe_of(values, folder):
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_recipe(path)


def test_a_custom_method_that_initialises_another_is_a_part_of_a_runs_identity(recipe):
    settings = {"after": {"method": "derta", "init_from": "mine"}}
    loaded = load_recipe(recipe, overrides={"methods": ["after"], "method_settings": settings})
    registry = Registry(methods={"mine": row_method("mine")}).with_methods_of(loaded)
    assert [*registry.identities(loaded)["methods"]] == ["mine"]


def test_the_preference_stage_uses_as_many_counter_examples_as_its_settings_say_or_its_default(recipe):
    prepared = prepare([Triple(query="Paint?", safe="Sorry, no.", harmful="Sure.")], triples_per_unit=1)
    loaded = load_recipe(recipe)
    assert num_counter(loaded, METHODS["balanced_dpo"], prepared=prepared) == 400
    loaded = load_recipe(recipe, overrides={"method_settings": {"balanced_dpo": {"counter_examples": 7}}})
    assert num_counter(loaded, METHODS["balanced_dpo"], prepared=prepared) == 7
