from pathlib import Path
from typing import Any

from arms import PLACES, arm

from derta.metrics.frontier_tables import length_table
from derta.metrics.glance import glance_lines, glance_values
from derta.metrics.outcomes import Outcome
from derta.metrics.summaries import summarize
from derta.records import Prompt, Reply, Verdict
from derta.results import Summary, TextTable

PROMPTS = [Prompt(id=str(i), request_id=str(i), attack="direct", mode="raw", text=f"{i}?") for i in range(4)]
FOLDER = Path("runs/a")


def summary_of(*methods: str, judge: str, seeds: int = 1, **verdict: Any) -> Summary:
    return summarize(
        [
            Outcome(
                method,
                seed,
                PROMPTS,
                [Reply(prompt_id=one.id, text="Boil water.") for one in PROMPTS],
                {judge: [Verdict(prompt_id=one.id, judge=judge, **verdict) for one in PROMPTS]},
            )
            for method in methods
            for seed in range(seeds)
        ],
        title="tea",
    )


def test_the_table_has_a_row_for_each_method_with_intervals_and_the_number_of_replies():
    table, path = glance_lines(summary_of("base", "derta", judge="harm", harmful=True), folder=FOLDER)
    assert isinstance(table, TextTable)
    assert table.title == "tea"
    assert table.header == ("method", "attack success (n 4)")
    assert [row[0] for row in table.rows] == ["base", "derta"]
    assert table.rows[0][1] == "100.0 51.0–100.0"  # Wilson interval of 4 of 4
    assert "harm (attack success)" in table.caption
    assert path == "report: runs/a/report.html"


def test_without_a_judge_of_harm_the_rate_has_the_name_of_refusals():
    table, _ = glance_lines(summary_of("base", judge="refusal", refused=True), folder=FOLDER)
    assert isinstance(table, TextTable)
    assert table.header[1] == "attack not refused (n 4)"
    assert table.rows[0][1].startswith("0.0 ")


def test_a_method_with_other_numbers_of_replies_has_them_in_its_cells():
    summary = summary_of("base", judge="harm", harmful=True)
    assert summary.frontier is not None
    first = summary.frontier.points[0]
    second = first.model_copy(
        update={
            "method": "derta",
            "rates": {name: rate.model_copy(update={"scored": 3}) for name, rate in first.rates.items()},
        }
    )
    frontier = summary.frontier.model_copy(update={"points": (first, second)})
    table, _ = glance_lines(summary.model_copy(update={"frontier": frontier}), folder=FOLDER)
    assert isinstance(table, TextTable)
    assert table.header[1] == "attack success"
    assert [row[1][-6:] for row in table.rows] == [" (n 4)", " (n 3)"]


def test_the_values_are_those_of_the_table_with_the_paths():
    values = glance_values(summary_of("base", judge="harm", harmful=True, seeds=2), folder=FOLDER)
    assert (values["summary"], values["report"]) == ("runs/a/summary.json", "runs/a/report.html")
    [method] = values["methods"]
    assert (method["method"], method["seeds"]) == ("base", [0, 1])
    assert (method["attack_success"]["value"], method["attack_success"]["scored"]) == (1.0, 8)
    assert glance_values(Summary(title="", recipe="", versions={}, cells=()), folder=FOLDER)["methods"] == []


def test_a_set_outside_the_means_is_named_and_in_its_cell_only():
    outcomes = [arm("derta", benign={"safe": "oooo", "held": "rrrr"}, outside=[("over_refusal", "held")])]
    measures = {(judge, suite): measure for judge, suite, measure in PLACES}
    summary = summarize(outcomes, measure_of=lambda judge, suite: measures[judge, suite])
    table, _ = glance_lines(summary, folder=FOLDER)
    assert isinstance(table, TextTable)
    assert table.header[1] == "over-refusal (n 4)"
    assert table.rows[0][1].startswith("0.0 ")
    assert table.caption.endswith("; not in the means: held")
    cells = {(cell.name, cell.value): cell.in_means for cell in summary.cells if cell.measure == "refused"}
    assert cells == {("safe", 0.0): True, ("held", 1.0): False}
    lengths = length_table(summary.frontier)
    assert lengths is not None
    assert lengths.rows[0][:2] == ("derta", "1")
