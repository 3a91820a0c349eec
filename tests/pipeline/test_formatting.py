import pytest

from derta.metrics.comparisons import Agreement
from derta.metrics.tables import agreement_table, format_cell
from derta.pipeline.calibrating import Disagreement, JudgeAgreement, JudgeResult
from derta.pipeline.estimate import MethodEstimate
from derta.pipeline.file_rates import FileRates, GroupRates
from derta.pipeline.formatting import format_estimate, format_search, judged_json, judged_lines
from derta.pipeline.search import SearchSummary
from derta.records import Cost, Message, Prompt, Reply, Verdict
from derta.results import Place, cell_of
from derta.stats import rate

AGREEMENT = Agreement(
    both=5, only_first=2, only_second=1, neither=4, unscored=3, agreement=0.75, kappa=0.5, differing=()
)


def cell(outcomes):
    place = Place("attack", "direct", "direct", None, None, None)
    return cell_of(rate(outcomes), place=place, method="derta", seed=0, judge="refusal", measure="refused")


def test_one_judged_cell_is_one_line_and_one_json_object():
    result = JudgeResult(FileRates(GroupRates(cell([True])), []))
    assert judged_lines(result, first="refusal", second=None) == [format_cell(cell([True]))]
    assert judged_json(result)["value"] == 1.0


def test_the_rate_of_malformed_refusals_is_a_line_and_a_key_of_its_own():
    malformed = cell([False, False]).model_copy(update={"measure": "malformed"})
    rates = GroupRates(cell([True, False]), malformed)
    result = JudgeResult(FileRates(rates, []))
    assert judged_lines(result, first="refusal", second=None) == [*map(format_cell, rates.cells)]
    output = judged_json(result)
    assert (output["value"], output["malformed"]["value"]) == (0.5, 0.0)


def test_two_judges_also_have_their_agreement_and_the_replies_they_disagree_on():
    prompt = Prompt(id="p", request_id="r", attack="direct", messages=(Message(role="user", content="Why?"),))
    first, second = (Verdict(prompt_id="p", judge=name, refused=name == "a") for name in "ab")
    case = Disagreement(prompt, Reply(prompt_id="p", text="No."), first, second)
    rates = FileRates(GroupRates(cell([True])), [])
    result = JudgeResult(rates, [cell([False])], JudgeAgreement(AGREEMENT, [case]))
    *rates, table, line = judged_lines(result, first="a", second="b")
    assert rates == [format_cell(cell([True])), format_cell(cell([False]))]
    assert table == agreement_table(AGREEMENT, first="a", second="b")
    assert '"text": "No."' in line
    output = judged_json(result)
    assert [row["value"] for row in output["cells"]] == [1.0, 0.0]
    assert output["agreement"]["kappa"] == 0.5
    assert [row["second"]["refused"] for row in output["differing"]] == [False]


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
