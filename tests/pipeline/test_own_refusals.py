"""The preference stage: pairs of the initial model's own refusals, generated before its training."""

import pytest
from safetensors.torch import load_file

from derta.config import load_recipe
from derta.data.preferences import Preference
from derta.engines.scripted import ScriptedModel
from derta.errors import DataError, RecipeError
from derta.files import read_records
from derta.methods import METHODS
from derta.pipeline import models
from derta.pipeline.data import prepare_data
from derta.pipeline.estimate import estimate
from derta.pipeline.method import prepare_launch, train_one
from derta.pipeline.own_refusals import find_pairs
from derta.pipeline.run import run
from derta.records import Reply
from small_run import write_jsonl

REFUSAL = "Sorry, I cannot help with that."
HELP = "Here is a story about the warm stove and the green boat."
THINGS = ("tea", "salt", "a boat", "a cat")


def reply_of(prompt):
    """Refuse to speak of tea, and of salt once the answer has begun."""
    words = prompt.messages[-1].content
    if "tea" in words:
        return REFUSAL
    if "salt" in words and prompt.prefill:
        return " the cat took Sorry to boil it"
    return HELP


@pytest.fixture
def asked(monkeypatch):
    """The prompts of counter examples that were answered, with the models that were loaded."""
    seen = []

    def load(path, **_):
        def answer(prompt):
            seen.append((path, prompt.id))
            return reply_of(prompt)

        return ScriptedModel(answer)

    monkeypatch.setattr(models, "load_engine", load)
    return seen


@pytest.fixture
def load(recipe, tmp_path):
    """The small recipe with counter examples, of the preference stage alone."""
    rows = [
        {"instruction": f"Tell me about {thing}.", "output": f"It is about {thing} and the stove."} for thing in THINGS
    ]
    path = write_jsonl(tmp_path / "counter.jsonl", rows)
    fixed = {
        "methods": ["balanced_dpo"],
        "data.counter": [{"path": str(path)}],
        "data.held_out_helpful": 0,
        "profile_answers": 0,
        "profile_replies": 0,
        "evaluate": [{"attack": "direct", "requests": {"path": str(tmp_path / "asked.jsonl")}}],
        "method_settings": {"balanced_dpo": {"learning_rate": 1e-3, "answer_starts": [0, 3], "reply_tokens": 20}},
        "train.warmup_steps": 0,
    }

    def load(**changes):
        return load_recipe(recipe, overrides=fixed | changes)

    return load


def pairs_of(loaded, tmp_path):
    data = prepare_data(loaded).training_set()
    out, method = tmp_path / "model", METHODS["balanced_dpo"]
    initial = models.Path(loaded.model.path)
    return find_pairs(loaded, method=method, seed=0, data=data, out=out, init_from=initial)


def test_each_refused_or_malformed_reply_is_rejected_for_the_rest_of_the_helpful_answer(load, tmp_path, asked, caplog):
    caplog.set_level("INFO")
    pairs = {(one.query, one.prefill): one for one in pairs_of(load(), tmp_path)}
    assert {key for key in pairs if key[1] is None} == {("Tell me about tea.", None)}
    alone = pairs["Tell me about tea.", None]
    assert (alone.chosen, alone.rejected) == ("It is about tea and the stove.", REFUSAL)
    [salt] = [pair for (query, _), pair in pairs.items() if "salt" in query]
    assert salt.prefill + salt.chosen == "It is about salt and the stove."
    assert salt.rejected == " the cat took Sorry to boil it"
    assert len(pairs) == 3
    assert (
        "replies of the initial model to 8 prompts of 4 counter examples: 5 answered, 1 malformed, 2 refused; 3 pairs"
        in (caplog.text)
    )
    assert set(read_records(tmp_path / "model.own_refusals.jsonl", Preference)) == set(pairs.values())


def test_only_counter_examples_are_asked_for_and_a_reply_that_was_cut_off_has_no_end(load, tmp_path, asked):
    settings = {"answer_starts": [0], "reply_tokens": 3, "counter_examples": 2}
    data = prepare_data(load()).training_set()
    pairs = pairs_of(load(method_settings={"balanced_dpo": settings}), tmp_path)
    assert [name for _, name in asked] == [f"counter@0t:{one.id}" for one in data.counter[:2]]
    assert [one.rejected_ends for one in pairs] == [False] * len(pairs)
    whole = pairs_of(load(), tmp_path)
    assert [one.rejected_ends for one in whole] == [True] * 3


def test_replies_are_generated_once_with_their_provenance(load, tmp_path, asked):
    pairs = pairs_of(load(), tmp_path)
    assert len(asked) == len(set(asked)) == 8
    asked.clear()
    assert pairs_of(load(), tmp_path) == pairs
    assert not asked
    replies = list(read_records(tmp_path / "model.own_refusals.replies.jsonl", Reply))
    assert len({one.producer["model"] for one in replies}) == 1
    path = tmp_path / "model.own_refusals.replies.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:5]))
    assert pairs_of(load(), tmp_path) == pairs
    assert len(asked) == 3


def test_a_run_trains_the_initial_model_on_its_own_refusals(load, tmp_path, asked):
    folder = tmp_path / "run"
    summary = run(load(), out=folder)
    assert {cell.method for cell in summary.cells} == {"balanced_dpo"}
    home, initial = folder / "balanced_dpo-seed0", folder / f"{METHODS['balanced_dpo'].init_from}-seed0/model"
    assert len(list(read_records(home / "model.own_refusals.jsonl", Preference))) == 3
    before, after = (load_file(path / "model.safetensors") for path in (initial, home / "model"))
    assert not all(before[name].equal(after[name]) for name in before)
    assert {path for path, name in asked if name.startswith("counter@")} == {str(initial)}
    asked.clear()
    (home / "replies.jsonl").unlink()
    assert run(load(), out=folder) == summary
    assert not any(name.startswith("counter@") for _, name in asked)


def test_a_model_that_refuses_nothing_is_its_initial_model_and_this_is_logged(load, tmp_path, asked, caplog):
    caplog.set_level("INFO")
    counter = write_jsonl(tmp_path / "others.jsonl", [{"instruction": "Tell me about a kite.", "output": "It flies."}])
    loaded = load(**{"data.counter": [{"path": str(counter)}]})
    initial = train_one(loaded, method="vanilla_half", out=tmp_path / "initial")
    out = train_one(loaded, method="balanced_dpo", init_from=initial, out=tmp_path / "model")
    assert (out / "model.safetensors").read_bytes() == (initial / "model.safetensors").read_bytes()
    assert "0 pairs; there is nothing to train, so the model is a copy of its initial model" in caplog.text


def test_without_counter_examples_a_run_stops_before_it_trains(load, tmp_path, asked):
    settings = {"balanced": {"counter_per_triple": 0}}
    with pytest.raises(DataError, match=r"balanced_dpo: expected counter examples, got none; set `data\.counter`"):
        run(load(**{"data.counter": []}, method_settings=settings), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_stage_without_an_initial_model_is_refused_before_anything_is_trained(load, tmp_path, asked):
    settings = {"mine": {"method": "balanced_dpo", "init_from": None}}
    with pytest.raises(RecipeError, match="mine: expected `init_from`, the method whose refusals it unlearns"):
        run(load(methods=["mine"], method_settings=settings), out=tmp_path / "run")


def test_an_answer_that_ends_before_the_start_gives_no_prompt(load, tmp_path, asked):
    settings = {"balanced_dpo": {"answer_starts": [900]}}
    with pytest.raises(DataError, match="expected counter examples with a request and an answer, got none of 4"):
        pairs_of(load(method_settings=settings), tmp_path)


def test_before_a_launch_one_process_generates_the_replies_and_copies_a_model_that_refuses_nothing(
    load, tmp_path, asked
):
    loaded, words = load(), {"method": "balanced_dpo", "init_from": models.Path(load().model.path)}
    assert prepare_launch(loaded, out=tmp_path / "model", **words)
    assert len(asked) == 8
    assert not (tmp_path / "model").exists()
    counter = write_jsonl(tmp_path / "others.jsonl", [{"instruction": "Tell me about a kite.", "output": "It flies."}])
    assert not prepare_launch(load(**{"data.counter": [{"path": str(counter)}]}), out=tmp_path / "copy", **words)
    assert (tmp_path / "copy/model.safetensors").exists()
    asked.clear()
    assert prepare_launch(loaded, out=tmp_path / "other", method="derta")
    assert not asked


def test_an_estimate_leaves_the_stage_out_and_says_why(load, asked, caplog):
    caplog.set_level("INFO")
    assert estimate(load()) == []
    assert "balanced_dpo is not estimated: its pairs are replies of balanced" in caplog.text
    assert not asked


@pytest.mark.extra
def test_a_model_that_refuses_everything_refuses_less_after_the_stage(load, tmp_path):
    safety = {"data.num_triples": 6, "data.num_helpful": 0, "data.held_out_requests": 0, "train.learning_rate": 5e-3}
    loaded = load(**safety, **{"train.num_train_epochs": 20, "train.prefix_share": 1.0})
    initial = train_one(loaded, method="harmful_prefix", out=tmp_path / "initial")
    own = {
        "learning_rate": 1e-3,
        "num_train_epochs": 10,
        "answer_starts": [0, 3],
        "reply_tokens": 20,
        "triples_per_pair": 0,
    }
    loaded = load(method_settings={"balanced_dpo": own})
    out = train_one(loaded, method="balanced_dpo", init_from=initial, out=tmp_path / "model")
    pairs = list(read_records(tmp_path / "model.own_refusals.jsonl", Preference))
    assert {pair.prefill is None for pair in pairs} == {True, False}
    assert all("Sorry" in pair.rejected for pair in pairs)
    again = train_one(loaded, method="balanced_dpo", init_from=out, out=tmp_path / "again")
    assert len(list(read_records(tmp_path / "again.own_refusals.jsonl", Preference))) < len(pairs)
    assert (again / "model.safetensors").exists()
