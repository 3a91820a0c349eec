"""`derta frontier`: the methods of one or several runs, from the files in their folders."""

import json
import shutil
from pathlib import Path

import pytest

from derta.errors import DataError, RunError
from derta.files import read_records, write_records
from derta.pipeline.frontier import frontier
from derta.provenance import prompt_hash
from derta.records import Prompt, Reply
from derta.reporting import read_summary


@pytest.fixture
def copied(finished, tmp_path):
    return Path(shutil.copytree(finished.folder, tmp_path / "first"))


def changed(folder, name, *, replies=None):
    """A copy of a run under another name, with other fields of its replies."""
    copy = Path(shutil.copytree(folder, folder.with_name(name)))
    for path in copy.glob("*/replies.jsonl") if replies else ():
        write_records(path, [one.model_copy(update=replies(one)) for one in read_records(path, Reply)])
    return copy


def test_one_run_has_the_frontier_of_its_summary(copied):
    assert frontier(copied) == read_summary(copied / "summary.json").frontier


def test_methods_of_two_runs_are_named_after_them_and_paired(copied):
    second = changed(copied, "second")
    contents = json.loads((second / "run.json").read_text())
    for entry in contents["models"]:
        entry["label"] = entry["label"].replace("derta", "ours")
    contents["questions"] = {"methods with the first": [["vanilla", "ours"]]}
    (second / "run.json").write_text(json.dumps(contents))
    result = frontier(copied, second)
    assert [point.method for point in result.points] == ["first/vanilla", "derta", "second/vanilla", "ours"]
    assert result.points[1].rates == result.points[3].rates
    assert {reason for axis in result.axes for reason in axis.left_out.values()} == {"no verdicts"}
    assert {axis.prompts_left_out for axis in result.axes} == {0}
    assert {point.pareto for point in result.points} != {None}


def test_sets_that_a_run_lacks_are_left_out_and_named(copied):
    second = changed(copied, "second")
    for path in (second / "prompts.jsonl", *second.glob("*/*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [row for row in rows if "prefill" not in row.get("prompt_id", row.get("id"))]
        path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    axis = next(one for one in frontier(copied, second).axes if one.name == "attack_not_refused")
    assert axis.sets == ("direct",)
    assert axis.left_out == {f"prefill@{depth}": "missing for second/vanilla, second/derta" for depth in ("0%", "50%")}


def test_other_prompts_under_the_same_name_are_not_pooled(copied):
    second = changed(copied, "second")
    path = second / "prompts.jsonl"
    path.write_text(path.read_text().replace("Who likes bread?", "Who bakes bread?"))
    hashes = {one.id: prompt_hash(one) for one in read_records(path, Prompt)}
    for replies in second.glob("*/replies.jsonl"):
        write_records(
            replies,
            [one.model_copy(update={"input_hash": hashes[one.prompt_id]}) for one in read_records(replies, Reply)],
        )
    axis = next(one for one in frontier(copied, second).axes if one.name == "over_refusal")
    assert (axis.prompts, axis.prompts_left_out) == (1, 2)


def test_other_token_limits_and_judges_are_not_compared(copied):
    def longer(one):
        return {"producer": {**one.producer, "max_new_tokens": "99"}} if "b" in one.prompt_id[-2:] else {}

    def axis_of(second, name):
        return next((one for one in frontier(copied, second).axes if one.name == name), None)

    assert axis_of(changed(copied, "second", replies=longer), "over_refusal") is None
    third = changed(copied, "third")
    contents = json.loads((third / "run.json").read_text())
    (third / "run.json").write_text(json.dumps(contents | {"refusal_words": ["Unfortunately"]}))
    assert axis_of(third, "over_refusal") is None
    assert axis_of(third, "attack_success").sets == ("direct",)


def test_a_plot_is_written(copied, tmp_path):
    frontier(copied, out=tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")


def test_bad_sources_are_one_line(copied, tmp_path):
    with pytest.raises(RunError, match="expected the folder of a run, got none"):
        frontier()
    with pytest.raises(RunError, match="expected each run once"):
        frontier(copied, copied)
    with pytest.raises(RunError, match=r"expected a run's folder with a run.json, or folders of runs, found none"):
        frontier(tmp_path / "nowhere")
    with pytest.raises(DataError, match="over-refusal: unknown set 'benig'; did you mean 'benign'"):
        frontier(copied, over_refusal=["benig"])


def test_the_command_prints_tables_or_json(copied, derta, tmp_path):
    called = derta("frontier", copied, "--over-refusal", "benign", "--out", tmp_path / "plot.svg")
    assert called.code == 0
    assert "over-refusal (refusal); malformed on benign (refusal): 2 prompts of 1 set: benign\n" in called.out
    assert (tmp_path / "plot.svg").exists()
    value = json.loads(derta("frontier", copied, "--json").out)
    assert [point["method"] for point in value["points"]] == ["vanilla", "derta"]
    called = derta("frontier", copied, "--judge", "harmful")
    assert (called.code, called.err.count("\n")) == (2, 1)


@pytest.fixture
def goals(tmp_path):
    path = tmp_path / "goals.yaml"
    path.write_text(
        "{method: derta, baseline: vanilla, reference: derta, goals: ["
        "{name: answers, measure: over_refusal, against: baseline, worse_by: 0.02},"
        "{name: others, measure: helpfulness, at_least: 0.5}]}"
    )
    return path


def test_goals_are_judged_by_the_command(copied, goals, derta):
    called = derta("frontier", copied, "--goals", goals)
    assert called.code == 0
    assert "Goals of derta" in called.out
    assert "others: not measured for all of the methods" in called.out
    value = json.loads(derta("frontier", copied, "--goals", goals, "--method", "vanilla", "--json").out)
    assert [(one["goal"], one["status"]) for one in value["goals"]] == [("answers", "open"), ("others", "unmeasured")]
    assert value["goals"][0]["items"][0]["difference"] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "derta"], "--method: expected a goal file"),
        (["--goals", "GOALS", "--method", "dertas"], "no method 'dertas' in these runs; did you mean 'derta'"),
        (["--goals", "missing.yaml"], "missing.yaml: cannot read"),
    ],
)
def test_bad_goals_are_one_line(words, message, copied, goals, derta):
    called = derta("frontier", copied, *(str(goals) if word == "GOALS" else word for word in words))
    assert (called.code, called.err.count("\n")) == (2, 1)
    assert message in called.err
