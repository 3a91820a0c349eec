import json

import pytest

from derta.attacks import ATTACKS
from derta.data.helpful_formats import HELPFUL_FORMATS
from derta.data.pair_formats import PAIR_FORMATS
from derta.data.public_sets import PUBLIC_SETS
from derta.data.request_formats import REQUEST_FORMATS
from derta.data.triple_formats import TRIPLE_FORMATS
from derta.errors import RecipeError
from derta.formats import FORMATS
from derta.judges import JUDGES
from derta.methods import METHODS
from derta.pipeline.listing import LISTS, list_names
from derta.sources.shipped import SHIPPED, shipped_sets

FORMATS_READ = {**TRIPLE_FORMATS, **HELPFUL_FORMATS, **PAIR_FORMATS, **REQUEST_FORMATS}


@pytest.mark.parametrize(
    ("kind", "names"),
    [("attacks", ATTACKS), ("judges", JUDGES), ("methods", METHODS), ("formats", FORMATS | FORMATS_READ)],
)
def test_every_name_is_listed_with_a_sentence(kind, names):
    listed = list_names(kind)
    assert {one.name for one in listed} == {*names}
    assert [one.name for one in listed if not one.description.endswith((".", ")"))] == []


def test_the_data_sets_of_the_package_are_listed_with_their_licence():
    listed = {one.name: one.options for one in list_names("datasets")}
    assert {*SHIPPED} == {*shipped_sets()}
    assert all(listed[f"derta:{name}"]["licence"] == "Apache-2.0" for name in SHIPPED)
    assert all(one.format in FORMATS_READ for one in PUBLIC_SETS)


def test_options_have_their_defaults_and_required_ones_say_so():
    options = {one.name: one.options for one in list_names("attacks")}
    assert options["jailbreak_chat"]["templates"] == "(required)"
    assert options["refusal_ban"]["spans"].startswith("[")


def test_judges_say_what_they_measure_and_which_need_a_model():
    listed = {one.name: one for one in list_names("judges")}
    assert listed["exact"].options == {"measures": "correct"}
    assert listed["harmbench"].options == {"measures": "harmful", "model": "(required)"}
    assert listed["exact"].description.startswith("A verdict on the exact match")


@pytest.mark.parametrize("kind", [*LISTS])
def test_a_list_is_printed_as_a_table_or_as_json(kind, derta):
    names = [one["name"] for one in json.loads(derta("list", kind, "--json").out)]
    table = derta("list", kind)
    assert (table.code, table.err) == (0, "")
    assert all(name in table.out for name in names)


def test_an_unknown_kind_is_an_error_with_the_kinds(derta):
    with pytest.raises(RecipeError, match=r"expected one of attacks, .*, got 'attack'; did you mean 'attacks'"):
        list_names("attack")
    assert derta("list", "attack").code == 2
