import logging
from collections import Counter

import pytest

from derta.config import load_recipe
from derta.data.fields import log_dropped
from derta.errors import DataError, RecipeError
from derta.pipeline.paths import expanded_paths


def test_log_records_of_data_contain_the_text_of_the_recipe(recipe, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("DERTA_HERE", str(tmp_path))
    loaded = load_recipe(recipe, overrides={"data.triples": [{"path": "$DERTA_HERE/triples.jsonl"}]})
    with expanded_paths(loaded) as paths:
        path = paths.recipe.data.triples[0].path
        assert path == str(tmp_path / "triples.jsonl")
        log_dropped(path, summary="100% of 2 rows", dropped=Counter(empty=1))
    log_dropped(path, summary="afterwards", dropped=Counter(empty=1))
    assert "$DERTA_HERE/triples.jsonl: 100% of 2 rows; dropped: 1 empty" in caplog.text
    assert f"{path}: afterwards" in caplog.text


def test_log_records_and_errors_of_the_block_contain_the_original_text(recipe, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("DERTA_HERE", str(tmp_path))
    loaded = load_recipe(recipe, overrides={"model.path": "$DERTA_HERE/model"})
    logger = logging.getLogger("a_library")
    with expanded_paths(loaded) as paths:
        logger.warning("%s of %s", "100%", tmp_path / "model")
    with pytest.raises(DataError, match=r"^\$DERTA_HERE/model: 100% wrong$"), expanded_paths(loaded):
        raise DataError(f"{paths.recipe.model.path}: 100% wrong")
    assert "100% of $DERTA_HERE/model" in caplog.text
    with pytest.raises(RecipeError) as caught, expanded_paths(loaded):
        raise RecipeError(f"got {tmp_path}/model", key="path")
    assert (str(caught.value), caught.value.reason) == ("path: got $DERTA_HERE/model", "got $DERTA_HERE/model")
    assert paths.name(tmp_path / "model" / "config.json") == "$DERTA_HERE/model/config.json"
    logger.warning("after %s", tmp_path / "model")
    assert f"after {tmp_path}/model" in caplog.text


def test_a_recipe_without_variables_is_unchanged(recipe):
    loaded = load_recipe(recipe)
    with expanded_paths(loaded) as paths:
        assert paths.recipe == loaded
        assert paths.name("/any/path") == "/any/path"
