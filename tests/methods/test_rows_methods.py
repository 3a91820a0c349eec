from collections import Counter

import pytest

from derta.methods import METHODS
from derta.methods.rows_methods import BASE, ROW_METHODS

SAFE, RTO = {"helpful": 3, "safe": 2}, {"helpful": 3, "safe": 2, "rto": 2}


@pytest.mark.parametrize(
    ("name", "terms", "harmful_prefix"),
    [
        ("vanilla", SAFE, False),
        ("vanilla_half", SAFE, False),
        ("harmful_prefix", SAFE, True),
        ("rto", RTO, False),
        ("derta", RTO, True),
    ],
)
def test_each_method_has_the_terms_of_the_paper(name, terms, harmful_prefix, small_data):
    rows = small_data(name, num_triples=2, num_examples=3)
    assert Counter(row.term for row in rows) == terms
    assert {row.harmful_prefix for row in rows if row.term == "safe"} == {harmful_prefix}
    assert not any(row.harmful_prefix for row in rows if row.term != "safe")


def test_only_vanilla_gets_two_triples_for_each_of_dertas():
    """DeRTa has two rows a triple, so vanilla needs twice the triples for as many rows; vanilla_half has half."""
    assert {method.name: method.triples_per_unit for method in ROW_METHODS} == {
        "vanilla": 2,
        "vanilla_half": 1,
        "harmful_prefix": 1,
        "rto": 1,
        "derta": 1,
    }


def test_the_base_model_is_the_only_method_without_training():
    assert [method.name for method in METHODS.values() if not method.trains] == ["base"]
    assert METHODS["base"] is BASE
    assert list(METHODS) == ["base", *(method.name for method in ROW_METHODS), "dpo"]
