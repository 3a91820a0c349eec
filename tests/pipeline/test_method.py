import json

import pytest

from derta.config import load_recipe
from derta.data.rows import IGNORE
from derta.errors import ModelError, RecipeError, RunError
from derta.pipeline.method import check_training, export_rows, train_one
from derta.protocols import Display
from recorded_progress import RecordedProgress


@pytest.fixture
def loaded(recipe):
    return load_recipe(recipe)


def test_a_recipe_is_reduced_to_the_one_method(loaded, tmp_path):
    assert loaded.methods != ("derta",)
    assert check_training(loaded, method="derta", out=tmp_path / "model").methods == ("derta",)


@pytest.mark.parametrize(
    ("method", "init_from", "error"),
    [
        ("dertta", None, RecipeError("did you mean 'derta'")),
        ("dpo", None, RecipeError("dpo: expected --init-from, the folder of the vanilla model, got none")),
        ("derta", "start", RecipeError("--init-from: expected none for derta, which trains the recipe's model")),
        ("dpo", "start", ModelError("start: expected a folder with a tuned model or adapter, found none")),
    ],
)
def test_what_a_method_is_initialised_from_is_checked(method, init_from, error, loaded, tmp_path):
    start = None if init_from is None else tmp_path / init_from
    with pytest.raises(type(error), match=str(error)):
        check_training(loaded, method=method, out=tmp_path / "model", init_from=start)


def test_an_existing_model_is_not_overwritten(loaded, tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(RunError, match="model: expected a new folder"):
        check_training(loaded, method="derta", out=tmp_path / "model")


def test_the_baseline_is_not_trained(loaded, tmp_path):
    with pytest.raises(RecipeError, match="base: expected a method that trains, got the baseline without training"):
        train_one(loaded, method="base", out=tmp_path / "model")
    assert not (tmp_path / "model").exists()


def export(loaded, out, **given):
    count = export_rows(loaded, out=out, **({"method": "derta", "seed": 0, "epoch": 0} | given))
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == count
    return rows


def test_rows_are_drawn_again_in_every_epoch_and_the_same_for_the_same_one(loaded, tmp_path):
    first, again = (export(loaded, tmp_path / "rows.jsonl") for _ in range(2))
    later = export(loaded, tmp_path / "rows.jsonl", epoch=1)
    assert first == again != later
    assert [row["id"] for row in first] == [row["id"] for row in later]


def test_labels_are_unshifted_and_ignored_where_nothing_is_learned(loaded, tmp_path):
    for row in export(loaded, tmp_path / "rows.jsonl", method="vanilla"):
        learned = [label != IGNORE for label in row["labels"]]
        first = learned.index(True)
        assert first > 0
        assert row["labels"][first:] == row["input_ids"][first:]  # the whole response, at its own positions
        assert not any(learned[:first])


def test_exported_rows_are_counted_in_the_log_and_the_progress(loaded, tmp_path, caplog):
    caplog.set_level("INFO", "derta")
    progress = RecordedProgress()
    rows = export(loaded, tmp_path / "rows.jsonl", display=Display(progress))
    assert progress.tasks["rows"] == [len(rows), *range(1, len(rows) + 1)]
    assert f"{len(rows)} rows in {tmp_path / 'rows.jsonl'}" in caplog.text
    assert "triples remain for training" in caplog.text


def test_rows_of_pairs_are_not_exported(derta, recipe, tmp_path):
    called = derta("data", recipe, "--method", "dpo", "--out", tmp_path / "rows.jsonl")
    assert called.code == 2
    assert "dpo: expected a method that trains on rows, got one of pairs" in called.err
    assert not (tmp_path / "rows.jsonl").exists()


@pytest.fixture
def with_and_without_vanilla(recipe):
    """Two recipes without `num_triples`, of which the second has twice as many triples for each method."""
    settings = {"data.num_triples": None, "data.num_helpful": 8, "data.helpful_per_safety": 0.5}
    return [
        load_recipe(recipe, overrides={**settings, "methods": names}) for names in (["vanilla", "derta"], ["derta"])
    ]


def test_the_rows_of_a_method_depend_on_the_methods_of_the_recipe(with_and_without_vanilla, tmp_path):
    both, alone = with_and_without_vanilla
    cases = (both, "derta"), (both, "vanilla"), (alone, "derta"), (alone, "rto"), (alone, "vanilla")
    rows = [len(export(one, tmp_path / "rows.jsonl", method=method)) for one, method in cases]
    # 6 triples are not held out; derta and rto have two rows of a triple
    assert rows == [3 * 2 + 8, 6 + 8, 6 * 2 + 8, 6 * 2 + 8, 6 + 8]


def test_a_stopped_training_is_not_resumed_with_other_triples(with_and_without_vanilla, tmp_path, monkeypatch):
    def stop(*_, out, **__):
        (out.with_name("model.checkpoints") / "checkpoint-1").mkdir(parents=True, exist_ok=True)
        raise KeyboardInterrupt

    monkeypatch.setattr("derta.pipeline.method.train_method", stop)
    both, alone = with_and_without_vanilla
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train_one(both, method="derta", out=tmp_path / "model")
    with pytest.raises(RunError, match=r"holds the run of another recipe \(differs in training_data\)"):
        train_one(alone, method="derta", out=tmp_path / "model")
