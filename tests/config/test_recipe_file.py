import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.config import load_recipe, merge, parse_yaml, read_values
from derta.errors import RecipeError

BASE = """
title: base
model: {path: m}
data: {triples: [{path: $SOMEWHERE/t.jsonl}], helpful: [{path: h.jsonl}]}
train: {num_train_epochs: 1, lora: {r: 8, lora_alpha: 4}}
seeds: [0, 1]
"""
TREES = st.recursive(
    st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(st.sampled_from("abc"), TREES, max_size=3)


@pytest.fixture
def write(tmp_path):
    def to(name, text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return to


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3", "{a: {c: 1, c: 2}}", "- {1: x, 1: y}"])
def test_a_key_that_is_there_twice_is_an_error_with_its_lines(text):
    with pytest.raises(ValueError, match=r"the key `\w` is there twice \(lines 1 and \d\); merge both, or remove one"):
        parse_yaml(text)


def test_keys_of_different_types_and_merged_mappings_are_no_duplicates():
    assert parse_yaml("{1: a, '1': b}") == {1: "a", "1": "b"}
    assert parse_yaml("{a: &a {x: 1}, b: {<<: *a, x: 2}}") == {"a": {"x": 1}, "b": {"x": 2}}


def test_a_recipe_overrides_the_one_it_includes(write):
    write("base.yaml", BASE)
    write("more/lora.yaml", "include: ../base.yaml\ntrain: {lora: {r: 16}}\n")
    recipe = load_recipe(
        write("mine.yaml", "include: more/lora.yaml\ntitle: mine\nseeds: [7]\n"),
        overrides={"train.num_train_epochs": 3},
    )
    assert (recipe.title, recipe.seeds, recipe.train.settings["num_train_epochs"]) == ("mine", (7,), 3)
    assert recipe.train.lora is not None
    assert (recipe.train.lora.r, recipe.train.lora.lora_alpha) == (16, 4)
    assert recipe.data.triples[0].path == "$SOMEWHERE/t.jsonl"


@pytest.mark.parametrize("text", ["include: mine.yaml\n", "include: ./mine.yaml\ntitle: x\n", "include: [a, b]\n"])
def test_an_include_that_cannot_be_is_reported(write, text):
    path = write("mine.yaml", text)
    with pytest.raises(RecipeError, match=r"mine.yaml: `include`: expected the name of another recipe file"):
        read_values(path)


def test_the_path_of_an_include_is_expanded_and_its_error_has_the_text_of_the_recipe(write, tmp_path, monkeypatch):
    monkeypatch.setenv("DERTA_RECIPES", str(tmp_path / "more"))
    monkeypatch.setenv("OTHERS", str(tmp_path / "more"))
    write("more/base.yaml", BASE)
    assert read_values(write("mine.yaml", "include: $DERTA_RECIPES/base.yaml\n"))["title"] == "base"
    assert read_values(write("mine.yaml", "include: ${OTHERS}/base.yaml\n"), env=["OTHERS"])["title"] == "base"
    with pytest.raises(RecipeError, match=r"`include`: expected only variables DERTA_\*.* pass --env OTHERS"):
        read_values(tmp_path / "mine.yaml")
    with pytest.raises(RecipeError, match=r"\$DERTA_RECIPES/gone.yaml: cannot read the recipe") as caught:
        read_values(write("mine.yaml", "include: $DERTA_RECIPES/gone.yaml\n"))
    assert "more" not in str(caught.value)


def test_a_missing_include_is_reported_by_its_own_name(write):
    with pytest.raises(RecipeError, match=r"gone.yaml: cannot read the recipe"):
        read_values(write("mine.yaml", "include: gone.yaml\n"))


@given(beneath=MAPPINGS, above=MAPPINGS)
def test_what_is_laid_above_wins_and_the_rest_stays(beneath, above):
    both = merge(beneath, above)
    assert both.keys() == beneath.keys() | above.keys()
    assert merge(both, above) == both
    assert merge({}, above) == above
    assert merge(beneath, {}) == beneath
    for key in beneath.keys() - above.keys():
        assert both[key] == beneath[key]
