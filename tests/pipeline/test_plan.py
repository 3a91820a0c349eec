"""Plan of a run: a run whose trained models would have another origin is refused before any work."""

import shutil

import pytest

from derta.config import load_recipe
from derta.pipeline.data import training_files
from derta.pipeline.plan import plan_run, training_origin
from derta.pipeline.registry import Registry
from derta.protocols import Display
from derta.run_folder import open_run
from small_run import small_recipe


@pytest.mark.parametrize("changed", ["helpful.jsonl", "weights/model.safetensors"])
def test_changed_training_data_and_base_weights_are_refused(changed, tmp_path, derta, tiny_model_dir):
    shutil.copytree(tiny_model_dir, tmp_path / "weights")
    recipe, folder = small_recipe(tmp_path, tmp_path / "weights"), tmp_path / "run"
    loaded = load_recipe(recipe)
    training = training_origin(plan_run(loaded, folder=folder, registry=Registry(), display=Display()), {})
    files = training_files(loaded)
    with open_run(folder, recipe=loaded.model_dump(mode="json"), training=training, inputs=files, fixed=files):
        pass
    content = (tmp_path / changed).read_bytes()
    (tmp_path / changed).write_bytes(content.replace(b"stove", b"oven") if b"stove" in content else content[:-1] + b"!")
    called = derta("run", recipe, "--out", folder)
    assert called.code == 2
    assert f"{changed} has changed since this run started" in called.err


@pytest.mark.parametrize(
    ("changes", "named"), [({}, ("vanilla", "derta")), ({"recommended": "vanilla"}, ("vanilla",) * 2)]
)
def test_the_plan_names_the_baseline_and_the_recommended_method(changes, named, tmp_path, tiny_model_dir):
    recipe = load_recipe(small_recipe(tmp_path, tiny_model_dir, methods=["vanilla", "derta"], **changes))
    contents = plan_run(recipe, folder=tmp_path / "run", registry=Registry(), display=Display()).contents
    assert (contents.baseline, contents.recommended) == named


@pytest.mark.parametrize("key", ["baseline", "recommended"])
def test_a_named_method_that_the_recipe_does_not_list_is_an_error(key, tmp_path, tiny_model_dir, derta):
    recipe = small_recipe(tmp_path, tiny_model_dir, **{key: "nothing"})
    called = derta("run", recipe, "--out", tmp_path / "run")
    assert called.code == 2
    assert f"{key}: expected one of the methods" in called.err
