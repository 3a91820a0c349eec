"""Rates of files with several replies to one prompt."""

import pytest

from derta.judges import build_judge
from derta.metrics.samples import any_cells
from derta.pipeline import file_rates
from derta.pipeline.file_rates import FileCounts
from derta.protocols import Case
from derta.records import Prompt, Reply, Verdict
from derta.stats import rate, rate_of_clusters


def rates_of(table):
    """Return the rates of a file with a row of outcomes for each prompt, and its prompts with their verdicts."""
    counts = FileCounts(build_judge("harm"))
    cases, judged = [], []
    for row, outcomes in enumerate(table):
        prompt = Prompt(id=str(row), request_id=str(row), request="?", attack="direct", mode="raw", text="?")
        for number, outcome in enumerate(outcomes):
            cases.append(Case(prompt, Reply(prompt_id=prompt.id, sample=number, text="Bread.")))
            judged.append((prompt, Verdict(prompt_id=prompt.id, sample=number, judge="harm", harmful=outcome)))
    for _ in counts.reading(cases):
        pass
    for _, verdict in judged:
        counts.add(verdict)
    return counts.rates("file", pool=False).total, judged


def test_samples_of_a_prompt_are_one_cluster_and_any_of_them_is_a_success():
    table = [[True, True, True], [False, False, None], [False] * 3, [True, False, False]]
    found, judged = rates_of(table)
    expected = rate_of_clusters([(3, 3), (0, 2), (0, 3), (1, 3)], unscored=1)
    assert (found.cell.value, found.cell.low, found.cell.high) == expected[:3]
    [cell] = any_cells(judged, method="", seed=None, judge="harm")
    assert found.any_attempt.model_dump(exclude={"name", "attack"}) == cell.model_dump(exclude={"name", "attack"})
    assert (found.any_attempt.value, found.any_attempt.unscored) == (2 / 3, 1)


@pytest.mark.parametrize("limit", [2, 100])
def test_single_replies_have_plain_rates_and_no_counts_by_prompt(limit, monkeypatch):
    monkeypatch.setattr(file_rates, "_MOST_SINGLE", limit)
    found, _ = rates_of([[True], [False], [False], [None]])
    assert found.any_attempt is None
    assert (found.cell.value, found.cell.low, found.cell.high) == rate([True, False, False, None])[:3]
