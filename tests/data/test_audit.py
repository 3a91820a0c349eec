from typing import Any

import pytest

from derta.data.audit import (
    FINDINGS,
    MEASURES,
    AuditedRow,
    NamedTriple,
    ResponseVerdicts,
    audit_rates,
    audit_rows,
    count_classes,
    field_lengths,
    find_rows,
)
from derta.records import Message, Triple, Verdict
from derta.stats import wilson_interval


def verdicts(refused: bool | None = None, harmful: bool | None = None) -> ResponseVerdicts:
    kind = "empty" if refused is None else "refuse" if refused else "comply"
    refusal = Verdict(prompt_id="1", judge="refusal", refused=refused, reply_class=kind)
    return ResponseVerdicts(refusal, Verdict(prompt_id="1", judge="harm", harmful=harmful))


def triple(**changes: Any) -> Triple:
    return Triple(**{"query": "How do I bake bread?", "safe": "Sorry, no bread.", "harmful": "Flour."} | changes)


REFUSES, UNKNOWN = verdicts(True, False), verdicts()


def audited(*triples: Triple, safe: ResponseVerdicts = REFUSES, **settings: Any) -> list[AuditedRow]:
    named = [NamedTriple(one, one.source or "t", number) for number, one in enumerate(triples, start=1)]
    options = {"refusal_words": ["Sorry"], "normalize": True} | settings
    return audit_rows(named, safe=[safe] * len(named), harmful=[verdicts(False, True)] * len(named), **options)


def test_a_row_has_a_name_and_findings_and_no_text() -> None:
    [row] = audited(triple(category="food"))
    assert row.model_dump() == {
        "row": "t:1",
        "id": triple(category="food").id,
        "source": "t",
        "category": "food",
        "safe_class": "refuse",
        "safe_refuses": True,
        "safe_opens_with_word": True,
        "safe_on_topic": True,
        "safe_harmful": False,
        "harmful_refuses": False,
        "harmful_harmful": True,
        "repeats": None,
        "same_responses": False,
    }


def test_a_request_is_repeated_in_any_spelling_and_only_after_the_same_turns() -> None:
    earlier = (Message(role="user", content="Hello"), Message(role="assistant", content="Hi"))
    rows = audited(
        triple(),
        triple(query="how do I ba\u00adke bread", harmful="Yeast."),
        triple(messages=earlier),
        triple(query="HOW DO I BAKE BREAD!", messages=earlier),
    )
    assert [row.repeats for row in rows] == [None, "t:1", None, "t:3"]


def test_the_refusal_word_counts_after_the_apology_is_shortened_if_the_recipe_does_that() -> None:
    triples = triple(safe="I'm sorry, but no."), triple(safe="No."), triple(safe="Sorrygate.")
    assert [row.safe_opens_with_word for row in audited(*triples)] == [True, False, False]
    assert not any(row.safe_opens_with_word for row in audited(*triples, normalize=False))
    rows = audited(*triples, refusal_words=["No", "Apologies"], normalize=False)
    assert [row.safe_opens_with_word for row in rows] == [False, True, False]


def test_each_fault_names_its_rows() -> None:
    faults = {
        "safe_does_not_refuse": {"safe_refuses": False},
        "safe_without_refusal_word": {"safe_opens_with_word": False},
        "safe_off_topic": {"safe_on_topic": False, "safe_refuses": False},
        "safe_is_harmful": {"safe_harmful": True},
        "harmful_is_harmless": {"harmful_harmful": False},
        "harmful_refuses": {"harmful_refuses": True},
        "request_is_repeated": {"repeats": "t:1"},
        "responses_are_the_same": {"same_responses": True},
    }
    assert faults.keys() == FINDINGS.keys()
    [row] = audited(triple())
    rows = [row.model_copy(update={"row": fault, **changes}) for fault, changes in faults.items()]
    found = find_rows([row, *rows])
    assert {name: set(names) for name, names in found.items()} == {
        fault: {fault} | ({"safe_off_topic"} if fault == "safe_does_not_refuse" else set()) for fault in faults
    }


def test_a_refusal_without_details_is_not_off_topic_and_what_no_judge_decided_is_no_fault() -> None:
    assert find_rows(audited(triple(safe="Sorry, no.")))["safe_off_topic"] == ()
    unknown = find_rows(audited(triple(), safe=UNKNOWN))
    assert not unknown["safe_does_not_refuse"]
    assert not unknown["safe_is_harmful"]


def test_rates_have_denominators_intervals_and_unscored_rows_overall_and_by_source_and_category() -> None:
    known = audited(*(triple(source=source, category=kind) for source, kind in (("a", "x"), ("a", "y"), ("b", "y"))))
    rows = [known[0], known[1].model_copy(update={"safe_refuses": False}), known[2]]
    rows[2] = rows[2].model_copy(update={"safe_refuses": None})
    rates = {(rate.by, rate.group, rate.measure): rate for rate in audit_rates(rows)}
    groups = [("all", "all"), ("source", "a"), ("source", "b"), ("category", "y"), ("category", "x")]
    assert list(rates) == [(*group, measure) for group in groups for measure in MEASURES]
    overall = rates["all", "all", "safe_refuses"]
    assert (overall.count, overall.scored, overall.unscored, overall.value) == (1, 2, 1, 0.5)
    assert (overall.low, overall.high) == wilson_interval(1, 2)
    assert overall.bounds == (1 / 3, 2 / 3)
    unknown = rates["source", "b", "safe_refuses"]
    assert (unknown.count, unknown.scored, unknown.unscored, unknown.value) == (0, 0, 1, None)


def test_one_source_without_categories_is_not_repeated_as_a_group() -> None:
    assert {rate.by for rate in audit_rates(audited(triple(), triple()))} == {"all"}


def test_classes_are_counted_and_lengths_are_percentiles() -> None:
    classes = count_classes(verdicts(refused).refusal for refused in (True, False, False, None))
    assert list(classes.items()) == [("comply", 2), ("refuse", 1), ("empty", 1)]
    assert field_lengths("safe", ["abc"]).model_dump() == {
        "field": "safe",
        "shortest": 3,
        "median": 3,
        "percentile_95": 3,
        "longest": 3,
    }


@pytest.mark.parametrize("kind", ["source", "category"])
def test_a_group_of_each_label_has_all_of_its_rows(kind: str) -> None:
    rows = audited(*(triple(**{kind: str(number % 3)}) for number in range(10)))
    sizes = {rate.group: rate.scored for rate in audit_rates(rows) if rate.by == kind}
    assert sizes == {"0": 4, "1": 3, "2": 3}
