import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from derta.config import Recipe, TrainSection, load_recipe, parse_recipe
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
    assert (train.batch_size, train.epochs, train.learning_rate, train.weight_decay) == (128, 2, 2e-5, 2e-5)
    assert (train.schedule, train.warmup, train.max_length, train.sorry_dropout) == ("cosine", 0.03, 1024, 0.95)
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
def test_an_unknown_key_is_told_by_its_path_with_the_nearest_known_one(values, path, hint):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(values, where="my.yaml")
    assert str(caught.value).startswith(f"my.yaml: unknown key `{path}`; {hint}")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (with_train(learning_rate=-1), r"`train.learning_rate`: .*greater than 0, got -1"),
        (with_train(learning_rate="fast"), r"`train.learning_rate`: .*valid number.*, got 'fast'"),
        (with_train(learning_rate=float("nan")), r"`train.learning_rate`"),
        (with_train(sorry_dropout=1), r"`train.sorry_dropout`: .*less than 1, got 1"),
        (with_train(max_length=31), r"`train.max_length`: .*greater than or equal to 32, got 31"),
        (with_train(batch_size=10, micro_batch_size=4), r"`train`: .*multiple of micro_batch_size \(4\)"),
        (with_train(term_weights={"helpful": 0, "safe": 0, "rto": 0}), r"`train.term_weights`: .*weight above 0"),
        (with_train(reference=True, normalization="row"), r"`train`: .*released code, which has its own normaliz"),
        (with_train(reference=True, term_weights={"rto": 2}), r"`train`: .*no term_weights"),
        (with_train(reference=True, step_tokens=900), r"`train`: .*no step_tokens"),
        (with_train(attention="flash_attention_2"), r"`train`: .*computes in 16 bits: set bf16 or fp16"),
        (with_train(schedule="cosin"), r"`train.schedule`: .*'linear', 'cosine', 'constant'.*, got 'cosin'"),
        (with_train(lora={"target_modules": 5}), r"`train.lora.target_modules`: .*, got 5"),
        (recipe(train=None), r"`train`: .*, got None"),
        (recipe(seeds="x"), r"`seeds`: .*tuple, got 'x'"),
        (recipe(evaluate=[{"requests": 5}]), r"`evaluate.0.requests`: .*, got 5"),
        ({**MINIMAL, 1: 2}, r"`1`: Keys should be strings, got 1"),
        ({"title": "t"}, r"`model`: Field required"),
        (
            recipe(data=MINIMAL["data"] | {"policy": "guess"}),
            r"`data.policy`: .*'drop', 'prepend' or 'keep', got 'guess'",
        ),
        (["a"], r"expected a mapping of recipe keys, got list; see `derta run --help`"),
        (None, r"expected a mapping of recipe keys, got NoneType"),
    ],
)
def test_a_value_that_cannot_be_is_told_with_its_place(values, message):
    with pytest.raises(RecipeError, match=rf"^my.yaml: {message}"):
        parse_recipe(values, where="my.yaml")


@given(micro=st.integers(1, 64), times=st.integers(1, 8))
def test_batches_are_made_of_whole_micro_batches(micro, times):
    assert TrainSection(batch_size=micro * times, micro_batch_size=micro).batch_size == micro * times


def test_a_recipe_file_is_read(recipe_file):
    loaded = load_recipe(recipe_file(with_train(learning_rate="1e-4") | {"methods": ["rto"]}))
    assert loaded.train.learning_rate == 1e-4  # YAML takes 1e-4 for text
    assert loaded.methods == ("rto",)
    assert loaded == Recipe.model_validate(loaded.model_dump())


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\tx: 1"])
def test_a_file_that_is_no_yaml_is_told_in_one_line(recipe_file, text):
    path = recipe_file(text)
    with pytest.raises(RecipeError, match=r"expected YAML: ") as caught:
        load_recipe(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_or_undecodable_file_is_told(tmp_path):
    with pytest.raises(RecipeError, match=r"none.yaml: cannot read the recipe .*; check the path"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"title: \xff")
    with pytest.raises(RecipeError, match=r"latin.yaml: cannot read the recipe"):
        load_recipe(tmp_path / "latin.yaml")
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        load_recipe(tmp_path)


@pytest.mark.parametrize("text", ["", "- a\n", "just words\n"])
def test_a_file_without_keys_is_told_with_overrides_or_without(recipe_file, text):
    path = recipe_file(text)
    with pytest.raises(RecipeError, match="expected a mapping of recipe keys"):
        load_recipe(path)
    with pytest.raises(RecipeError, match=r"cannot set `train.epochs`"):
        load_recipe(path, overrides={"train.epochs": 1})


def test_environment_variables_stand_in_every_text_of_a_recipe(recipe_file, monkeypatch):
    monkeypatch.setenv("SOMEWHERE", "/data")
    monkeypatch.delenv("NOWHERE", raising=False)
    values = recipe(
        model={"path": "$SOMEWHERE/model"},
        data={"triples": [{"path": "${SOMEWHERE}/t.jsonl"}], "helpful": [{"path": "$NOWHERE/h.jsonl"}]},
    )
    loaded = load_recipe(recipe_file(values))
    assert loaded.model.path == "/data/model"
    assert loaded.data.triples[0].path == "/data/t.jsonl"
    assert loaded.data.helpful[0].path == "$NOWHERE/h.jsonl"  # the reader of the file will name it


def test_dotted_overrides_replace_and_add_values(recipe_file):
    path = recipe_file(with_train(epochs=1))
    overrides = {"train.epochs": 3, "train.lora.r": 8, "generate.max_new_tokens": 5, "title": "other"}
    loaded = load_recipe(path, overrides=overrides)
    assert (loaded.train.epochs, loaded.generate.max_new_tokens, loaded.title) == (3, 5, "other")
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
