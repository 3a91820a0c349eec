import pytest

from derta.config import load_recipe, parse_recipe
from derta.config.environment import check_names, expand_section, expand_variables, is_allowed, unexpand
from derta.errors import RecipeError


def test_only_allowed_variables_are_expanded(monkeypatch):
    monkeypatch.setenv("DERTA_DATA", "/data")
    monkeypatch.setenv("MODELS", "/models")
    monkeypatch.setenv("SECRET", "hidden value")
    monkeypatch.delenv("DERTA_UNSET", raising=False)
    expand = {"$DERTA_DATA/a": "/data/a", "${DERTA_DATA}b": "/datab", "$MODELS": "/models", "$ $1 $-": "$ $1 $-"}
    for text, expected in expand.items():
        assert expand_variables(text, key="k", env=["MODELS"]) == expected
    assert expand_variables("$$", key="k", env=["MODELS"]) == "$$"
    for text in ("$SECRET", "a/${SECRET}/b"):
        with pytest.raises(RecipeError, match=r"`k`: expected only variables DERTA_\* .* pass --env SECRET") as caught:
            expand_variables(text, key="k", env=["MODELS"])
        assert "hidden" not in str(caught.value)


def test_a_variable_that_is_not_set_is_an_error_with_its_key_and_what_to_do(monkeypatch, tmp_path):
    for name in ("DERTA_UNSET", "MODELS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        RecipeError, match=r"`data\.helpful`: the environment variable DERTA_UNSET is not set, got"
    ) as one:
        expand_variables("$DERTA_UNSET/x", key="data.helpful", env=[])
    assert str(one.value).endswith("run `export DERTA_UNSET=PATH`, or write the path itself")
    with pytest.raises(RecipeError, match=r"run `export MODELS=PATH` and pass --env MODELS, or"):
        expand_variables("${MODELS}", key="k", env=[])
    literal = tmp_path / "$DERTA_UNSET"
    literal.write_text("")  # a file of that name needs no variable
    assert expand_variables(str(literal), key="k", env=[]) == str(literal)


def test_a_value_is_not_expanded_again(monkeypatch):
    monkeypatch.setenv("DERTA_A", "$SECRET")
    monkeypatch.setenv("SECRET", "hidden")
    assert expand_variables("$DERTA_A", key="k", env=[]) == "$SECRET"


def test_the_home_folder_is_expanded_at_the_start_of_a_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DERTA_A", "~/x")
    paths = {"~/a//b": "/home/me/a//b", "a/~/b": "a/~/b", "~you/a": "~you/a", "$DERTA_A": "~/x", "~": "~"}
    for text, expected in paths.items():
        assert expand_variables(text, key="k", env=[]) == expected


def test_a_prefix_or_a_name_allows_a_variable():
    assert is_allowed("DERTA_X", ())
    assert is_allowed("MODELS", ["MODELS"])
    assert not is_allowed("MY_DERTA_X", ["MODELS"])
    assert check_names(["A", "B_1"]) == {"A", "B_1"}


def test_every_path_of_a_recipe_is_expanded_and_nothing_else():
    engine = {"model": "$P", "engine": "api", "settings": {"tokenizer": "$P", "body": {"x": "$N"}, "api_key_env": "$N"}}
    source = {"path": "$P", "format": "$N", "split": "$N"}
    recipe = parse_recipe(
        {
            "title": "$N",
            "notes": ["$N"],
            "model": {"path": "$P", "template": "$P", "refusal_words": ["$N"]},
            "data": {"triples": [source], "helpful": [source], "preferences": [source], "exclude": [source]},
            "train": {"run_name": "$N"},
            "profile_requests": source,
            "evaluate": [
                {"requests": source, "options": {"file": "$P", "other": "$N"}, "judges": [{"name": "$N", **engine}]},
                {"prompts": "$P", "name": "$N"},
                {"attack": "pair", "requests": "held_out", "search": {"attacker": engine, "judge_model": engine}},
            ],
            "fine_tuning_attacks": [{"name": "a", "helpful": [source]}],
        },
        where="r",
    )
    keys = []
    expanded = expand_section(
        recipe,
        lambda key, text: keys.append(key) or text.replace("$", "/"),
        path_options=lambda section: ["file"] if getattr(section, "options", None) else [],
    )
    text = expanded.model_dump_json()
    assert "$P" not in text
    assert "/N" not in text
    assert text.count("/P") == recipe.model_dump_json().count("$P") == 17
    assert {"model.path", "data.triples.0.path", "evaluate.0.options.file", "evaluate.0.judges.0.model"} <= {*keys}
    assert {"evaluate.1.prompts", "evaluate.2.search.attacker.settings.tokenizer"} <= {*keys}


def test_a_message_contains_the_original_text_of_whole_paths_only():
    texts = {"/data/x": "$DERTA_DATA/x", "/data": "$DERTA_DATA", "m": "$DERTA_M"}
    assert unexpand("/data/x:3: bad; /data/y; /database; my m", texts) == (
        "$DERTA_DATA/x:3: bad; $DERTA_DATA/y; /database; my $DERTA_M"
    )
    assert unexpand("/data/x and /more//x", {"/more//x": "$MORE//x"}) == "/data/x and $MORE//x"
    assert unexpand("/more/x", {"/more//x": "$MORE//x"}) == "$MORE//x"  # as pathlib writes it
    assert unexpand("text", {}) == "text"


def test_a_loaded_recipe_still_has_its_text(recipe, monkeypatch):
    monkeypatch.setenv("DERTA_HERE", str(recipe.parent))
    recipe.write_text(recipe.read_text().replace(str(recipe.parent), "$DERTA_HERE"))
    assert "$DERTA_HERE/triples.jsonl" in load_recipe(recipe).model_dump_json()
