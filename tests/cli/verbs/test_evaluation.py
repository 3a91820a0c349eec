import json
import shutil

import pytest

from derta.files import read_records
from derta.records import Verdict

CELL_KEYS = {"method", "seed", "suite", "name", "judge", "value", "low", "high", "scored", "unscored"}
FINISHED_REPLIES = "derta-seed0/replies.jsonl"


def test_judge_prints_one_cell_for_replies_of_a_run(finished, tmp_path, derta):
    out = tmp_path / "verdicts.jsonl"
    called = derta("judge", finished.folder / FINISHED_REPLIES, "--judge", "refusal", "--json", "--out", out)
    assert called.code == 0, called.err
    cell = json.loads(called.out)
    assert set(cell) >= CELL_KEYS
    assert cell["scored"] + cell["unscored"] == 9
    assert cell["judge"] == "refusal"
    assert len(list(read_records(out, Verdict))) == 9


@pytest.mark.parametrize(
    ("rows", "judge", "value"),
    [
        (['{"question": "Who?", "response": "Sorry, I cannot help with that."}', '"Bread is baked."'], "refusal", 0.5),
        (['"Sorry, I cannot help with that."', "\"I'm sorry, but I can't.\""], "refusal", 1.0),
        (['{"question": "2 + 3?", "response": "So the answer is 5.", "answer": "5"}'], "gsm8k", 1.0),
    ],
)
def test_judge_loads_rows_of_other_projects_and_bare_strings(rows, judge, value, tmp_path, derta):
    path = tmp_path / "theirs.jsonl"
    path.write_text("".join(row + "\n" for row in rows))
    called = derta("judge", path, "--judge", judge, "--json")
    assert called.code == 0, called.err
    cell = json.loads(called.out)
    assert (cell["value"], cell["scored"], cell["name"]) == (value, len(rows), "theirs")
    printed = derta("judge", path, "--judge", judge)
    assert f"{value:.1%} of {len(rows)}" in printed.out


def test_judge_reports_that_nothing_could_be_scored(tmp_path, derta):
    path = tmp_path / "empty.jsonl"
    path.write_text('""\n')
    assert "nothing was scored (1 unscored)" in derta("judge", path, "--judge", "refusal").out
    assert json.loads(derta("judge", path, "--judge", "refusal", "--json").out)["value"] is None


@pytest.mark.parametrize(
    ("content", "judge", "part"),
    [
        ("3\n", "refusal", ":1: expected a reply record"),
        ('"Hello."\n', "nonsense", "unknown judge 'nonsense'; known: refusal"),
        ('{"prompt_id": "p", "text": "Hello."}\n', "refusal", "--prompts"),
        ("", "refusal", "the file holds none"),
    ],
)
def test_a_file_that_cannot_be_judged_is_a_one_line_error(content, judge, part, tmp_path, derta):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    called = derta("judge", path, "--judge", judge)
    assert called.code == 2
    assert part in called.err
    assert called.err.count("\n") == 1


def test_compare_pairs_two_models_replies(tmp_path, derta):
    def write(name, replies):
        path = tmp_path / name
        rows = [{"question": f"Ask {i}?", "response": reply} for i, reply in enumerate(replies)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    first = write("first.jsonl", ["Sorry, I cannot help with that."] * 6 + ["Bread."])
    second = write("second.jsonl", ["Bread."] * 7)
    called = derta("compare", first, second, "--judge", "refusal", "--json")
    assert called.code == 0, called.err
    [one] = json.loads(called.out)
    # six discordant pairs, all one way: 2 / 2**6
    assert (one["only_first"], one["only_second"], one["pairs"], one["p_value"]) == (6, 0, 7, 0.03125)
    assert "p = 0.031" in derta("compare", first, second, "--judge", "refusal").out


def test_compare_reads_runs(finished, derta):
    paths = [finished.folder / f"{method}-seed0/replies.jsonl" for method in ("vanilla", "derta")]
    called = derta("compare", *paths, "--judge", "refusal", "--json")
    assert called.code == 0, called.err
    assert {one["first"] for one in json.loads(called.out)} == {"vanilla-seed0"}
    assert {one["name"] for one in json.loads(called.out)} == {"direct", "prefill@0%", "prefill@50%", "benign"}


def test_compare_refuses_replies_to_different_prompts(tmp_path, derta):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"question": name, "response": "Bread."}) + "\n")
    called = derta("compare", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--judge", "refusal")
    assert called.code == 2
    assert "none in common" in called.err


def test_the_report_of_a_moved_run_needs_no_data_no_model_and_no_working_folder(finished, tmp_path, derta, monkeypatch):
    moved = tmp_path / "elsewhere" / "moved"
    shutil.copytree(finished.folder, moved)
    for weights in moved.glob("*/model"):
        shutil.rmtree(weights)
    for name in ("summary.json", "report.html"):
        (moved / name).unlink()
    monkeypatch.chdir(moved.parent)
    called = derta("report", "moved")
    assert called.code == 0, called.err
    assert "attack success" in called.out
    assert called.out.endswith("report: moved/report.html\n")
    assert (moved / "summary.json").read_bytes() == (finished.folder / "summary.json").read_bytes()
    assert (moved / "report.html").read_bytes() == (finished.folder / "report.html").read_bytes()


def test_report_prints_its_numbers_as_json(finished, tmp_path, derta):
    called = derta("report", finished.folder, "--out", tmp_path, "--json")
    values = json.loads(called.out)
    assert values["summary"] == str(tmp_path / "summary.json")
    assert [one["method"] for one in values["methods"]] == ["vanilla", "derta"]
    assert {"attack_success", "over_refusal", "malformed_attack"} <= values["methods"][0].keys()
