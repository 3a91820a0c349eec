"""Checks of models before a run; whole runs with faults are in `tests/cases/test_before_training.py`."""

import shutil
from pathlib import Path

import pytest
from openai_server import Fault, serving

from derta.config import EngineConfig, load_recipe
from derta.errors import EngineError, ModelError
from derta.files import read_records
from derta.pipeline.data import prepare_data
from derta.pipeline.readiness import check_evaluation, check_model
from derta.pipeline.registry import Registry
from derta.records import Prompt


def test_a_local_model_needs_a_folder_with_a_model(tmp_path, tiny_model_dir):
    check_model(EngineConfig(model=str(tiny_model_dir)))
    with pytest.raises(ModelError, match=r"expected a folder with config\.json"):
        check_model(EngineConfig(model=str(tmp_path)))


def test_vllm_needs_its_package(tiny_model_dir):
    with pytest.raises(EngineError, match="expected the package vllm, found none"):
        check_model(EngineConfig(model=str(tiny_model_dir), engine="vllm"))


def test_a_served_model_gets_one_request_and_must_answer():
    with serving() as server:
        check_model(EngineConfig(model="m", engine="api", settings={"endpoints": server.url}))
        assert len(server.requests) == 1
    with serving(fault=lambda number, body: Fault("status", 401)) as server, pytest.raises(EngineError, match="401"):
        check_model(EngineConfig(model="m", engine="api", settings={"endpoints": server.url}))


@pytest.mark.parametrize("torn", ["", '{"prompt_id": "dir'])
def test_the_check_of_what_is_left_changes_no_file_that_another_process_may_write(finished, tmp_path, torn):
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    recipe = load_recipe(finished.recipe)
    verdicts = folder / "derta-seed0/verdicts.harm.jsonl"
    verdicts.write_text(verdicts.read_text() + torn)
    before = {path: path.read_bytes() for path in folder.rglob("*.jsonl")}
    check_evaluation(
        recipe,
        list(read_records(folder / "prompts.jsonl", Prompt)),
        prepared=prepare_data(recipe),
        folder=folder,
        homes=[folder / "vanilla-seed0", folder / "derta-seed0"],
        registry=Registry(),
        judges={section.key: section.judge_names for section in recipe.evaluate},
    )
    assert {path: path.read_bytes() for path in folder.rglob("*.jsonl")} == before
