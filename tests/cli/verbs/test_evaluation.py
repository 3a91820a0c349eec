import json
import shutil

import pytest

from derta.files import read_records
from derta.records import Verdict
from derta.reporting import read_summary
from derta.results import Cell, Comparison

CELL_KEYS = {"method", "seed", "suite", "name", "judge", "value", "low", "high", "scored", "unscored"}
FINISHED_REPLIES = "derta-seed0/replies.jsonl"
MEASURES = ("harmful", "refused", "correct")


CELLS = ["direct", "prefill@0%", "prefill@50%", "benign"]


def test_judge_answers_by_cell_and_pools_attacks_and_harmless_requests_only_if_told(finished, tmp_path, derta):
    out = tmp_path / "verdicts.jsonl"
    words = ["judge", finished.folder / FINISHED_REPLIES, "--judge", "refusal", "--json"]
    called = derta(*words, "--out", out)
    assert called.code == 0, called.err
    cells = json.loads(called.out)
    assert all(set(cell) >= CELL_KEYS for cell in cells)
    suites = {cell["name"]: cell["suite"] for cell in cells}
    assert suites == dict.fromkeys(CELLS[:3], "attack") | {"benign": "over_refusal"}
    assert sum(cell["scored"] + cell["unscored"] for cell in cells) == 9
    assert len(list(read_records(out, Verdict))) == 9
    pooled = json.loads(derta(*words, "--pool").out)
    assert (pooled["suite"], pooled["scored"] + pooled["unscored"]) == ("analysis", 9)
    assert {cell["name"] for cell in pooled["groups"]} == {*CELLS}
    table = derta(*words[:-1]).out
    assert "rates by attack and data set" in table
    assert not any(line.startswith("refused:") for line in table.splitlines())


def test_a_model_s_folder_is_its_file_of_replies(finished, derta):
    home = finished.folder / "derta-seed0"
    of_file, of_folder = (derta("judge", path, "--judge", "refusal") for path in (home / "replies.jsonl", home))
    assert of_file == of_folder


def test_judge_of_a_run_has_the_cells_of_its_summary(finished, derta):
    summary = read_summary(finished.folder / "summary.json")
    called = derta("judge", finished.folder, "--json")
    assert called.code == 0, called.err
    cells = [Cell.model_validate(cell) for cell in json.loads(called.out)]
    own = {*MEASURES, "malformed"}
    assert sorted(map(str, cells)) == sorted(str(cell) for cell in summary.cells if cell.measure in own)
    one = json.loads(derta("judge", finished.folder / "derta-seed0", "--json").out)
    assert [Cell.model_validate(cell) for cell in one] == [cell for cell in cells if cell.method == "derta"]
    table = " ".join(derta("judge", finished.folder).out.split())
    assert "attack or data set ┃ rate ┃ vanilla ┃ derta ┃ n" in table


def test_judge_of_a_run_with_another_judge_judges_every_reply(finished, derta):
    cells = json.loads(derta("judge", finished.folder, "--judge", "harm", "--json").out)
    assert {(cell["method"], cell["name"]) for cell in cells} == {(m, n) for m in ("vanilla", "derta") for n in CELLS}
    assert {cell["judge"] for cell in cells} == {"harm"}


def test_compare_of_a_run_has_the_comparisons_of_its_summary(finished, derta):
    summary = read_summary(finished.folder / "summary.json")
    called = derta("compare", finished.folder, "--json")
    assert called.code == 0, called.err
    found = [Comparison.model_validate(one) for one in json.loads(called.out)]
    assert sorted(map(str, found)) == sorted(map(str, summary.comparisons))
    assert all(one.difference_low <= one.first_value - one.second_value <= one.difference_high for one in found)
    table = derta("compare", finished.folder, "--judge", "refusal").out
    assert "methods against vanilla" in table
    assert "points: method minus vanilla" in " ".join(table.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["judge", "RUN", "--judge", "refusal", "--pool"], "--pool: expected a file of replies or one model's folder"),
        (["judge", "RUN", "--out", "verdicts.jsonl"], "--out: expected a file of replies or one model's folder"),
        (["judge", "FILE"], "expected --judge NAME for a file of replies, got none"),
        (["judge", "FILE", "--judge", "refusal", "--labels", "a.csv"], "a.csv: cannot read it (No such file"),
        (["judge", "EMPTY"], "expected a run's folder with a run.json"),
        (["judge", "UNFINISHED"], "derta seed 0 is not finished; `derta run` resumes it"),
        (["compare", "UNFINISHED"], "derta seed 0 is not finished; `derta run` resumes it"),
        (["compare", "EMPTY"], "expected the folder of a run, or two models to compare"),
        (["compare", "RUN", "FILE", "--judge", "refusal"], "expected one model's folder or file of replies, got a run"),
        (["compare", "FILE", "FILE"], "compare: expected --judge NAME with two models, got none"),
    ],
)
def test_a_source_that_cannot_be_answered_is_one_line(words, message, finished, tmp_path, derta):
    (tmp_path / "empty").mkdir()
    unfinished = tmp_path / "unfinished"
    if "UNFINISHED" in words:
        shutil.copytree(finished.folder, unfinished)
        replies = unfinished / FINISHED_REPLIES
        replies.write_text("".join(replies.read_text().splitlines(keepends=True)[:3]))
    paths = {"RUN": finished.folder, "FILE": finished.folder / FINISHED_REPLIES}
    paths |= {"EMPTY": tmp_path / "empty", "UNFINISHED": unfinished}
    called = derta(*(paths.get(word, word) for word in words))
    assert (called.code, called.out, called.err.count("\n")) == (2, "", 1)
    assert message in called.err


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
    paths = [finished.folder / "vanilla-seed0/replies.jsonl", finished.folder / "derta-seed0"]
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
