from typing import get_args

import pytest

from derta.reporting.tables import rate_tables
from derta.reporting.wordings import WORDINGS, wording
from derta.results import CellSuite


@pytest.mark.parametrize("suite", ["attack", "over_refusal", "helpfulness", "analysis"])
def test_refusals_are_never_called_attack_success(suite):
    assert "attack success" not in wording(suite, "refused").title.lower()
    assert "attack success" in wording("attack", "harmful").title.lower()


def test_harmless_tasks_are_better_done_than_not():
    assert wording("over_refusal", "correct").better == wording("helpfulness", "correct").better == "higher"


def test_measures_of_one_suite_have_different_titles(make_cell):
    measures = ("refused", "partly_refused", "says_sorry")
    tables = rate_tables([make_cell([True], suite="over_refusal", measure=measure) for measure in measures])
    assert [table.wording.title for table in tables] == ["Over-refusal", "Partial over-refusal", "Any “sorry”"]


def test_every_wording_has_a_known_suite_and_direction():
    assert {suite for suite, _ in WORDINGS} <= set(get_args(CellSuite))
    assert {entry.better for entry in WORDINGS.values()} <= {"lower", "higher", None}
    assert len({entry.title for entry in WORDINGS.values()}) == len(WORDINGS)


def test_an_unknown_measure_is_titled_by_its_name_and_has_no_better_direction():
    unknown = wording("analysis", "word_count")
    assert (unknown.title, unknown.better) == ("Word count", None)
    assert "word_count" in unknown.counts
