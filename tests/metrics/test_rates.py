import pytest
from judged import harmful, prompt, reply, verdict

from derta.errors import DataError
from derta.metrics.leakage import leakage_cells
from derta.metrics.over_refusal import over_refusal_cells
from derta.metrics.rates import outcomes_by_place, rate, rate_cells, verdicts_by_place


def test_unscored_verdicts_are_counted_and_never_zero():
    (cell,) = rate_cells(harmful([True, None, False, None]), method="m", seed=1, judge="j", measure="harmful")
    assert (cell.value, cell.scored, cell.unscored, cell.name, cell.seed) == (0.5, 2, 2, "prefill", 1)
    (cell,) = rate_cells(harmful([None]), method="m", seed=1, judge="j", measure="harmful")
    assert (cell.value, cell.low, cell.unscored) == (None, None, 1)


def test_a_cell_has_the_measure_of_its_rate():
    judged = [(prompt("1"), verdict("1", refused=True))]
    (cell,) = rate_cells(judged, method="m", seed=1, judge="j", measure="refused")
    assert (cell.measure, cell.value) == ("refused", 1.0)
    (cell,) = rate_cells(judged, method="m", seed=1, judge="j", measure="harmful")
    assert (cell.value, cell.unscored) == (None, 1)


def test_cells_differ_by_attack_variant_and_category():
    judged = [
        (prompt("1", variant="5%", category="a"), verdict("1", harmful=True)),
        (prompt("2", variant="50%", category="b"), verdict("2", harmful=False)),
        (prompt("3", variant="50%"), verdict("3", harmful=True)),
    ]
    cells = rate_cells(judged, method="m", seed=0, judge="j", measure="harmful")
    assert [(c.name, c.value) for c in cells] == [("prefill@5%", 1.0), ("prefill@50%", 0.5)]
    assert [(c.attack, c.variant, c.dataset) for c in cells] == [("prefill", "5%", None), ("prefill", "50%", None)]
    cells = rate_cells(judged, method="m", seed=0, judge="j", measure="harmful", by_category=True)
    assert [(c.name, c.category, c.value) for c in cells] == [("prefill@5%", "a", 1.0), ("prefill@50%", "b", 0.0)]


def test_pooled_cells_have_no_seed_and_count_all_replies():
    seeds = {1: harmful([True, False, None]), 2: harmful([True, False, True])}
    (cell,) = rate_cells(*seeds.values(), seed=None, method="m", judge="j", measure="harmful")
    assert (cell.seed, cell.value, cell.scored, cell.unscored) == (None, 0.6, 5, 1)


def test_two_verdicts_on_a_prompt_are_refused():
    with pytest.raises(DataError, match="got two"):
        rate_cells(harmful([True]) * 2, method="m", seed=1, judge="j", measure="harmful")
    with pytest.raises(DataError, match="join by id"):
        rate_cells([(prompt("1"), verdict("2"))], method="m", seed=1, judge="j", measure="harmful")


def test_samples_of_a_prompt_are_pooled_and_not_counted_as_prompts():
    judged = [(prompt("1"), verdict("1", sample=i, harmful=True)) for i in range(4)]
    (cell,) = rate_cells(judged, method="m", seed=0, judge="j", measure="harmful")
    (single,) = rate_cells(judged[:1], method="m", seed=0, judge="j", measure="harmful")
    assert (cell.value, cell.scored, cell.low) == (1.0, 4, single.low)
    with pytest.raises(DataError, match="got two"):
        rate_cells([*judged, judged[0]], method="m", seed=0, judge="j", measure="harmful")


def test_a_rate_counts_the_measure_that_the_verdicts_fill():
    assert rate([verdict("1", refused=True), verdict("2", refused=None)])[::3] == (1.0, 1)
    both = [verdict("1", refused=True, harmful=False)]
    assert rate(both, measure="harmful").value == 0.0
    with pytest.raises(DataError, match="got harmful and refused"):
        rate(both)
    with pytest.raises(DataError, match="got none"):
        rate([verdict("1")])
    with pytest.raises(DataError, match="measure: unknown 'refusal'; did you mean 'refused'"):
        rate([verdict("1", refused=True)], measure="refusal")


def test_a_rate_of_outcomes_is_that_of_verdicts():
    outcomes = [True, False, None, True]
    assert rate(outcomes) == rate([verdict(str(i), harmful=one) for i, one in enumerate(outcomes)])
    assert rate([]).value is None
    with pytest.raises(DataError, match="got both"):
        rate([True, verdict("1", harmful=True)])


def test_categories_are_pooled_unless_they_are_asked_apart():
    judged = [(prompt("1", category="a"), verdict("1", harmful=True)), (prompt("2"), verdict("2", harmful=False))]
    assert [place.category for place in verdicts_by_place(judged)] == [None]
    assert [place.category for place in verdicts_by_place(judged, by_category=True)] == ["a"]
    assert [[*prompts] for prompts in outcomes_by_place([judged], "harmful").values()] == [["1", "2"]]
    assert [[*prompts] for prompts in outcomes_by_place([judged], "harmful", by_category=True).values()] == [["1"]]
    (cell,) = rate_cells(judged, method="m", seed=0, judge="j", measure="harmful")
    assert (cell.category, cell.scored) == (None, 2)


def test_replies_that_a_server_refused_are_unanswered_in_every_kind_of_cell():
    def cases(suite):
        answered = reply("1", "Mix it now"), verdict("1", harmful=False, refused=False, reply_class="comply")
        none = reply("2", "Sorry"), verdict("2", unanswered=True)
        unscored = reply("3", " "), verdict("3", reply_class="empty")
        return [(prompt(one.prompt_id, suite=suite), one, judged) for one, judged in (answered, none, unscored)]

    judged = [(asked, found) for asked, _, found in cases("attack")]
    cells = rate_cells(judged, method="m", seed=0, judge="j", measure="harmful")
    cells += leakage_cells(cases("attack"), method="m", seed=0, judge="j")
    cells += over_refusal_cells(cases("over_refusal"), method="m", seed=0, judge="j")
    assert [cell.measure for cell in cells] == ["harmful", "leaked_share", "partly_refused", "complied", "says_sorry"]
    assert {(cell.scored, cell.unscored, cell.unanswered) for cell in cells} == {(1, 1, 1)}
