"""The engine that a recipe chooses for the models that its run has trained."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import yaml
from vllm_stand_in import installed

from derta.config import load_recipe
from derta.demo.run import write_example
from derta.engines import load_engine
from derta.files import read_records
from derta.pipeline.models import LazyEngine, shared_format
from derta.pipeline.plan import plan_run, training_origin
from derta.pipeline.registry import Registry
from derta.pipeline.run import run
from derta.protocols import Display
from derta.records import Reply
from derta.run_folder import open_run


def generating(path, **settings):
    """Write a recipe again with other settings of its `generate`."""
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(values | {"generate": values["generate"] | settings}))
    return path


@pytest.fixture
def trained(finished, tmp_path):
    """A run that goes on after training: the finished run's model and data under a recipe that asks vLLM."""
    values = yaml.safe_load(finished.recipe.read_text()) | {"methods": ["derta"]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    generating(tmp_path / "recipe.yaml", engine="vllm", settings={"tensor_parallel_size": 2})
    recipe, folder = load_recipe(tmp_path / "recipe.yaml"), tmp_path / "run"
    with_hf = load_recipe(finished.recipe, overrides={"methods": ["derta"]})
    plan = plan_run(with_hf, folder=folder, registry=Registry(), display=Display())
    with open_run(folder, recipe={}, training=training_origin(plan, {}), inputs=[], fixed=[]):
        shutil.copytree(finished.folder / "derta-seed0/model", folder / "derta-seed0/model")
    return recipe, folder


def test_a_recipes_vllm_gives_the_replies_and_likelihoods_that_hf_gives(trained, finished, monkeypatch):
    recipe, folder = trained
    home, same = folder / "derta-seed0", finished.folder / "derta-seed0"
    with installed(load_engine(same / "model", device="cpu"), monkeypatch.setitem) as llm:
        run(recipe, out=folder)
        [settings] = llm.created
    assert (settings["model"], settings["dtype"], settings["tensor_parallel_size"]) == (
        str(home / "model"),
        "float32",
        2,
    )
    found, expected = (
        {one.prompt_id: one.model_copy(update={"producer": None}) for one in read_records(at / "replies.jsonl", Reply)}
        for at in (home, same)
    )
    assert found == expected
    found, expected = (json.loads((at / "scores.json").read_text()) for at in (home, same))
    assert found["answer_losses"] == pytest.approx(expected["answer_losses"], rel=1e-3)
    for row, other in zip(found["refusal_probability"], expected["refusal_probability"], strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-6)


def test_vllm_decodes_with_a_runs_adapter_on_the_recipes_model(tiny_model_dir, recipe, tmp_path, monkeypatch):
    values = yaml.safe_load(generating(recipe, engine="vllm").read_text())
    values["train"]["lora"] = {}
    recipe.write_text(yaml.safe_dump(values))
    (tmp_path / "adapter_config.json").write_text('{"r": 96}')
    (tmp_path / "adapter_model.safetensors").touch()
    engine = LazyEngine(load_recipe(recipe), tmp_path)
    with installed(load_engine(tiny_model_dir, device="cpu"), monkeypatch.setitem) as llm:
        assert list(engine.generate([], max_new_tokens=2)) == llm.created[1:] == []
        engine.release()
        assert list(engine.generate([], max_new_tokens=2)) == []
        assert [settings["model"] for settings in llm.created] == [str(tiny_model_dir)] * 2
    assert (llm.created[0]["enable_lora"], llm.created[0]["max_lora_rank"]) == (True, 128)


def test_a_model_is_let_go_of_before_the_next_is_trained(finished, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr("derta.pipeline.models.load_engine", lambda *_, **__: loaded.append("loaded") or NoEngine())
    monkeypatch.setattr("derta.loading.release_memory", lambda: loaded.append("memory"))
    engine = LazyEngine(load_recipe(finished.recipe), tmp_path)
    engine.release()
    assert loaded == []
    engine.log_likelihood([], [])
    engine.release()
    assert loaded == ["memory", "loaded", "memory"]


class NoEngine:
    def log_likelihood(self, _prompts, _continuations):
        return []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "api"}, "`generate.engine`: .*expected hf or vllm, .* `derta generate --engine api`"),
        ({"engine": "vlm"}, "`generate.engine`: Input should be 'hf' or 'vllm', got 'vlm'"),
        (
            {"engine": "vllm"},
            r"generate\.engine: expected the package vllm, found none; run `pip install -e '\.\[vllm\]'`",
        ),
        ({"settings": {"divice": "cpu"}}, "engine hf: unknown setting 'divice'; did you mean 'device'"),
        ({"engine": "vllm", "settings": {"max_model_len": "long"}}, "engine vllm: setting max_model_len: .*'long'"),
        ({"settings": {"template": "paper"}}, r"generate\.settings: .* got 'template'; set it under model, train or"),
        ({"settings": {"threads": 1}}, r"generate\.settings: .* got 'threads'"),
    ],
)
def test_an_engine_that_is_not_valid_is_refused_before_anything_is_trained(settings, message, derta, recipe, tmp_path):
    called = derta("run", generating(recipe, **settings), "--out", tmp_path / "run")
    assert called.code == 2
    assert re.search(message, called.err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("attack", ["refusal_ban", "rank_assisted"])
def test_attacks_that_bend_decoding_are_refused_for_vllm_before_anything_is_trained(attack, derta, recipe, tmp_path):
    evaluate = [{"attack": attack, "requests": {"path": str(tmp_path / "asked.jsonl")}}]
    values = yaml.safe_load(generating(recipe, engine="vllm").read_text()) | {"evaluate": evaluate}
    recipe.write_text(yaml.safe_dump(values))
    called = derta("run", recipe, "--out", tmp_path / "run")
    assert called.code == 2
    assert f"engine vllm: cannot ban tokens while decoding, as '{attack}@" in called.err
    assert not (tmp_path / "run").exists()


def test_compiling_without_a_compiler_is_refused_before_any_work(recipe, tmp_path, derta, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    called = derta("run", recipe, "--out", tmp_path / "run", "--set", "train.compile_layers=true")
    assert called.code == 2
    assert "found no no-such-compiler" in called.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_the_format_of_validation_is_loaded_again_only_when_files_or_settings_change(tmp_path):
    recipe = load_recipe(write_example(tmp_path))
    first = shared_format(recipe)
    assert shared_format(recipe) is first
    changed = tmp_path / "base" / "tokenizer_config.json"
    changed.write_text(changed.read_text() + "\n")
    assert shared_format(recipe) is not first
    template = tmp_path / "mine.jinja"
    template.write_text(first.chat.template)
    paper = recipe.model_copy(update={"model": recipe.model.model_copy(update={"template": "paper"})})
    assert shared_format(paper).chat.template != first.chat.template
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"template": str(template)})})
    first = shared_format(recipe)
    template.write_text(first.chat.template + "{# another #}")
    assert shared_format(recipe) is not first
