"""The recipe parts and the Python of docs/judges.md, as a reader copies them."""

import re
from pathlib import Path

import pytest
import yaml

import derta
from derta.config import load_recipe
from derta.config.engines import JudgeConfig
from derta.engines import ENGINES
from derta.engines.scripted import ScriptedModel
from derta.errors import DataError
from derta.judges import JUDGES, build_judge, uses_model
from derta.pipeline.registry import Registry
from derta.pipeline.run import run
from small_run import small_recipe

PAGE = (Path(__file__).parents[2] / "docs" / "judges.md").read_text(encoding="utf-8")
PARTS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)]
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_the_page_names_every_judge():
    table = PAGE.partition("## For published numbers")[0]
    assert {name for name in JUDGES if f"`{name}`" in table} == set(JUDGES)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: next(iter(part)))
def test_the_entries_of_judges_are_valid(part: dict):
    entries = part["judges"] if "judges" in part else part["evaluate"][0]["judges"]
    for entry in entries:
        config = JudgeConfig.model_validate({"name": entry} if isinstance(entry, str) else entry)
        judge = Registry().judge(config)
        assert uses_model(config.name) == judge.uses_model == (config.model is not None)


def test_the_first_recipe_part_runs_from_training_to_the_report(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    loaded: list[str] = []

    def load(model: str, *, endpoints: object = None):
        loaded.append(model)
        return ScriptedModel(lambda prompt: "It is a step.\nVERDICT: UNSAFE")

    monkeypatch.setitem(ENGINES, "api", lambda: load)
    monkeypatch.chdir(tmp_path)
    evaluate = PARTS[0]["evaluate"]
    recipe = small_recipe(tmp_path, tiny_model_dir, methods=["derta"], evaluate=evaluate)
    (tmp_path / "asked.jsonl").rename(tmp_path / "requests.jsonl")
    summary = run(load_recipe(recipe), out=tmp_path / "run")
    [cell] = [one for one in summary.cells if one.judge == "guideline" and one.measure == "harmful"]
    assert (cell.suite, cell.name, cell.scored) == ("attack", "direct", 3)
    assert set(loaded) == {evaluate[0]["judges"][1]["model"]}
    assert "Attack success" in (tmp_path / "run" / "report.html").read_text()


def test_the_python_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(derta, "load_engine", lambda *_, **__: ScriptedModel(lambda _: "VERDICT: UNSAFE"))
    names = {"derta": derta, "prompts": ["How is tea made?"], "replies": ["Boil water."]}
    for block in PYTHON:
        exec(compile(block, "docs/judges.md", "exec"), names)  # noqa: S102 - our own page
    assert "value=1.0" in capsys.readouterr().out


def test_a_judge_that_asks_a_model_is_one_call_and_a_mistyped_rubric_is_an_error():
    engine = ScriptedModel(lambda _: "VERDICT: SAFE")
    assert derta.judges.llm(engine=engine).name == "guideline"
    assert build_judge("strongreject", engine=engine).name == derta.judges.llm("strongreject", engine=engine).name
    with pytest.raises(DataError, match="unknown rubric 'guidline'; did you mean 'guideline'"):
        derta.judges.llm("guidline", engine=engine)
