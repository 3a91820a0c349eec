"""`derta gate`: exit codes, lines, JSON and JUnit, from a run's folder."""

import json
from xml.etree import ElementTree

import pytest

from derta.reporting import read_summary


def test_a_floor_that_holds_is_exit_code_0_and_one_that_fails_1(finished, derta, tmp_path):
    called = derta("gate", finished.folder, "--max", "over_refusal=1", "--max", "attack/direct=1", "--method", "derta")
    assert (called.code, called.err) == (0, "")
    assert [line.split(":")[0] for line in called.out.splitlines()] == [
        "pass  max over_refusal=1",
        "pass  max attack/direct=1",
    ]
    words = ["gate", finished.folder, "--max", "over_refusal=1", "--min", "over_refusal=1", "--json"]
    called = derta(*words, "--junit", tmp_path / "gate.xml")
    value = json.loads(called.out)
    assert (called.code, value["method"], value["baseline"], value["passed"]) == (1, "derta", "vanilla", False)
    assert "gate: derta is judged" in called.err
    assert [one["passed"] for one in value["floors"]] == [True, False]
    point = read_summary(finished.folder / "summary.json").frontier.points[1]
    rate = point.rates["over_refusal"]
    numbers = (value["floors"][0][key] for key in ("value", "low", "high", "cases"))
    assert (point.method, *numbers) == ("derta", rate.value, rate.low, rate.high, rate.scored)
    root = ElementTree.parse(tmp_path / "gate.xml").getroot()  # noqa: S314 - our own file
    assert [case.get("name") for case in root.iter("testcase")] == ["max over_refusal=1", "min over_refusal=1"]
    assert len(list(root.iter("failure"))) == 1


def test_a_limit_can_be_relative_to_another_method(finished, derta):
    called = derta("gate", finished.folder, "--max", "over_refusal=+1@vanilla", "--method", "derta")
    assert called.code == 0
    assert "difference from vanilla" in called.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "gate: expected a floor such as --max attack_success=0.05, got none"),
        (["--min", "helpfulness=0.1"], "helpfulness was not computed for derta"),
        (["--max", "over_refusal=0.1", "--method", "dert"], "no method 'dert' in this run; did you mean 'derta'?"),
        (["--max", "attack_success=0.1", "--judge", "harmful"], "no judge 'harmful' of harm"),
        (["--max", "over_refusal/benig=0.1"], "no attack or data set 'benig'; did you mean 'benign'?"),
    ],
)
def test_what_cannot_be_judged_is_exit_code_2_and_one_line(words, message, finished, derta):
    method = [] if "--method" in words else ["--method", "derta"]
    called = derta("gate", finished.folder, *words, *method)
    assert (called.code, called.out, called.err.count("\n")) == (2, "", 1)
    assert message in called.err


def test_a_folder_without_a_run_is_one_line(tmp_path, derta):
    called = derta("gate", tmp_path, "--max", "over_refusal=0.1")
    assert (called.code, called.err.count("\n")) == (2, 1)
    assert "expected a run's folder with a run.json" in called.err
