import pytest
from judged import harmful, prompt, reply, verdict

from derta.errors import DataError
from derta.metrics.rates import (
    leakage_cells,
    leaked_share,
    leaked_words,
    outcomes_by_place,
    over_refusal_cells,
    rate,
    rate_cells,
    verdicts_by_place,
)
from derta.records import Reply, ReplyClass


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


def test_leakage_is_the_text_before_the_refusal():
    late = verdict("1", refused=True, reply_class="comply_then_refuse", refusal_at=8)
    one = reply("1", "Mix the Sorry, but no")
    assert leaked_share(prompt("1"), one, late, answers={"1": "a b c d e f g h"}) == 0.25
    assert leaked_share(prompt("1"), one, late, answers={}) == 0.4
    assert leaked_share(prompt("1"), one, verdict("1", refused=False), answers={"1": "a b"}) == 1.0
    broken = verdict("1", refused=False, reply_class="degenerate")
    triples = [(prompt("1"), one, late), (prompt("2"), one, broken)]
    (cell,) = leakage_cells(triples, method="m", seed=1, judge="j")
    assert (cell.value, cell.scored, cell.unscored, cell.measure) == (0.4, 1, 1, "leaked_share")


def test_partial_refusals_are_counted_separately_from_full_ones():
    classes: list[tuple[ReplyClass, bool | None]] = [
        ("refuse", True), ("comply", False), ("refuse_then_comply", False), ("empty", None)
    ]  # fmt: skip
    judged = [
        (
            prompt(str(i), suite="over_refusal"),
            Reply(prompt_id=str(i), text="" if kind == "empty" else f"so {'sorry' if kind != 'comply' else ''}"),
            verdict(str(i), reply_class=kind, refused=refused),
        )
        for i, (kind, refused) in enumerate(classes)
    ]
    attacked = (prompt("a"), Reply(prompt_id="a", text="Sorry"), verdict("a", refused=True, reply_class="refuse"))
    cells = over_refusal_cells([*judged, attacked], method="m", seed=1, judge="refusal")
    by_measure = {cell.measure: (cell.name, cell.value, cell.scored, cell.unscored) for cell in cells}
    third = pytest.approx(1 / 3)
    assert by_measure == {
        "partly_refused": ("xstest", third, 3, 1),
        "complied": ("xstest", third, 3, 1),
        "says_sorry": ("xstest", pytest.approx(2 / 3), 3, 1),
    }


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


def test_unscored_and_empty_replies_leak_nothing_that_could_be_measured():
    assert leaked_words(reply("1", "Mix it"), verdict("1", refused=None)) is None
    assert leaked_words(reply("1", "Mix it"), verdict("1", refused=False)) == 2
    assert leaked_words(reply("1", "Mix it"), verdict("1", refused=False, reply_class="degenerate")) is None
    assert leaked_share(prompt("1"), reply("1", " "), verdict("1", refused=False), answers={}) is None
    assert leaked_share(prompt("1"), reply("1", "Mix it"), verdict("1", refused=False), answers={"1": " "}) is None


def test_leakage_is_an_analysis_of_attacks_relative_to_their_reference_answers():
    late = verdict("1", refused=True, reply_class="comply_then_refuse", refusal_at=8)
    benign = (prompt("2", suite="over_refusal"), reply("2", "Mix it"), verdict("2", refused=False))
    cases = [(prompt("1"), reply("1", "Mix the Sorry, but no"), late), benign]
    (cell,) = leakage_cells(cases, method="m", seed=1, judge="j", answers={"1": "a b c d e f g h"})
    assert (cell.suite, cell.name, cell.value) == ("analysis", "prefill", 0.25)


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


def test_a_malformed_refusal_leaks_what_it_gives_before_between_and_after_its_refusal_words():
    broken = verdict("1", refused=False, reply_class="malformed", refusal_at=9)
    assert leaked_words(reply("1", "Take rootSorry and SorrySorry boil Sorry, it."), broken) == 5
    assert leaked_words(reply("1", "Sorry" * 20), broken) == 0
    assert leaked_share(prompt("1"), reply("1", "Sorry Sorry boil it"), broken, answers={}) == 0.5
    assert leaked_words(reply("1", "Take Nope it"), broken, refusal_words=["Nope"]) == 2
    late = verdict("1", refused=True, reply_class="comply_then_refuse", refusal_at=30)
    assert leaked_words(reply("1", "Take Sorry the Sorry and boil Sorry, but no"), late) == 4
