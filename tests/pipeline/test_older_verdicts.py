"""Verdicts that an older version of a judge left in a run are replaced or named, with one line for the whole run."""

import json
import shutil
from pathlib import Path

import pytest

from derta.files import read_records
from derta.records import Verdict


@pytest.fixture
def folder(finished, tmp_path: Path) -> Path:
    """A finished run whose refusal verdicts are of an older version that knew no malformed refusals."""
    copy = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    for path in copy.glob("*/verdicts.refusal.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            row["producer"]["code"] = "0" * 16
            row["reply_class"] = "comply"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return copy


def test_a_report_judges_again_and_says_so_in_one_line(folder: Path, finished, derta):
    called = derta("report", folder)
    assert called.code == 0, called.err
    count = sum(1 for path in folder.glob("*/verdicts.refusal.jsonl") for _ in read_records(path, Verdict))
    assert called.err.count("judged again") == called.err.count("superseded") == 1
    assert (
        f"{folder}: {count} verdicts are of older versions of refusal or on other replies; these are judged"
        in called.err
    )
    for path in folder.glob("*/verdicts.refusal.jsonl"):
        expected = finished.folder / path.relative_to(folder)
        assert list(read_records(path, Verdict)) == list(read_records(expected, Verdict))
        old = path.with_name("verdicts.refusal.superseded.jsonl")
        assert {one.reply_class for one in read_records(old, Verdict)} == {"comply"}
    assert "judged again" not in derta("report", folder).err


@pytest.mark.parametrize("name", ["", "replies.jsonl"])
def test_an_export_names_the_command_that_judges_again(folder: Path, tmp_path: Path, name: str, derta):
    home = next(iter(sorted(folder.glob("*/replies.jsonl")))).parent
    words = ["export", home / name, "--format", "harmbench", "--out", tmp_path / "out"]
    called = derta(*words)
    assert called.code == 0, called.err
    assert f"are of an older version of refusal; `derta report {folder}` judges again" in called.err
    derta("report", folder)
    assert "older version" not in derta(*words).err


def test_verdicts_next_to_a_file_of_others_have_the_command_of_the_judge(tmp_path: Path, derta):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"question": "Tea?", "response": "Boil it."}), encoding="utf-8")
    verdicts = tmp_path / "verdicts.refusal.jsonl"
    derta("judge", path, "--judge", "refusal", "--out", verdicts)
    words = ["export", path, "--format", "harmbench", "--out", tmp_path / "out.json"]
    assert "older version" not in derta(*words).err
    row = json.loads(verdicts.read_text(encoding="utf-8"))
    row["producer"]["code"] = "0" * 16
    verdicts.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert f"`derta judge {path} --judge refusal --out {verdicts}` judges again" in derta(*words).err
