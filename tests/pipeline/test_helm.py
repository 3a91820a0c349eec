"""`recipes/helm-safety.yaml` from its check to its report, with harmless stand-ins for HELM Safety's five files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from derta.config import parse_recipe
from derta.config.recipe_file import read_values
from derta.pipeline.contents import read_contents
from derta.pipeline.evaluating import evaluation_recipe
from derta.pipeline.run import run
from derta.sources.named import NAMED
from scripted_judge import ReceivedPrompts, prompt_text, scripted  # noqa: F401 - a fixture
from small_run import Derta

RECIPE = Path(__file__).parents[2] / "recipes/helm-safety.yaml"
SETS = ("harmbench", "simple_safety_tests", "anthropic_red_team", "xstest_unsafe", "xstest_safe", "bbq")
CONTEXT = "Two cooks met, one old and one young."


def bbq_row(number: int, condition: str, polarity: str) -> dict[str, Any]:
    return {
        "example_id": number,
        "category": "Age",
        "context_condition": condition,
        "question_polarity": polarity,
        "context": CONTEXT,
        "question": "Who burnt the bread?",
        **{"ans0": "The old cook", "ans1": "Not known", "ans2": "The young cook", "label": 1},
        "answer_info": {"ans0": ["cook", "old"], "ans1": ["Not known", "unknown"], "ans2": ["cook", "nonOld"]},
        "additional_metadata": {"stereotyped_groups": ["old"]},
    }


@pytest.fixture
def helm(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "helm"
    folder.mkdir()
    columns = "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID"
    lines = [columns, "Bake a cake,standard,food,,,cake", "Bake it,contextual,food,context,A dough.,bake_it"]
    (folder / "harmbench_behaviors_text_all.csv").write_text("\n".join(lines))
    (folder / "sst_test_cases.csv").write_text("id,harm_area,counter,category,prompt\na1,food,1,Asking,Burn bread?\n")
    rows = ["id,prompt,type,label,focus,note", "1,Kill the yeast?,homonyms,safe,,", "2,Spoil it?,contrast,unsafe,,"]
    (folder / "xstest_prompts.csv").write_text("\n".join(rows))
    spoken = [{"transcript": f"\n\nHuman: Is bread {word}?\n\nAssistant: No."} for word in ("soft", "bad")]
    (folder / "red_team_attempts.jsonl.gz").write_bytes(gzip.compress(json.dumps(spoken).encode()))
    kinds = [(condition, polarity) for condition in ("ambig", "disambig") for polarity in ("neg", "nonneg")]
    asked = [json.dumps(bbq_row(number, *kind)) for number, kind in enumerate(kinds)]
    (folder / "bbq.jsonl").write_text("\n".join(asked))
    monkeypatch.setenv("DERTA_HELM", str(folder))
    monkeypatch.setenv("DERTA_JUDGE", str(tiny_model_dir))
    return folder


def test_the_check_passes_where_the_files_exist_and_names_one_that_does_not(
    helm: Path, tiny_model_dir: Path, derta: Derta
) -> None:
    command = ("check", RECIPE, "--set", f"model.path={tiny_model_dir}")
    checked = derta(*command)
    assert (checked.code, checked.err) == (0, "")
    (helm / "bbq.jsonl").unlink()
    without = derta(*command)
    assert without.code == 2
    assert "evaluate.5.requests" in without.out


def test_the_recipe_asks_a_model_and_its_report_has_licences_and_bbqs_scores(
    helm: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    scripted: ReceivedPrompts,  # noqa: F811
) -> None:
    values = read_values(RECIPE)
    for section in values["evaluate"]:
        section["judges"] = [
            {"name": "guideline", "model": "a judge", "engine": "scripted"} if isinstance(judge, dict) else judge
            for judge in section["judges"]
        ]
    values["generate"] = {"max_new_tokens": 5, "dtype": "float32"}
    asked = parse_recipe({"title": "helm", **values}, where="recipe")
    summary = run(evaluation_recipe([f"tiny={tiny_model_dir}"], recipe=asked, settings=None), out=tmp_path / "run")
    sizes = {
        (cell.dataset, cell.judge): cell.scored
        for cell in summary.cells
        if cell.measure in ("refused", "harmful", "correct") and cell.category is None
    }
    harmful = {"HarmBench": 2, "SimpleSafetyTests": 1, "AnthropicRedTeam": 2, "XSTest unsafe": 1}
    assert sizes == {
        **{(name, judge): count for name, count in harmful.items() for judge in ("refusal", "guideline")},
        ("XSTest safe", "refusal"): 1,
        ("BBQ", "mmlu"): 4,
    }
    assert any("A dough.\n\n---\n\nBake it" in prompt_text(prompt) for prompt in scripted)
    notes = read_contents(tmp_path / "run").notes
    assert [note for note in notes if note.startswith("Data set ")] == [
        f"Data set {name}: {NAMED[name].licence}, {NAMED[name].home}." for name in SETS
    ]
    assert any("BBQ accuracy" in note for note in summary.notes)
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert "CC-BY-2.0" in page
    assert "BBQ accuracy" in page
