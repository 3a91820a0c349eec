import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from derta.records import Prompt
from derta.results import Cell, Comparison, Place, Summary, cell_of, place_of
from derta.stats import Rate, rate


def prompt(**fields) -> Prompt:
    return Prompt(**({"id": "p", "request_id": "r", "attack": "prefill", "mode": "raw", "text": "?"} | fields))


def cell(rate: Rate, place: Place) -> Cell:
    return cell_of(rate, place=place, method="derta", seed=3, judge="harm", measure="harmful")


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({}, Place("attack", "prefill", attack="prefill")),
        ({"variant": "50%"}, Place("attack", "prefill@50%", attack="prefill", variant="50%")),
        ({"dataset": "mine"}, Place("attack", "prefill (mine)", attack="prefill", dataset="mine")),
        ({"suite": "over_refusal", "dataset": "xstest"}, Place("over_refusal", "xstest", dataset="xstest")),
        ({"suite": "helpfulness"}, Place("helpfulness", "prefill", attack="prefill")),
    ],
)
def test_a_prompt_counts_under_its_attack_or_outside_the_attack_suite_under_its_dataset(fields, place):
    assert place_of(prompt(**fields)) == place
    assert place.name == prompt(**fields).cell


def test_a_category_is_part_of_the_key_only_on_request():
    categorized = prompt(category="household")
    assert place_of(categorized).category is None
    assert place_of(categorized, by_category=True) == place_of(categorized)._replace(category="household")


@given(st.lists(st.sampled_from([True, False, None]), max_size=8))
def test_a_cell_has_every_number_of_its_rate_and_every_part_of_its_key(outcomes):
    place = Place("attack", "prefill@50%", attack="prefill", variant="50%", category="household")
    built = cell(rate(outcomes), place)
    assert Rate(built.value, built.low, built.high, built.scored, built.unscored) == rate(outcomes)
    assert Place(built.suite, built.name, built.attack, built.variant, built.dataset, built.category) == place
    assert (built.method, built.seed, built.judge, built.measure) == ("derta", 3, "harm", "harmful")


def test_a_summary_is_the_same_after_json():
    cells = (cell(rate([True, None]), place_of(prompt())), cell(rate([None]), place_of(prompt(variant="50%"))))
    summary = Summary(title="a run", recipe="a run", versions={"python": "3"}, cells=cells, notes=("One row less.",))
    assert Summary.model_validate_json(summary.model_dump_json()) == summary


def test_a_summary_of_another_format_is_refused():
    with pytest.raises(ValidationError):
        Summary.model_validate({"title": "t", "recipe": "t", "versions": {}, "cells": [], "figures": []})


def test_a_cell_has_the_bounds_and_the_missing_cases_of_its_rate():
    found = cell(rate([True, False, None, "unanswered"]), Place("attack", "prefill"))
    assert (found.value, found.bounds, found.unscored, found.unanswered) == (0.5, (0.25, 0.75), 1, 1)
    assert cell(rate([True, False]), Place("attack", "prefill")).bounds is None


def test_a_comparison_without_a_question_compares_methods_with_the_first():
    assert Comparison.model_fields["question"].default == "methods with the first"
