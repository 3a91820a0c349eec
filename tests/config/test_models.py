import pytest

from derta.config import Recipe, parse_recipe
from derta.config.models import METHODS_SCHEMA, OtherModel
from derta.errors import RecipeError

VALUES = {"title": "mine", "model": {"path": "org/name"}, "data": {"triples": [], "helpful": []}}
RIVAL = {"name": "rival", "path": "org/rival", "adapter": "org/adapter", "template": "paper"}


def recipe_with(**changes):
    return parse_recipe({**VALUES, **changes}, where="recipe")


def test_a_model_among_the_methods_is_a_name_there_and_a_section_of_its_own():
    recipe = recipe_with(methods=["base", RIVAL])
    assert recipe.methods == ("base", "rival")
    assert recipe.models["rival"] == OtherModel(path="org/rival", adapter="org/adapter", template="paper")
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_a_recipe_asks_another_model_with_its_own_refusal_words():
    recipe = recipe_with(methods=["base", RIVAL], model={"path": "org/name", "refusal_words": ["No"]})
    asked = recipe.asking("rival").model
    assert (asked.path, asked.template, asked.refusal_words) == ("org/rival", "paper", ("No",))
    assert recipe.asking("base") is recipe


@pytest.mark.parametrize(
    ("methods", "part"),
    [
        ([{"path": "org/rival"}], "methods: expected a name for each model"),
        ([RIVAL, RIVAL], "methods: expected a different name for each model, got 'rival' twice"),
        ([{"name": "rival"}], "`models.rival.path`: expected a value"),
        ([{**RIVAL, "adaptor": "a"}], "unknown key `models.rival.adaptor`; did you mean 'adapter'?"),
        ([{**RIVAL, "refusal_words": ["No"]}], "methods: expected no refusal_words"),
    ],
)
def test_a_wrong_model_is_one_line_that_names_it(methods, part):
    with pytest.raises(RecipeError) as error:
        recipe_with(methods=methods)
    assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_a_revision_becomes_part_of_the_path_also_behind_a_variable():
    recipe = recipe_with(model={"path": "$DERTA_MODEL", "revision": "v2"}, methods=[{**RIVAL, "revision": "main"}])
    assert recipe.model.path == "$DERTA_MODEL@v2"
    assert recipe.models["rival"].path == "org/rival@main"
    with pytest.raises(RecipeError, match=r"model\.path: expected one revision, got 'org/name@v1' and 'v2'"):
        recipe_with(model={"path": "org/name@v1", "revision": "v2"})


def test_the_schema_of_methods_has_every_key_of_a_model():
    name, model = METHODS_SCHEMA["items"]["anyOf"]
    assert name == {"type": "string"}
    assert model["properties"].keys() == {"name", *OtherModel.model_fields}
    assert Recipe.model_json_schema()["properties"]["methods"]["items"]["anyOf"] == [name, model]
