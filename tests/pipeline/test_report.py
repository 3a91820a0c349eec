"""`derta report`: a run, or several pooled, from the files in their folders alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from derta.config import load_recipe
from derta.errors import RunError
from derta.files import read_records, write_records
from derta.pipeline.report import report
from derta.pipeline.run import run
from derta.provenance import prompt_hash
from derta.records import Prompt, Reply
from derta.reporting import read_summary


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, under a name that a pooled report shows."""
    return Path(shutil.copytree(finished.folder, tmp_path / "runs" / "seed0"))


def seeded(folder, seed):
    """A copy of a run as if it had another seed, which is in nothing but names."""
    copy = Path(shutil.copytree(folder, folder.with_name(f"seed{seed}")))
    for home in copy.glob("*-seed0"):
        home.rename(copy / home.name.replace("-seed0", f"-seed{seed}"))
    contents = json.loads((copy / "run.json").read_text())
    for entry in contents["models"]:
        entry |= {"seed": seed, "folder": entry["folder"].replace("-seed0", f"-seed{seed}")}
    (copy / "run.json").write_text(json.dumps(contents))
    return copy


def answered(folder):
    """Make the replies of a run those to its prompts of today."""
    hashes = {one.id: prompt_hash(one) for one in read_records(folder / "prompts.jsonl", Prompt)}
    for path in folder.glob("*/replies.jsonl"):
        replies = list(read_records(path, Reply))
        write_records(path, [one.model_copy(update={"input_hash": hashes[one.prompt_id]}) for one in replies])


def test_a_report_needs_neither_data_nor_model_nor_recipe_nor_torch(recipe, tmp_path):
    loaded = load_recipe(recipe, overrides={"methods": ["vanilla"]})
    summary = run(loaded, out=tmp_path / "run")
    whole = (tmp_path / "run/summary.json").read_bytes(), (tmp_path / "run/report.html").read_bytes()
    shutil.rmtree(tmp_path / "run/vanilla-seed0/model")
    for path in (*tmp_path.glob("*.jsonl"), recipe, tmp_path / "run/summary.json", tmp_path / "run/report.html"):
        path.unlink()
    script = (
        "import sys\nfrom pathlib import Path\nfrom derta.pipeline.report import report\nreport(Path(sys.argv[1]))\n"
        "sys.exit(str({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    called = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert (called.returncode, called.stdout, called.stderr) == (1, "", "set()\n")
    assert ((tmp_path / "run/summary.json").read_bytes(), (tmp_path / "run/report.html").read_bytes()) == whole
    assert read_summary(tmp_path / "run/summary.json") == summary


def test_runs_of_other_seeds_are_pooled_and_keep_their_own_prompts(copied, tmp_path):
    for path in (seeded(copied, 10), seeded(copied, 2)):
        # another world: what is asked under the same ids is something else
        prompts = (path / "prompts.jsonl").read_text()
        (path / "prompts.jsonl").write_text(prompts.replace("now?", f"in {path.name}?"))
        answered(path)
        contents = json.loads((path / "run.json").read_text())
        contents["notes"][0] = f"a note of {path.name} alone"
        (path / "run.json").write_text(json.dumps(contents))
    summary = report(tmp_path / "runs", title="three worlds")
    assert read_summary(tmp_path / "runs/summary.json") == summary
    assert summary.title == "three worlds"
    assert {cell.seed for cell in summary.cells if cell.suite == "attack"} == {0, 2, 10, None}
    assert list(dict.fromkeys(cell.method for cell in summary.cells)) == ["vanilla", "derta"]
    assert {one.pairs for one in summary.comparisons if one.name == "direct"} == {9}
    notes = [note for note in summary.notes if "remain for training" in note or "alone" in note]
    assert [note.split(":")[0] for note in notes if note.startswith("seed")] == ["seed0", "seed2", "seed10"]
    assert sum("helpful examples remain" in note for note in notes) == 1  # what all have is said once
    assert {one.pairs for one in report([copied, seeded(copied, 3)], out=tmp_path / "x").comparisons} == {2, 3}
    listed = report([copied, copied.with_name("seed2")], out=tmp_path / "two")
    assert listed.title == "a small run"
    assert {cell.seed for cell in listed.cells if cell.suite == "attack"} == {0, 2, None}


def test_runs_that_cannot_be_pooled_are_refused(copied, tmp_path):
    same = Path(shutil.copytree(copied, tmp_path / "runs" / "again"))
    with pytest.raises(RunError, match="expected runs of different seeds, got vanilla seed 0"):
        report(tmp_path / "runs")
    contents = json.loads((same / "run.json").read_text())
    contents["models"] = [entry | {"seed": 1} for entry in contents["models"] if entry["label"] == "derta"]
    (same / "run.json").write_text(json.dumps(contents))
    with pytest.raises(RunError, match="expected the models and judges of"):
        report(tmp_path / "runs")
    with pytest.raises(RunError, match=r"expected an output folder for the report of . runs, got none; set `out`"):
        report([copied, same])
