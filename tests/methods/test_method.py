from dataclasses import FrozenInstanceError, replace
from functools import partial

import pytest

from derta.errors import RunError
from derta.methods import METHODS, Method


def dataset(data, **_):
    return data


def other_dataset(data, **_):
    return list(data)


def loss(model, batch):
    return model(batch)


MINE = Method(name="mine", dataset=dataset)


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": other_dataset},
        {"dataset": partial(dataset, rto=True)},
        {"loss": loss},
        {"config": loss},
        {"trainer": loss},
        {"init_from": "vanilla"},
        {"triples_per_unit": 2},
        {"defaults": {"counter_per_triple": 2}},
        {"version": "1"},
    ],
)
def test_a_method_with_other_functions_or_settings_has_another_identity(changes):
    assert replace(MINE, **changes).identity != MINE.identity
    assert replace(MINE, unit="pairs").identity == MINE.identity  # a word for messages


def test_arguments_bound_to_a_function_are_part_of_the_identity():
    first, same, other = (
        replace(MINE, dataset=partial(dataset, rto=rto, harmful_prefix=True)) for rto in (True, True, False)
    )
    assert first.identity == same.identity != other.identity


def test_a_version_replaces_the_source_of_the_functions():
    first, other = replace(MINE, version="2"), replace(MINE, version="2", dataset=other_dataset)
    assert first.identity == other.identity == "mine 2"


def test_a_function_without_source_needs_a_version():
    with pytest.raises(RunError, match="give it a `version=`"):
        _ = replace(MINE, loss=max).identity
    assert replace(MINE, loss=max, version="1").identity == "mine 1"


def test_a_method_is_changed_by_a_copy_only():
    with pytest.raises(FrozenInstanceError):
        METHODS["derta"].name = "mine"
