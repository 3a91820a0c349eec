import subprocess
import sys

import pytest
import yaml

from derta.config import Recipe, load_recipe, parse_recipe
from derta.errors import RecipeError

MINIMAL = {
    "title": "t",
    "model": {"path": "m"},
    "data": {"triples": [{"path": "t.jsonl"}], "helpful": [{"path": "h.jsonl"}]},
}


def recipe(**sections):
    return MINIMAL | sections


def with_train(**settings):
    return recipe(train=settings)


@pytest.fixture
def recipe_file(tmp_path):
    def write(values):
        path = tmp_path / "recipe.yaml"
        path.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
        return path

    return write


def test_the_defaults_are_the_papers():
    train = parse_recipe(MINIMAL, where="r").train
    rows = train.rows  # those of Hugging Face's fields: tests/train/test_config.py
    assert (rows.global_batch_size, rows.max_length, rows.sorry_dropout) == (128, 1024, 0.95)
    assert (rows.prefix_share, rows.term_weights, rows.normalization) == (2 / 3, (1,) * 5, "token")
    lora = parse_recipe(with_train(lora={}), where="r").train.lora
    assert lora is not None
    assert (lora.r, lora.lora_alpha, lora.lora_dropout, lora.target_modules) == (96, 16, 0.05, "all-linear")


@pytest.mark.parametrize(
    ("values", "path", "hint"),
    [
        (recipe(titel="x"), "titel", "did you mean 'title'"),
        (with_train(learning_rat=1), "train.learning_rat", "did you mean 'learning_rate'"),
        (with_train(lora={"rank": 8}), "train.lora.rank", "known: r, lora_alpha, lora_dropout"),
        (with_train(lora={"lora_alpa": 8}), "train.lora.lora_alpa", "did you mean 'lora_alpha'"),
        (recipe(model={"path": "m", "templat": "x"}), "model.templat", "did you mean 'template'"),
        (
            recipe(data=MINIMAL["data"] | {"triples": [{"path": "t", "pth": "x"}]}),
            "data.triples.0.pth",
            "did you mean 'path'",
        ),
        (
            recipe(evaluate=[{"requests": "held_out"}, {"requests": "held_out", "atack": "x"}]),
            "evaluate.1.atack",
            "did you mean 'attack'",
        ),
        (
            recipe(evaluate=[{"requests": {"path": "x", "limti": 3}}]),
            "evaluate.0.requests.limti",
            "did you mean 'limit'",
        ),
        (recipe(zzz=1), "zzz", "known: title, seeds, model"),
    ],
)
def test_an_unknown_key_is_reported_by_its_path_with_the_nearest_known_one(values, path, hint):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(values, where="my.yaml")
    assert str(caught.value).startswith(f"my.yaml: unknown key `{path}`; {hint}")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (with_train(sorry_dropout=1), r"`train.sorry_dropout`: .*less than 1, got 1"),
        (with_train(max_length=31), r"`train.max_length`: .*greater than or equal to 32, got 31"),
        (
            with_train(helpful_weight=0, safe_weight=0, rto_weight=0),
            r"`train.helpful_weight, .*: expected at least one above 0",
        ),
        (with_train(reference=True, normalization="row"), r"`train.reference`: the released code has its own normaliz"),
        (with_train(reference=True, rto_weight=2), r"`train.reference`: the released code .* no weights"),
        (with_train(reference=True, step_tokens=900), r"`train.reference`: .*no step_tokens"),
        (recipe(train={"hub_token": "x"}), r"`train.hub_token`: cannot be set; a run pushes nothing"),
        (with_train(fsdp="full_shard"), r"`train.fsdp`: cannot be set; shard by `accelerate launch"),
        (with_train(seed=1), r"`train.seed`: cannot be set; list it under `seeds`"),
        (with_train(attn_implementation="sdp"), r"`train.attn_implementation`: .*'sdpa'.*, got 'sdp'"),
        (with_train(lora={"target_modules": 5}), r"`train.lora.target_modules`: .*, got 5"),
        (recipe(train=None), r"`train`: expected a mapping of keys, got nothing; add it, or remove the key"),
        (recipe(seeds="x"), r"`seeds`: expected a list, got 'x'"),
        (
            recipe(evaluate=[{"requests": "held_out", "judges": "refusal"}]),
            r"`evaluate.0.judges`: .*a list of judges, .*'refusal'",
        ),
        (recipe(evaluate=[{"requests": "held_out", "name": "a/../../b"}]), r"`evaluate.0.name`: .*without slashes"),
        (recipe(evaluate=[{"requests": "held_out", "name": "a\nb"}]), r"`evaluate.0.name`: .*without slashes"),
        (recipe(evaluate=[{"requests": 5}]), r"`evaluate.0.requests`: .*, got 5"),
        ({**MINIMAL, 1: 2}, r"`1`: Keys should be strings, got 1"),
        ({"title": "t"}, r"`model`: expected a value, got none"),
        (
            recipe(data=MINIMAL["data"] | {"policy": "guess"}),
            r"`data.policy`: .*'drop', 'prepend', 'keep' or 'rewrite', got 'guess'",
        ),
        (["a"], r"expected a mapping of recipe keys, got a list; see docs/cli.md"),
        (None, r"expected a mapping of recipe keys, got nothing"),
    ],
)
def test_a_value_that_cannot_be_is_reported_with_its_place(values, message):
    with pytest.raises(RecipeError, match=rf"^my.yaml: {message}"):
        parse_recipe(values, where="my.yaml")


def test_the_section_of_dpo_is_found_under_its_new_name():
    with pytest.raises(RecipeError, match=r"unknown key `dpo`; did you mean .method_settings\.dpo."):
        parse_recipe(recipe(dpo={}), where="r")


def test_a_recipe_is_read_without_torch():
    code = "import sys, derta.config; derta.config.TrainSection.model_validate({'learning_rate': 1, 'lora': {}}); "
    code += "sys.exit(int('torch' in sys.modules or 'transformers' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603


def test_a_recipe_file_is_read(recipe_file):
    loaded = load_recipe(recipe_file(with_train(sorry_dropout="9e-1") | {"methods": ["rto"]}))
    assert loaded.train.rows.sorry_dropout == 0.9  # YAML takes 9e-1 for text
    assert loaded.methods == ("rto",)
    assert loaded == Recipe.model_validate(loaded.model_dump())


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("t.jsonl", [{"path": "t.jsonl"}]),
        (["t.jsonl", {"path": "u.csv", "limit": 3}], [{"path": "t.jsonl"}, {"path": "u.csv", "limit": 3}]),
        ({"path": "t.jsonl"}, [{"path": "t.jsonl"}]),
    ],
)
def test_a_source_may_be_written_as_its_path(short, long):
    names = ("triples", "helpful", "counter", "preferences", "exclude")
    written, meant = (
        parse_recipe(
            recipe(data=dict.fromkeys(names, one), fine_tuning_attacks=[{"name": "a", "harmful": one}]), where="r"
        )
        for one in (short, long)
    )
    assert written == meant
    assert written.data.triples[0].path == "t.jsonl"


def test_requests_and_profiles_may_be_written_as_their_path():
    values = recipe(evaluate=[{"requests": "q.csv"}, {"name": "b", "requests": "held_out"}], profile_requests="p.jsonl")
    loaded = parse_recipe(values, where="r")
    assert [getattr(one.requests, "path", one.requests) for one in loaded.evaluate] == ["q.csv", "held_out"]
    assert loaded.profile_requests is not None
    assert loaded.profile_requests.path == "p.jsonl"


def test_lora_may_be_a_switch(recipe_file):
    assert parse_recipe(with_train(lora=True), where="r") == parse_recipe(with_train(lora={}), where="r")
    assert parse_recipe(with_train(lora=False), where="r").train.lora is None
    lora = load_recipe(recipe_file(with_train(lora=True)), overrides={"train.lora.r": 8}).train.lora
    assert lora is not None
    assert lora.r == 8


def test_a_recipe_without_a_title_has_the_name_of_its_file(recipe_file):
    values = {key: value for key, value in MINIMAL.items() if key != "title"}
    assert load_recipe(recipe_file(values)).title == "recipe"
    assert load_recipe(recipe_file(MINIMAL)).title == "t"
    assert parse_recipe(values, where="r").title == "run"


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\tx: 1"])
def test_a_file_that_is_no_yaml_is_reported_in_one_line(recipe_file, text):
    path = recipe_file(text)
    with pytest.raises(RecipeError, match=r"expected YAML: ") as caught:
        load_recipe(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_or_undecodable_file_is_reported(tmp_path):
    with pytest.raises(RecipeError, match=r"none.yaml: cannot read the recipe .*; check the path"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"title: \xff")
    with pytest.raises(RecipeError, match=r"latin.yaml: cannot read the recipe"):
        load_recipe(tmp_path / "latin.yaml")
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        load_recipe(tmp_path)


@pytest.mark.parametrize("text", ["", "- a\n", "just words\n"])
def test_a_file_without_keys_is_reported_with_overrides_or_without(recipe_file, text):
    path = recipe_file(text)
    with pytest.raises(RecipeError, match="expected a mapping of recipe keys"):
        load_recipe(path)
    with pytest.raises(RecipeError, match=r"cannot set `train.num_train_epochs`"):
        load_recipe(path, overrides={"train.num_train_epochs": 1})


def test_a_loaded_recipe_contains_the_text_of_its_file(recipe_file, monkeypatch):
    monkeypatch.setenv("DERTA_SOMEWHERE", "/data")
    loaded = load_recipe(recipe_file(recipe(model={"path": "$DERTA_SOMEWHERE/model"})))
    assert loaded.model.path == "$DERTA_SOMEWHERE/model"


def test_the_allowed_variables_are_part_of_a_recipe_and_not_of_its_values(recipe_file):
    loaded = load_recipe(recipe_file(MINIMAL), env=["MODELS"]).allow_env(["MORE"])
    assert loaded.env == {"MODELS", "MORE"}
    assert "env" not in "".join(loaded.model_dump())
    for env in ("MODELS", ["A=b"], [""]):
        with pytest.raises(RecipeError, match="env: expected names of environment variables, such as"):
            load_recipe(recipe_file(MINIMAL), env=env)


def test_dotted_overrides_replace_and_add_values(recipe_file):
    path = recipe_file(with_train(num_train_epochs=1))
    overrides = {"train.num_train_epochs": 3, "train.lora.r": 8, "generate.max_new_tokens": 5, "title": "other"}
    loaded = load_recipe(path, overrides=overrides)
    assert (loaded.train.settings["num_train_epochs"], loaded.generate.max_new_tokens, loaded.title) == (3, 5, "other")
    assert loaded.train.lora is not None
    assert loaded.train.lora.r == 8


@pytest.mark.parametrize("key", ["title.x", "methods.0.x", "data.triples.path"])
def test_an_override_below_a_plain_value_is_refused(recipe_file, key):
    path = recipe_file(recipe(methods=["rto"]))
    with pytest.raises(RecipeError, match=f"cannot set `{key}`: expected a mapping above"):
        load_recipe(path, overrides={key: 1})


def test_an_unknown_override_is_refused_like_any_key(recipe_file):
    with pytest.raises(RecipeError, match=r"unknown key `train.max_step`; did you mean 'max_steps'"):
        load_recipe(recipe_file(MINIMAL), overrides={"train.max_step": 1})
