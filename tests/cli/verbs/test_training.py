import json

import pytest
import yaml
from datasets import load_from_disk

from derta.config import load_recipe
from derta.data.rows import IGNORE


def test_data_writes_the_rows_that_training_draws(finished, tmp_path, derta):
    from derta.data.rows import draw_row
    from derta.methods import METHODS
    from derta.pipeline.data import prepare_data
    from derta.pipeline.models import load_format

    out = tmp_path / "rows.jsonl"
    called = derta("data", finished.recipe, "--method", "derta", "--seed", 3, "--epoch", 1, "--out", out)
    assert called.code == 0, called.err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    recipe = load_recipe(finished.recipe)
    chat, refusals = load_format(recipe)
    data = prepare_data(recipe).training_set(seed=3)
    chosen = METHODS["derta"].dataset(data, chat=chat, refusals=refusals, config=recipe.train.rows)
    drawn = [draw_row(one, config=recipe.train.rows, seed=3, epoch=1) for one in chosen]
    assert [(row["id"], row["input_ids"], row["labels"]) for row in rows] == [
        (row.id, row.input_ids, row.labels) for row in drawn
    ]
    assert [row["term"] for row in rows] == ["helpful"] * 4 + ["safe"] * 2 + ["rto"] * 2
    learned = {label for row in rows if row["term"] == "rto" for label in row["labels"]} - {IGNORE}
    assert learned <= set(refusals.ids)


def test_data_writes_several_epochs_as_a_file_or_as_a_data_set(finished, tmp_path, derta):
    words = ["data", finished.recipe, "--method", "derta", "--json"]
    singles = []
    for epoch in (1, 2):
        assert derta(*words, "--epoch", epoch, "--out", tmp_path / f"{epoch}.jsonl").code == 0
        singles += [json.loads(line) for line in (tmp_path / f"{epoch}.jsonl").read_text().splitlines()]
    called = derta(*words, "--epoch", 1, "--epochs", 2, "--out", tmp_path / "both.jsonl")
    assert json.loads(called.out) == {"out": str(tmp_path / "both.jsonl"), "rows": 16, "epochs": 2}
    both = [json.loads(line) for line in (tmp_path / "both.jsonl").read_text().splitlines()]
    assert [row.pop("epoch") for row in both] == [1] * 8 + [2] * 8
    assert both == singles
    called = derta(*words, "--epoch", 1, "--epochs", 2, "--out", tmp_path / "both")
    assert called.code == 0, called.err
    saved = load_from_disk(str(tmp_path / "both"))
    assert saved["epoch"][:] == [1] * 8 + [2] * 8
    assert saved.remove_columns("epoch").to_list() == singles
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["there"], "there: expected a new folder for the data set, got one that exists; choose another --out"),
        (["there", "--format", "jsonl"], "there: expected a file, got a folder; add .jsonl to --out"),
        (["rows", "--format", "dataset"], "--format: expected jsonl or datasets, got 'dataset'; did you mean 'datas"),
    ],
)
def test_an_output_that_cannot_be_written_is_one_line(words, message, finished, tmp_path, derta):
    (tmp_path / "there").mkdir()
    called = derta("data", finished.recipe, "--method", "derta", "--out", tmp_path / words[0], *words[1:])
    assert (called.code, called.err.count("\n")) == (2, 1)
    assert message in called.err


def test_data_writes_every_branch_of_a_triple_as_a_row(finished, tmp_path, derta):
    values = yaml.safe_load(finished.recipe.read_text())
    values["train"] |= {"branches_per_triple": 3, "tree_rows": True}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    out = tmp_path / "rows.jsonl"
    called = derta("data", tmp_path / "recipe.yaml", "--method", "derta", "--out", out)
    assert called.code == 0, called.err
    terms = [json.loads(line)["term"] for line in out.read_text().splitlines()]
    assert terms == ["helpful"] * 4 + ["safe"] * 6 + ["rto"] * 2


def test_rows_whose_labels_are_dropped_in_training_are_not_written_with_all_of_them(finished, tmp_path, derta):
    words = ("--method", "derta", "--out", tmp_path / "rows.jsonl", "--set", "train.reference=true")
    called = derta("data", finished.recipe, *words)
    assert (called.code, called.err.count("\n")) == (2, 1)
    assert "expected no train.reference" in called.err
    assert not (tmp_path / "rows.jsonl").exists()


def test_train_writes_the_model_of_a_run_and_overwrites_nothing(finished, tmp_path, derta):
    out = tmp_path / "model"
    called = derta("train", finished.recipe, "--method", "derta", "--out", out)
    assert called.code == 0, called.err
    weights = "model.safetensors"
    assert (out / weights).read_bytes() == (finished.folder / "derta-seed0/model" / weights).read_bytes()
    called = derta("train", finished.recipe, "--method", "vanilla", "--out", out)
    assert called.code == 2
    assert "expected a new folder" in called.err


def test_a_launch_config_is_checked_before_any_reply_that_the_training_needs_is_generated(
    recipe, tmp_path, derta, monkeypatch
):
    monkeypatch.setattr("derta.pipeline.method.prepare_launch", _interrupt)
    called = derta("train", recipe, "--method", "rto", "--out", tmp_path / "m", "--launch", tmp_path / "none.yaml")
    assert (called.code, called.err.count("\n")) == (2, 1)
    assert "expected an accelerate config" in called.err


def _interrupt(*_, **__):
    raise KeyboardInterrupt


def test_an_interrupted_training_resumes_only_with_the_same_method(recipe, tmp_path, derta, monkeypatch):
    words = ("train", recipe, "--out", tmp_path / "out", "--method")
    with monkeypatch.context() as patched:
        patched.setattr("derta.train.checkpoints.save", _interrupt)
        assert derta(*words, "vanilla").code == 130
    called = derta(*words, "derta")
    assert (
        called.code,
        "out.checkpoints: holds the run of another recipe (differs in methods, training_data)" in called.err,
    ) == (
        2,
        True,
    )
    assert derta(*words, "vanilla").code == 0
    assert not list(tmp_path.glob("out.*"))


def test_an_audit_prints_tables_or_json_and_writes_rows_without_texts(recipe, tmp_path, derta):
    called = derta("data", recipe, "--audit", "--out", tmp_path / "rows.jsonl")
    assert called.code == 0, called.err
    assert "8 triples, harm by harm" in called.out
    assert "safe refuses" in called.out
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    found = json.loads(derta("data", recipe, "--audit", "--json").out)
    assert (found["triples"], found["judge"], len(found["policies"])) == (8, "harm", 4)
    for text in (called.out, json.dumps(found), json.dumps(rows)):
        assert "boil the water" not in text


def test_an_export_needs_a_method_and_an_output_and_an_audit_has_no_method(recipe, tmp_path, derta):
    out = tmp_path / "rows.jsonl"
    for words in (("--method", "derta"), ("--out", out), ("--audit", "--method", "derta", "--out", out)):
        called = derta("data", recipe, *words)
        assert (called.code, called.err.count("\n")) == (2, 1)
        assert "expected --method and --out, or --audit without --method" in called.err
        assert not out.exists()
