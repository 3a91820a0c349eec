import pytest

from derta.cli.verbs.options import engine_config, pairs, read_recipe
from derta.errors import RecipeError


def test_values_are_parsed_as_yaml():
    texts = ["dtype=float32", "threads=2", "structures=[stack, list]", "url=http://a?b=c", "empty="]
    assert pairs(texts, option="--set") == {
        "dtype": "float32",
        "threads": 2,
        "structures": ["stack", "list"],
        "url": "http://a?b=c",
        "empty": None,
    }


def test_a_later_value_of_a_key_wins():
    assert pairs(["a=1", "a=2"], option="--set") == {"a": 2}


@pytest.mark.parametrize(("text", "part"), [("key", "KEY=VALUE"), ("=1", "KEY=VALUE"), ("key=[", "YAML value")])
def test_an_invalid_pair_names_the_option_and_the_text(text, part):
    with pytest.raises(RecipeError, match=part) as caught:
        pairs([text], option="--engine-option")
    assert "--engine-option" in str(caught.value)


def test_an_engine_config_has_the_model_engine_and_settings():
    config = engine_config("org/judge", "vllm", ["dtype=bfloat16"])
    assert config is not None
    assert (config.model, config.engine, config.settings) == ("org/judge", "vllm", {"dtype": "bfloat16"})


def test_without_a_model_there_is_no_engine_config():
    assert engine_config(None, "hf", []) is None


@pytest.mark.parametrize(("engine", "settings"), [("api", []), ("hf", ["dtype=float32"])])
def test_an_engine_or_a_setting_needs_a_model(engine, settings):
    with pytest.raises(RecipeError, match="--judge-option: expected a model for the engine"):
        engine_config(None, engine, settings, option="--judge-option")


def test_a_recipe_is_loaded_with_its_overrides(recipe):
    assert read_recipe(recipe, ["title=other", "data.num_triples=1"], []).title == "other"
    assert read_recipe(recipe, ["data.num_triples=1"], []).data.num_triples == 1
