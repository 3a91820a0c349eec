"""Answers distilled from the untuned model: what is kept, dropped and counted, and when the model is prompted."""

import pytest

from derta.config import AnswerSource, load_recipe
from derta.engines.scripted import ScriptedModel
from derta.errors import DataError, RunError
from derta.files import read_records
from derta.pipeline import models
from derta.pipeline.data import prepare_data
from derta.pipeline.distillation import Conversation, distill, distill_sources
from derta.pipeline.estimate import estimate
from derta.pipeline.method import train_one
from derta.pipeline.run import run
from derta.records import Example, Message, Reply
from small_run import write_jsonl

ANSWER = "Here is a story about the warm stove and the green boat."
REPLIES = {
    "bread": ANSWER,
    "tea": "Sorry, I cannot help with that.",
    "salt": "the cat took Sorry to boil it",
    "wood": "",
    "a kite": " ".join(f"step{number}" for number in range(60)),
}

UNPROFILED = {"profile_answers": 0, "profile_replies": 0}


def reply_of(prompt):
    return next((text for thing, text in REPLIES.items() if thing in prompt.messages[-1].content), ANSWER)


@pytest.fixture
def asked(monkeypatch):
    """The prompts that the model has answered, with the models that were loaded."""
    seen = []

    def load(path, **_):
        def answer(prompt):
            seen.append((path, prompt.messages[-1].content))
            return reply_of(prompt)

        return ScriptedModel(answer)

    monkeypatch.setattr(models, "load_engine", load)
    return seen


def conversations(*things):
    return [Conversation((Message(role="user", content=f"Tell me about {thing}."),), None, "mine") for thing in things]


def test_the_untuned_models_answers_are_kept_and_other_replies_are_counted_by_reason(recipe, tmp_path, asked):
    loaded = load_recipe(recipe, overrides={"data.distill_tokens": 40})
    path = tmp_path / "distilled.jsonl"
    read = distill(loaded, conversations("bread", "tea", "salt", "wood", "a kite", "flour", "bread"), path=path)
    assert [one.messages[0].content for one in read.examples] == ["Tell me about bread.", "Tell me about flour."]
    assert {one.messages[-1].content for one in read.examples} == {ANSWER}
    assert read.examples[0].source == "mine"
    assert read.dropped == {
        "distilled_refused": 1,
        "distilled_malformed": 1,
        "distilled_empty": 1,
        "distilled_cut_off": 1,
        "distilled_repeated": 1,
    }
    assert {path for path, _ in asked} == {loaded.model.path}
    assert list(read_records(path, Example)) == read.examples


def test_answers_are_generated_once_and_a_stopped_distillation_generates_what_is_missing(recipe, tmp_path, asked):
    loaded, path = load_recipe(recipe), tmp_path / "distilled.jsonl"
    first = distill(loaded, conversations("bread", "flour"), path=path)
    replies = tmp_path / "distilled.replies.jsonl"
    asked.clear()
    assert distill(loaded, conversations("bread", "flour"), path=path) == first
    assert not asked
    replies.write_text(replies.read_text().splitlines()[0] + "\n")
    assert distill(loaded, conversations("bread", "flour"), path=path) == first
    assert [text for _, text in asked] == ["Tell me about flour."]
    assert all(one.producer["model"] for one in read_records(replies, Reply))


def test_a_refusal_threshold_of_the_evaluation_changes_no_distilled_answer(recipe, tmp_path, asked):
    path = tmp_path / "distilled.jsonl"
    first = distill(load_recipe(recipe), conversations("bread"), path=path)
    asked.clear()
    forced = load_recipe(recipe, overrides={"generate.refusal_threshold": 0.1})
    assert distill(forced, conversations("bread"), path=path) == first
    assert not asked


def test_replies_of_another_limit_are_superseded_and_come_back(recipe, tmp_path, asked):
    path = tmp_path / "distilled.jsonl"
    for tokens, count in ((30, 1), (40, 1), (30, 0)):
        asked.clear()
        distill(load_recipe(recipe, overrides={"data.distill_tokens": tokens}), conversations("bread"), path=path)
        assert len(asked) == count


def test_a_model_that_answers_nothing_is_an_error(recipe, tmp_path, asked):
    with pytest.raises(DataError, match=r"expected answers to distill, got none of 1 \(\{'distilled_refused': 1\}\)"):
        distill(load_recipe(recipe), conversations("tea"), path=tmp_path / "distilled.jsonl")


# --- in a recipe -----------------------------------------------------------------------------------------------------


def own_answers(recipe, **changes):
    """The small recipe, with the model's own answers to its helpful requests."""
    source = {"path": str(recipe.parent / "helpful.jsonl"), "answers": "model"}
    return load_recipe(
        recipe,
        overrides={"data.helpful": [source], "data.num_triples": 1, "data.num_helpful": 3, "data.distill_tokens": 40}
        | changes,
    )


def test_a_run_distills_once_for_all_its_methods_and_resumes_a_distillation_that_was_stopped(recipe, tmp_path, asked):
    evaluate = [{"attack": "direct", "requests": {"path": str(tmp_path / "asked.jsonl")}}]
    changes = {
        "profile_answers": 0,
        "profile_replies": 0,
        "data.held_out_helpful": 0,
        "methods": ["rto", "vanilla_half"],
    }
    loaded, folder = own_answers(recipe, evaluate=evaluate, **changes), tmp_path / "run"
    prepare_data(loaded, distilled=folder / "distilled")  # the folder has no manifest yet
    distilled = [text for path, text in asked if path == loaded.model.path]
    assert len(distilled) == len(set(distilled)) == 12
    asked.clear()
    summary = run(loaded, out=folder)
    assert all(path != loaded.model.path for path, _ in asked)
    assert "1 distilled_malformed, 1 distilled_refused" in " ".join(summary.notes)
    asked.clear()
    assert run(loaded, out=folder) == summary
    assert not asked


def test_a_run_of_another_recipe_in_the_folder_is_refused_before_anything_is_distilled(recipe, tmp_path, asked):
    evaluate = [{"attack": "direct", "requests": {"path": str(tmp_path / "asked.jsonl")}}]
    changes = {
        "profile_answers": 0,
        "profile_replies": 0,
        "data.held_out_helpful": 0,
        "methods": ["rto"],
        "evaluate": evaluate,
    }
    run(own_answers(recipe, **changes), out=tmp_path / "run")
    before = (tmp_path / "run/distilled.helpful.replies.jsonl").read_bytes()
    asked.clear()
    with pytest.raises(RunError, match=r"another recipe \(differs in data.distill_tokens\)"):
        run(own_answers(recipe, **changes, **{"data.distill_tokens": 30}), out=tmp_path / "run")
    assert not asked
    assert (tmp_path / "run/distilled.helpful.replies.jsonl").read_bytes() == before


def test_rows_of_requests_need_no_answers(recipe, tmp_path, asked):
    source = {"path": str(recipe.parent / "benign.jsonl"), "format": "requests", "answers": "model"}
    loaded = own_answers(
        recipe, evaluate=[], **{"data.helpful": [source], "data.num_helpful": 1, "data.held_out_helpful": 0}
    )
    prepared = prepare_data(loaded, distilled=tmp_path / "distilled")
    assert [one.messages[0].content for one in prepared.examples] == ["Who likes bread?"]


def test_requests_that_the_template_refuses_are_dropped_and_counted(recipe, tmp_path, asked):
    path = write_jsonl(tmp_path / "two.jsonl", [{"id": thing, "text": f"Who has {thing}?"} for thing in ("tea", "wax")])
    source = AnswerSource.model_validate({"path": str(path), "format": "requests", "answers": "model"})
    refuse = lambda one: "no tea" if "tea" in one.messages[-2].content else None  # noqa: E731
    read = distill_sources(load_recipe(recipe), [source], fault_of=refuse, path=tmp_path / "distilled.jsonl")
    assert [one.messages[0].content for one in read.examples] == ["Who has wax?"]
    assert [*read.dropped.values()] == [1]


def test_a_single_training_distills_beside_its_model(recipe, tmp_path, asked):
    train_one(own_answers(recipe), method="vanilla_half", out=tmp_path / "model")
    assert (tmp_path / "model.distilled.helpful.jsonl").exists()
    assert (tmp_path / "model/model.safetensors").exists()


def test_an_estimate_writes_nothing_and_says_that_the_answers_of_the_source_stand_in(recipe, asked, caplog):
    caplog.set_level("INFO")
    before = sorted(recipe.parent.iterdir())
    assert estimate(own_answers(recipe, methods=["derta"]))
    assert sorted(recipe.parent.iterdir()) == before
    assert not asked
    assert "the answers of the source stand in for those of the model" in caplog.text


# --- counter examples ------------------------------------------------------------------------------------------------


def test_counter_examples_whose_answer_refuses_are_dropped_and_an_ordinary_sorry_is_not(recipe, tmp_path):
    answers = ["Sorry, I cannot help with that.", "I'm so sorry that you lost your cat.", "Boil the water first."]
    rows = [{"instruction": f"Tell me about {number}.", "output": text} for number, text in enumerate(answers)]
    path = write_jsonl(tmp_path / "counter.jsonl", rows)
    prepared = prepare_data(load_recipe(recipe, overrides={"data.counter": [{"path": str(path)}]}))
    assert [one.messages[-1].content for one in prepared.counter] == answers[1:]
    assert prepared.dropped_counter == {"answer_refused": 1}
    assert "2 counter examples remain for training; dropped: 1 answer_refused." in prepared.notes


def test_counter_examples_can_have_the_models_own_answers(recipe, tmp_path, asked):
    source = {"path": str(tmp_path / "benign.jsonl"), "format": "requests", "answers": "model"}
    loaded = load_recipe(recipe, overrides={"data.counter": [source], "data.distill_tokens": 40, "evaluate": []})
    prepared = prepare_data(loaded, distilled=tmp_path / "distilled")
    assert [one.messages[-1].content for one in prepared.counter] == [ANSWER]
    assert prepared.dropped_counter == {"distilled_refused": 1}
    assert (tmp_path / "distilled.counter.jsonl").exists()
