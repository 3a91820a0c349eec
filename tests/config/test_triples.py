from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from derta.config import load_triples_config, parse_triples_config
from derta.errors import RecipeError

HARMFUL = {"harmful": {"model": "org/base"}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "`harmful`: expected a value"),
        ([], "expected a mapping of keys, got list"),
        ({"harmful": {"model": "m", "form": "asking"}}, "`harmful.form.0`"),
        ({"harmful": {"model": "m", "form": []}}, "`harmful.form`"),
        ({"harmful": {"model": "m", "form": ["direct", "direct"]}}, "expected each `form` once"),
        ({"harmful": {"model": "m", "texts": "a.jsonl"}}, "expected the form `completing` with `texts`"),
        (HARMFUL | {"safe": {"policy": "No."}}, "expected a `model` with `policy`"),
        (HARMFUL | {"safe": {"model": "m", "templates": "a.yaml"}}, "got both; remove one"),
        (HARMFUL | {"safe": {"model": "m", "policy": "No.", "policy_file": "a.txt"}}, "got both; remove one"),
        (HARMFUL | {"safe": {"model": "m", "responses": 2}}, "expected as many `num_samples`"),
        ({"harmful": {"model": "m", "num_samples": 3}}, "expected a temperature above 0"),
        (HARMFUL | {"safe": {"temperature": 1.0}}, "expected a `model` with `temperature`"),
        (HARMFUL | {"counterpart": {"model": "m", "judge": "harm"}}, "a judge that knows topics"),
        (HARMFUL | {"counterparts": {"model": "m"}}, "did you mean 'counterpart'"),
    ],
)
def test_values_that_do_not_fit_are_refused_with_their_key(values: Any, message: str) -> None:
    with pytest.raises(RecipeError, match="triples: ") as caught:
        parse_triples_config(values)
    assert message in str(caught.value)


def test_a_file_expands_its_paths_and_takes_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DERTA_BASE", "/models/base")
    monkeypatch.setenv("MINE", "/mine")
    path = tmp_path / "triples.yaml"
    path.write_text("{requests: $DERTA_BASE/r.csv, harmful: {model: $DERTA_BASE}}", encoding="utf-8")
    config = load_triples_config(path, overrides={"harmful.form": "prefill"})
    assert (config.requests[0].path, config.harmful.model) == ("/models/base/r.csv", "/models/base")
    assert config.harmful.form == ("prefill",)
    with pytest.raises(RecipeError, match="pass --env MINE"):
        load_triples_config(path, overrides={"harmful.model": "$MINE"})
    assert load_triples_config(path, overrides={"harmful.model": "$MINE"}, env=["MINE"]).harmful.model == "/mine"
