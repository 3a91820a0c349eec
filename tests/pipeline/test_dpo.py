"""`dpo` as a method like the others: in a recipe, with `derta train`, and when something it needs is missing."""

import json

import pytest
from safetensors.torch import load_file

from derta import methods
from derta.config import load_recipe
from derta.methods import METHODS
from derta.pipeline import models
from derta.pipeline.data import input_files, prepare_data
from derta.pipeline.plan import check_recipe
from derta.pipeline.run import run
from derta.reporting import read_summary

# two pairs make one step, which warming up would take at a rate of 0
FAST = {
    "method_settings.dpo.learning_rate": 1e-3,
    "train.warmup_steps": 0,
    "profile_answers": 0,
    "data.held_out_helpful": 0,
}
SET = [word for key, value in FAST.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture
def asked(tmp_path):
    """One evaluation of two prompts."""
    return [{"attack": "direct", "requests": {"path": str(tmp_path / "asked.jsonl"), "limit": 2}}]


@pytest.fixture
def load(recipe, asked):
    def load(**changes):
        return load_recipe(recipe, overrides=FAST | {"evaluate": asked} | changes)

    return load


def write_pairs(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _no_training(*_, **__):
    raise AssertionError("trained")


@pytest.fixture
def without_trl(monkeypatch):
    monkeypatch.setattr(methods, "find_spec", lambda _: None)


def test_a_run_of_dpo_alone_trains_the_vanilla_model_it_needs_and_evaluates_only_dpo(load, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    summary = run(load(methods=["dpo"]), out=folder)
    assert {cell.method for cell in summary.cells} == {"dpo"}
    assert [path.name for path in (folder / "vanilla-seed0").iterdir()] == ["model"]
    assert (folder / "dpo-seed0/replies.jsonl").exists()
    monkeypatch.setattr(models, "load_format", _no_training)
    assert run(load(methods=["dpo"]), out=folder) == summary


def test_the_order_of_methods_changes_no_model(load, recipe, tmp_path, derta):
    folder = tmp_path / "run"
    run(load(methods=["dpo", "vanilla"]), out=folder)
    assert {cell.method for cell in read_summary(folder / "summary.json").cells} == {"dpo", "vanilla"}
    called = derta(
        "train",
        recipe,
        "--method",
        "dpo",
        "--init-from",
        folder / "vanilla-seed0/model",
        "--out",
        tmp_path / "model",
        *SET,
    )
    assert called.code == 0, called.err
    ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path / "model", folder / "dpo-seed0/model"))
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    vanilla = load_file(folder / "vanilla-seed0/model/model.safetensors")
    assert not all(vanilla[name].equal(theirs[name]) for name in theirs)


def test_with_lora_an_adapter_is_tuned_on_and_answers(load, tmp_path):
    folder = tmp_path / "run"
    lora = {"r": 4, "lora_alpha": 8}
    summary = run(load(methods=["dpo"], **{"train.lora": lora}), out=folder)
    assert (folder / "dpo-seed0/model/adapter_model.safetensors").exists()
    assert any(cell.method == "dpo" and cell.scored for cell in summary.cells)


def test_a_recipes_preferences_are_trained_on_in_addition_to_the_triples(load, tmp_path):
    rows = [
        {"query": query, "chosen": "On the stove.", "rejected": "No."} for query in ("Where is bread now?", "And tea?")
    ]
    path = write_pairs(tmp_path / "pairs.jsonl", *rows)
    recipe = load(methods=["dpo"], **{"data.preferences": [{"path": str(path)}]})
    prepared = prepare_data(recipe)
    chat, refusals = models.load_format(recipe)
    data = prepared.training_set()
    pairs = METHODS["dpo"].dataset(data, chat=chat, refusals=refusals, config=recipe.train.rows)
    assert len(pairs) == prepared.counts.triples + 1  # the first is asked in the evaluation
    assert prepared.notes[-1] == "1 preferences remain in addition to the triples; dropped: 1 in_evaluation."
    assert path in input_files(recipe)


def test_dpo_learns_from_the_triples_of_derta(load):
    recipe = load(methods=["dpo"])
    prepared = prepare_data(recipe)
    chat, refusals = models.load_format(recipe)
    pairs, derta = (
        METHODS[name].dataset(prepared.training_set(), chat=chat, refusals=refusals, config=recipe.train.rows)
        for name in ("dpo", "derta")
    )
    assert {pair.id for pair in pairs} == {one.source.id for one in derta if one.term == "rto"}


# --- what a user can do wrong ----------------------------------------------------------------------------------------


def train(derta, recipe, tmp_path, method, *words):
    called = derta("train", recipe, "--method", method, "--out", tmp_path / "model", *words)
    assert (called.code, called.out, called.err.count("\n")) == (2, "", 1)
    assert not (tmp_path / "model").exists()
    return called.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("dpo",), "dpo: expected --init-from, the folder of the vanilla model, got none"),
        (("derta", "--init-from", "."), "--init-from: expected none for derta"),
        (("dpo", "--init-from", "nowhere"), "nowhere: expected a folder with a tuned model or adapter"),
        (
            ("dpo", "--init-from", ".", "--set", "method_settings.dpo.per_device_train_batch_size=3"),
            "a multiple of per_device_train_batch_size (3)",
        ),
        (
            ("dpo", "--init-from", ".", "--set", "method_settings.dpo.bta=3"),
            "unknown key `method_settings.dpo.bta`; did you mean 'beta'?",
        ),
    ],
)
def test_a_mistake_is_one_line(derta, recipe, tmp_path, words, message):
    assert message in train(derta, recipe, tmp_path, *words)


def test_a_file_that_prefers_harm_is_refused(derta, recipe, tmp_path, tiny_model_dir):
    harm = "Sure, here are the steps for bread. Step 1: boil the water. Step 2: wait."
    path = write_pairs(tmp_path / "pairs.jsonl", {"query": "Well?", "chosen": harm, "rejected": "No."})
    words = ("--init-from", tiny_model_dir, "--set", f"data.preferences=[{{path: {path}}}]")
    assert "check that the columns are not swapped" in train(derta, recipe, tmp_path, "dpo", *words)


def test_without_trl_nothing_is_started(without_trl, monkeypatch, derta, recipe, tmp_path):
    monkeypatch.setattr("derta.pipeline.plan.prepare_data", _no_training)
    install = "run `pip install -c constraints.txt -e '.[dpo]'` in a clone of derta"
    message = f"derta: dpo: expected the package trl, found none; {install}, or leave dpo out\n"
    called = derta("run", recipe, "--out", tmp_path / "run", "--set", "methods=[vanilla, dpo]")
    assert (called.code, called.err) == (2, message)
    assert not (tmp_path / "run").exists()
    assert train(derta, recipe, tmp_path, "dpo", "--init-from", ".") == message


def test_other_methods_need_no_trl(load, without_trl):
    check_recipe(load(methods=["vanilla", "derta"]))


def test_a_dry_run_estimates_the_pairs_too(load, recipe, derta):
    called = derta("run", recipe, "--dry-run", "--json", "--set", "methods=[dpo]", *SET)
    assert called.code == 0, called.err
    (found,) = json.loads(called.out)
    prepared = prepare_data(load(methods=["dpo"]))
    assert (found["method"], found["rows"]) == ("dpo", prepared.counts.triples)
    assert 0 < found["labels"] < found["tokens"]
    assert 0 <= found["seconds"] < 60
    assert found["unit"] == "pairs"
    message = derta("run", recipe, "--dry-run", "--set", "methods=[dpo]", *SET)
    assert message.out.startswith(f"dpo: {found['rows']} pairs, ")
