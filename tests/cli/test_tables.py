import pytest
from rich.console import Console

from derta.cli.tables import (
    agreement_table,
    calibration_table,
    curve_table,
    format_cell,
    format_comparison,
    format_estimate,
    format_search,
    judged_json,
    judged_lines,
    replay_table,
)
from derta.metrics.calibration import Calibration, Group, Share
from derta.metrics.comparisons import Agreement
from derta.paper.replay import PositionCurve, ReplayRow
from derta.pipeline.calibrating import Disagreement, JudgeAgreement, JudgeResult
from derta.pipeline.estimate import MethodEstimate
from derta.pipeline.search import SearchSummary
from derta.records import Cost, Message, Prompt, Reply, Verdict
from derta.results import Comparison, Place, cell_of
from derta.stats import rate

AGREEMENT = Agreement(
    both=5, only_first=2, only_second=1, neither=4, unscored=3, agreement=0.75, kappa=0.5, differing=()
)


def rendered(table):
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        console.print(table)
    return [" ".join(line.replace("│", " ").replace("┃", " ").split()) for line in capture.get().splitlines()]


def cell(outcomes):
    place = Place("attack", "direct", "direct", None, None, None)
    return cell_of(rate(outcomes), place=place, method="derta", seed=0, judge="refusal", measure="refused")


def test_a_cell_has_its_rate_interval_and_counts():
    # 2 of 40: Wilson 0.0138 to 0.1650
    line = format_cell(cell([True] * 2 + [False] * 38 + [None]))
    assert line == "refused: 5.0% of 40 (95 % interval 1.4% to 16.5%), 1 unscored"


def test_a_cell_without_scored_replies_has_no_rate():
    assert format_cell(cell([None, None])) == "refused: nothing was scored (2 unscored)"


def test_a_calibration_has_a_row_for_all_replies_and_one_per_group():
    share = Share(value=0.5, low=0.25, high=0.75, scored=8)
    missing = Share(value=None, low=None, high=None, scored=0)
    group = Group(by="attack", name="prefill", accuracy=share, precision=share, recall=missing, kappa=share)
    table = calibration_table(
        Calibration(
            judge="harm", measure="harmful", labels="labels.csv",
            true_positives=2, false_positives=2, false_negatives=2, true_negatives=2, unscored=3,
            accuracy=share, precision=share, recall=share, specificity=share, kappa=share, groups=(group,),
        )
    )  # fmt: skip
    lines = rendered(table)
    interval = "0.50 0.25–0.75"
    assert "harm (harmful) against the labels of labels.csv" in lines
    assert f"all 8 {interval} {interval} {interval} {interval}" in lines
    assert f"attack: prefill 8 {interval} {interval} – {interval}" in lines
    assert f"specificity {interval}; 3 unscored" in lines


def test_an_agreement_is_a_two_by_two_table_with_kappa():
    lines = rendered(agreement_table(AGREEMENT, first="refusal", second="harm"))
    assert "harm: yes harm: no" in lines
    assert "refusal: yes 5 2" in lines
    assert "refusal: no 1 4" in lines
    assert any(line.startswith("agreement 0.750, kappa 0.50, 3 unscored") for line in lines)


def test_a_replay_is_in_percent_and_its_curves_are_in_a_table_of_their_own():
    rates = ReplayRow(
        file="a.jsonl", measure="refused", judge="refusal", ours=10.0, paper=None, low=5.0, high=20.0, scored=40
    )
    curve = PositionCurve(x=(1, 5), ours=(25.0, 50.0), paper=(30.0, 60.0))
    curves = ReplayRow(file="b.jsonl", measure="refused", judge="refusal", curve=curve)
    assert "a refused 10.0 5.0–20.0 – – –|– 40" in rendered(replay_table([rates, curves]))
    assert not any("b.jsonl" in line or line.startswith("b ") for line in rendered(replay_table([rates, curves])))
    lines = rendered(curve_table([rates, curves]))
    assert "b.jsonl, ours (words) 25.0 50.0" in lines
    assert "b.jsonl, paper (tokens, 70B) 30.0 60.0" in lines


def test_one_judged_cell_is_one_line_and_one_json_object():
    result = JudgeResult([cell([True])], None)
    assert judged_lines(result, first="refusal", second=None) == [format_cell(cell([True]))]
    assert judged_json(result)["value"] == 1.0


def test_the_rate_of_malformed_refusals_is_a_line_and_a_key_of_its_own():
    result = JudgeResult([cell([True, False])], None, cell([False, False]))
    assert judged_lines(result, first="refusal", second=None) == [
        *map(format_cell, (result.cells[0], result.malformed))
    ]
    output = judged_json(result)
    assert (output["value"], output["malformed"]["value"]) == (0.5, 0.0)


def test_two_judges_also_have_their_agreement_and_the_replies_they_disagree_on():
    prompt = Prompt(id="p", request_id="r", attack="direct", messages=(Message(role="user", content="Why?"),))
    first, second = (Verdict(prompt_id="p", judge=name, refused=name == "a") for name in "ab")
    case = Disagreement(prompt, Reply(prompt_id="p", text="No."), first, second)
    result = JudgeResult([cell([True]), cell([False])], JudgeAgreement(AGREEMENT, [case]))
    *rates, table, line = judged_lines(result, first="a", second="b")
    assert rates == [format_cell(cell([True])), format_cell(cell([False]))]
    assert "b: yes b: no" in rendered(table)
    assert '"text": "No."' in line
    output = judged_json(result)
    assert [row["value"] for row in output["cells"]] == [1.0, 0.0]
    assert output["agreement"]["kappa"] == 0.5
    assert [row["second"]["refused"] for row in output["differing"]] == [False]


def test_a_comparison_has_both_rates_and_the_corrected_p():
    line = format_comparison(
        Comparison(
            first="a", second="b", suite="attack", name="direct", judge="refusal", measure="refused",
            attack="direct", first_value=0.5, second_value=0.1, only_first=8, only_second=0, pairs=20,
            p_value=0.0078125, p_holm=0.015625,
        )
    )  # fmt: skip
    assert line == (
        "direct (refused): 50.0% against 10.0% of 20 pairs; only the first 8, only the second 0; p = 0.0078, "
        "corrected 0.016"
    )


@pytest.mark.parametrize(("seconds", "expected"), [(59.4, "0 min 59 s"), (61.0, "1 min 1 s"), (6000.0, "100 min 0 s")])
def test_an_estimate_has_counts_time_and_memory(seconds, expected):
    estimate = MethodEstimate(
        method="derta", unit="rows", rows=6600, tokens=1234567, labels=1000, steps=51, padding=0.125, seconds=seconds,
        peak_gib=8.5,
    )  # fmt: skip
    line = format_estimate(estimate)
    assert line.startswith("derta: 6,600 rows, 1,234,567 tokens (1,000 labelled), 51 steps, 12.5% padding; ")
    assert expected in line
    assert "8.5 GiB" in line


def test_a_search_has_its_cost_and_its_success_by_queries():
    budgets = [{"queries": 1, "found": 0, "requests": 4}, {"queries": 10, "found": 3, "requests": 4}]
    summary = SearchSummary.model_validate({"prompts": 4, "cost": {"target_queries": 40}, "success_by_budget": budgets})
    cost, success = format_search(summary).splitlines()
    assert "40" in cost
    assert success.endswith(": 1: 0/4, 10: 3/4")
    assert format_search(SearchSummary(prompts=4, cost=Cost(), success_by_budget=())).endswith(": not judged")
