"""`derta check`: all faults of a recipe at once, in seconds, without torch."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from derta.pipeline.checking import check_lines, check_recipe_file

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def checked(recipe):
    """Return a function that changes sections of the small recipe and returns the faults of the file."""

    def check(*, env=(), **sections):
        values = yaml.safe_load(recipe.read_text())
        for name, section in sections.items():
            merged = isinstance(section, dict) and isinstance(values.get(name), dict)
            values[name] = {**values[name], **section} if merged else section
        recipe.write_text(yaml.safe_dump(values))
        return list(check_recipe_file(recipe, env=env).faults)

    return check


def test_a_recipe_that_runs_has_no_fault(recipe):
    result = check_recipe_file(recipe)
    assert result.faults == ()
    assert (result.methods, result.evaluations, result.sources) == (("vanilla", "derta"), 3, 4)
    assert check_lines(result) == [f"{recipe}: no fault found (2 methods, 3 evaluations, 4 sources)"]


@pytest.mark.parametrize(
    ("sections", "parts"),
    [
        ({"titel": "x"}, ["unknown key `titel`; did you mean 'title'?"]),
        ({"model": {"path": "gone/a/b"}}, ["`model.path`: gone/a/b: expected a model folder or a hub id"]),
        ({"model": {"template": "gone.jinja"}}, ["`model.template`: expected auto, paper, paper_eval or a Jinja file"]),
        ({"methods": ["vanila", "derta", "derta"]}, ["each once, got", "unknown method 'vanila'; did you mean"]),
        (
            {"methods": ["base", {"name": "rival", "path": "gone/a/b", "adapter": "gone/c/d"}]},
            [
                "`methods`: rival: gone/a/b: expected a model folder",
                "`methods`: rival: gone/c/d: expected a model folder",
            ],
        ),
        ({"methods": ["derta", {"name": "rto", "path": "org/rto"}]}, ["a name that is not built in, got 'rto'"]),
        ({"baseline": "rto"}, ["`baseline`: expected one of the methods vanilla, derta, got 'rto'"]),
        ({"seeds": []}, ["`seeds`: expected at least one"]),
        ({"method_settings": {"derta": {"rto_wait": 1}}}, ["unknown key `method_settings.derta.rto_wait`; did you"]),
        (
            {"method_settings": {"derta": {"reference": True, "tree_rows": True, "rto_margin": 0.5}}},
            ["`method_settings.derta.reference`: the released code has no tree_rows", "has no rto_margin"],
        ),
        ({"train": {"bf16": True, "fp16": True}}, ["`train.bf16, fp16`: expected at most one of them, got both"]),
        ({"method_settings": {"mine": {"method": "dreta"}}}, ["method_settings.mine.method: unknown method 'dreta'"]),
        ({"methods": ["balanced"]}, ["data.counter: expected sources of counter examples for balanced"]),
        ({"data": {"triples": "gone.jsonl"}}, ["`data.triples.0`: gone.jsonl: cannot read it"]),
        (
            {"data": {"held_out_requests": 0}},
            ["`evaluate.1.requests`: held_out needs `data.held_out_requests` above 0"],
        ),
        (
            {"evaluate": [{"attack": "drect", "requests": "held_out"}]},
            ["`evaluate.0`: unknown attack 'drect'; did you"],
        ),
        (
            {"evaluate": [{"requests": "held_out"}] * 2},
            ["`evaluate.1`: has the attack, suite and name of `evaluate.0`"],
        ),
        (
            {"evaluate": [{"requests": "held_out", "judges": ["refusl", {"name": "harmbench"}]}]},
            [
                "`evaluate.0.judges`: unknown judge 'refusl'",
                "judge 'harmbench' uses a model, and the recipe names none",
            ],
        ),
        (
            {"evaluate": [{"requests": "held_out", "judges": [{"name": "guideline", "model": "m", "engine": "hff"}]}]},
            ["`evaluate.0.judges`: unknown engine 'hff'; did you mean 'hf'?"],
        ),
        ({"evaluate": [{"attack": "pair", "requests": "held_out"}]}, ["`evaluate.0`: pair needs `search: {attacker:"]),
        ({"evaluate": [{"prompts": "gone.jsonl"}]}, ["`evaluate.0.prompts`: gone.jsonl: cannot read it"]),
    ],
)
def test_each_fault_is_one_line_with_its_key(sections, parts, checked):
    faults = checked(**sections)
    assert len(faults) == len(parts), faults
    assert all(part in fault for part, fault in zip(parts, faults, strict=True)), faults
    assert not any("\n" in fault for fault in faults)


def test_faults_of_all_kinds_are_reported_together(recipe, tmp_path, monkeypatch, derta):
    monkeypatch.delenv("DERTA_NOWHERE", raising=False)
    (tmp_path / "odd.csv").write_text("Frage,Antwort\nWhy?,So.\n")
    recipe.write_text(
        f"""
title: many
modell: x
model: {{path: gone/a/b}}
methods: [vanila]
data:
  triples: [$DERTA_NOWHERE/t.jsonl, $DERTA_NOWHERE/u.jsonl]
  helpful: {{path: {tmp_path}/odd.csv, columns: {{prompt: Frag}}}}
train: {{epochs: 1, sorry_dropout: 2}}
evaluate:
  - {{attack: direct, requests: {tmp_path}/odd.csv}}
"""
    )
    called = derta("check", recipe)
    assert (called.code, called.err) == (2, "")
    lines = called.out.splitlines()
    assert len(lines) == 8, called.out
    for part in (
        "unknown key `modell`; did you mean 'model'?",
        "unknown key `train.epochs`",
        "`train.sorry_dropout`",
        "`model.path`",
        "unknown method 'vanila'",
        "`data.triples.0.path` and 1 other key: the environment variable DERTA_NOWHERE is not set",
        "`data.helpful.0`: ",
        "`evaluate.0.requests`: ",
    ):
        assert any(part in line for line in lines), part
    [columns] = [line for line in lines if "data.helpful.0" in line]
    assert "expected a column of the file for 'prompt', got 'Frag'; did you mean 'Frage'?" in columns


@pytest.mark.parametrize("content", [None, "a: [1", "- a\n", "a: 1\na: 2\n"])
def test_a_file_that_is_no_recipe_is_one_fault(content, tmp_path):
    path = tmp_path / "r.yaml"
    if content is not None:
        path.write_text(content)
    [fault] = check_recipe_file(path).faults
    assert fault.startswith(str(path))


def test_the_result_is_json_too_and_the_exit_code_is_0_without_a_fault(recipe, derta):
    called = derta("check", recipe, "--json", "--set", "train.max_steps=3")
    assert called.code == 0, called.err
    assert json.loads(called.out)["faults"] == []
    assert derta("check", recipe, "--set", "train.max_step=3").code == 2


def test_a_check_takes_seconds_and_imports_no_torch(recipe):
    code = (
        "import sys\nfrom pathlib import Path\nfrom derta.pipeline.checking import check_recipe_file\n"
        f"assert not check_recipe_file(Path({str(recipe)!r})).faults\n"
        "sys.exit(str([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules]))"
    )
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603
    assert result.stderr.strip() == "[]"
    assert time.perf_counter() - start < 20  # two seconds on an idle machine


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_shipped_recipes_lack_nothing_but_their_data(name, monkeypatch):
    for variable in ("DERTA_DATA", "DERTA_ATTACKS", "DERTA_GEMMA_270M", "DERTA_QWEN_CODER"):
        monkeypatch.delenv(variable, raising=False)
    faults = check_recipe_file(RECIPES / f"{name}.yaml").faults
    assert [fault for fault in faults if "is not set; run `export DERTA_" not in fault] == []
