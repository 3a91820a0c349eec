"""Judges that ask a model in a recipe: loaded once, after the tuned models, and resumed verdict by verdict."""

import json

import pytest
import yaml

from derta.config import load_recipe, parse_recipe
from derta.engines import ENGINES
from derta.engines.scripted import ScriptedModel
from derta.errors import EngineError
from derta.files import read_records
from derta.pipeline.models import LazyEngine
from derta.pipeline.report import report
from derta.pipeline.run import run
from derta.records import Verdict

ENTRY = {"name": "guideline", "model": "a judge", "engine": "scripted", "settings": {"dtype": "float32"}}


class Happened(list):
    """What happened: prompts that the judge was asked, and its loading."""


@pytest.fixture
def happened(monkeypatch):
    seen = Happened()

    def load(path: str, *, dtype: str = "auto"):
        seen.append(f"load {path} {dtype}")
        return ScriptedModel(lambda prompt: seen.append(prompt) or "VERDICT: UNSAFE")

    release = LazyEngine.release
    monkeypatch.setattr(LazyEngine, "release", lambda self: (seen.append("release"), release(self)))
    monkeypatch.setitem(ENGINES, "scripted", lambda: load)
    return seen


@pytest.fixture
def judged(recipe):
    """The small recipe with a judge that asks a model beside the others."""
    values = yaml.safe_load(recipe.read_text())
    values["evaluate"][0]["judges"] = ["refusal", ENTRY]
    values["evaluate"][1]["judges"] = [ENTRY]
    recipe.write_text(yaml.safe_dump(values))
    return load_recipe(recipe)


def test_a_judge_s_model_is_loaded_once_after_all_models_and_only_for_what_is_missing(judged, happened, tmp_path):
    summary = run(judged, out=tmp_path / "run")
    assert [one for one in happened if isinstance(one, str)] == ["release", "release", "load a judge float32"]
    assert len(happened) == 3 + 2 * (3 + 4)
    found = {(cell.method, cell.name): cell for cell in summary.cells if cell.judge == "guideline"}
    assert found["derta", "direct"].value == 1
    assert found["derta", "direct"].measure == "harmful"
    assert {name for _, name in found} == {"direct", "prefill@0%", "prefill@50%"}
    happened.clear()
    assert run(judged, out=tmp_path / "run") == summary
    assert happened == []
    path = tmp_path / "run/derta-seed0/verdicts.guideline.jsonl"
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:5]) + b'{"torn')
    assert run(judged, out=tmp_path / "run") == summary
    assert path.read_bytes() == whole
    assert len(happened) == 1 + 2


def test_what_its_engine_failed_on_is_reported_and_judged_again(judged, happened, tmp_path, monkeypatch):
    class Fails(ScriptedModel):
        def generate(self, prompts, *, max_new_tokens):
            raise EngineError("the server is gone")

    def failing(path: str, *, dtype: str = "auto"):
        return Fails(lambda _: "")

    judged = judged.model_copy(update={"methods": ("vanilla",)})
    with monkeypatch.context() as patched:
        patched.setitem(ENGINES, "scripted", lambda: failing)
        summary = run(judged, out=tmp_path / "run")
    cell = next(cell for cell in summary.cells if cell.judge == "guideline")
    assert (cell.value, cell.unscored) == (None, 3)
    assert any("vanilla, seed 0: the engine of judge guideline failed on 7 replies" in note for note in summary.notes)
    assert report(tmp_path / "run") == summary
    summary = run(judged, out=tmp_path / "run")
    assert next(cell for cell in summary.cells if cell.judge == "guideline").value == 1
    assert not any("failed" in note for note in summary.notes)
    verdicts = list(read_records(tmp_path / "run/vanilla-seed0/verdicts.guideline.jsonl", Verdict))
    assert len(verdicts) == 7


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["guideline"], "uses a model"),
        ([{**ENTRY, "settings": {"detype": "x"}}], "did you mean 'dtype'?"),
        ([{**ENTRY, "engine": "scriptd"}], "did you mean 'scripted'?"),
        ([{**ENTRY, "name": "guidline"}], "'guidline'"),
        ([{**ENTRY, "modle": "x"}], "did you mean 'model'?"),
        ([{"name": "guideline", "engine": "scripted"}], "expected a `model` with `engine`"),
        ([ENTRY, {**ENTRY, "model": "another"}], "expected one model for 'guideline', got two"),
    ],
)
@pytest.mark.usefixtures("happened")
def test_a_wrong_judge_is_one_line_before_any_training(entries, message, recipe, tmp_path, derta):
    values = yaml.safe_load(recipe.read_text())
    values["evaluate"][0]["judges"] = entries
    values["model"] = {"path": "no-model"}
    recipe.write_text(yaml.safe_dump(values))
    called = derta("run", recipe, "--out", tmp_path / "run")
    assert (called.code, called.err.count("\n")) == (2, 1), called.err
    assert message in called.err
    assert not (tmp_path / "run").exists()


def test_the_verdicts_of_another_judge_model_are_superseded(judged, happened, tmp_path, recipe, derta):
    run(judged.model_copy(update={"methods": ("vanilla",)}), out=tmp_path / "run")
    words = json.dumps([{**ENTRY, "model": "another judge"}])
    values = yaml.safe_load(recipe.read_text()) | {"methods": ["vanilla"]}
    values["evaluate"][0]["judges"] = values["evaluate"][1]["judges"] = json.loads(words)
    recipe.write_text(yaml.safe_dump(values))
    called = derta("run", recipe, "--out", tmp_path / "run")
    assert called.code == 0, called.err
    assert "verdicts on other replies or by another judge are superseded" in called.err
    home = tmp_path / "run/vanilla-seed0"
    verdicts, superseded = (
        list(read_records(home / f"verdicts.{ENTRY['name']}{suffix}.jsonl", Verdict)) for suffix in ("", ".superseded")
    )
    assert {one.producer["model"] for one in verdicts} == {"another judge"}
    assert [one.key for one in superseded] == [one.key for one in verdicts]


def test_a_recipe_with_judges_of_both_kinds_is_the_same_after_its_manifest(judged):
    assert parse_recipe(judged.model_dump(mode="json"), where="manifest") == judged
