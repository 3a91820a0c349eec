"""The examples run as they are, on tiny models; notebooks cell by cell, in the order they are in."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from small_run import small_recipe

EXAMPLES = Path(__file__).parents[2] / "examples"
TRAINING = ("--triples", "--examples", "--out", "--max-steps=2", "--batch-size=8", "--helpful-per-safety=0.5")
SCRIPTS = {
    "train_on_your_triples": TRAINING,
    "attack_and_judge_in_memory": ("--requests", "--max-new-tokens=4"),
    "add_an_attack": ("--requests", "--max-new-tokens=4"),
    "add_a_method": TRAINING,
}
SAID = {
    "train_on_your_triples": "refuses with p = ",
    "attack_and_judge_in_memory": "completing: refused 0.",
    "add_an_attack": "hurried: refused 0.",
    "add_a_method": "similarity on harmful text: 1.000 at the first step",
}


def test_every_script_and_notebook_is_run_by_a_test():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SCRIPTS)
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == {"train_a_model", "attack_and_judge"}


@pytest.mark.extra
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_as_it_is(name, tmp_path, tiny_model_dir, monkeypatch, capsys):
    small_recipe(tmp_path, tiny_model_dir)
    places = {"--triples": "triples.jsonl", "--examples": "helpful.jsonl", "--requests": "asked.jsonl", "--out": "out"}
    words = [f"{word}={tmp_path / places[word]}" if word in places else word for word in SCRIPTS[name]]
    monkeypatch.setattr(sys, "argv", [name, f"--model={tiny_model_dir}", *words])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert SAID[name] in capsys.readouterr().out


@pytest.mark.extra
@pytest.mark.parametrize("name", ["train_a_model", "attack_and_judge"])
def test_a_notebook_runs_cell_by_cell_and_holds_no_output(name):
    import matplotlib as mpl

    mpl.use("agg")
    notebook = json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)
    names: dict[str, object] = {"__name__": "__main__"}
    for cell in cells:
        exec(compile("".join(cell["source"]), f"{name}.ipynb", "exec"), names)  # noqa: S102 - our own notebook
    assert names["engine"]


def test_the_first_cell_on_python_runs_with_local_names(tmp_path, tiny_model_dir, monkeypatch):
    """As printed; only the names on the hub become local folders, and the file of examples a small one."""
    from datasets import Dataset, DatasetDict

    small_recipe(tmp_path, tiny_model_dir)
    rows = [json.loads(line) for line in (tmp_path / "triples.jsonl").read_text().splitlines()]
    judged = [
        {"prompt": row["query"], "response": row[side], "is_safe": side == "safe", "category": {"tea": True}}
        for row in rows
        for side in ("safe", "harmful")
    ]
    DatasetDict({"30k_train": Dataset.from_list(judged)}).save_to_disk(tmp_path / "beavertails")
    page = (EXAMPLES.parent / "docs" / "python.md").read_text(encoding="utf-8")
    [cell] = re.findall(r"```python\n(import derta\nfrom peft.*?)```", page, re.DOTALL)
    for hub, local in (("org/base", tiny_model_dir), ("PKU-Alignment/BeaverTails", tmp_path / "beavertails")):
        assert hub in cell
        cell = cell.replace(hub, str(local))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(cell, "docs/python.md", "exec"), names)  # noqa: S102 - our own page
    trainer = names["trainer"]
    assert trainer.state.global_step == trainer.state.max_steps > 0
    assert len(trainer.train_dataset) == 2 * len(rows) + 12
    trainer.save_model()
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
