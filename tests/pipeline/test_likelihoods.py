import json
from math import log

import pytest

from derta.config import load_recipe
from derta.engines.scripted import ScriptedModel
from derta.errors import RecipeError
from derta.pipeline.data import prepare_data
from derta.pipeline.likelihoods import Scores, perplexity_notes, read_scores, score_held_out, scored_data
from derta.provenance import hash_value

NO_REPLIES = {}
PRODUCER = {"model": "0f"}


def test_profiled_requests_of_a_file_are_measured_and_never_trained_on(recipe, tmp_path):
    loaded = load_recipe(recipe)
    triple = prepare_data(loaded).triples[0]
    row = {"id": "profiled", "text": triple.query, "harmful": triple.harmful}
    (tmp_path / "profiled.jsonl").write_text(json.dumps(row) + "\n")
    changed = load_recipe(recipe, overrides={"profile_requests": {"path": str(tmp_path / "profiled.jsonl")}})
    prepared = prepare_data(changed)
    assert triple.query not in {one.query for one in prepared.triples}
    model = ScriptedModel({}, refusal_prob=lambda prompt, _: float(prompt.id == "profiled"))
    scores = score_held_out(model, scored_data(changed, prepared), producer=PRODUCER, home=tmp_path)
    assert scores.refusal_probability == [[1.0] * (len(triple.harmful.split()) + 1)]


@pytest.fixture
def loaded(recipe):
    return load_recipe(recipe)


def test_held_out_rows_are_scored_after_their_prompt(loaded, tmp_path):
    prepared = prepare_data(loaded)
    scored = []

    def log_prob(prompt, before, _word):
        if not before:
            scored.append((prompt.messages[-1].role, prompt.messages[-1].content))
        return -2.0 if before else -4.0

    model = ScriptedModel(NO_REPLIES, log_prob=log_prob, refusal_prob=lambda prompt, before: 0.5 if before else 0.25)
    scores = score_held_out(model, scored_data(loaded, prepared), producer=PRODUCER, home=tmp_path)
    assert scored == [("user", example.messages[0].content) for example in prepared.held_out_examples]
    lengths = [len(example.messages[-1].content.split()) for example in prepared.held_out_examples]
    assert scores.answer_losses == pytest.approx([(4 + 2 * (n - 1)) / n for n in lengths])  # the mean of 4, 2, 2, …
    words = [len(request.harmful.split()) for request in prepared.held_out_requests]
    assert scores.refusal_probability == [[0.25] + [0.5] * n for n in words]


def test_scores_are_computed_once(loaded, tmp_path):
    prepared = prepare_data(loaded)
    first = score_held_out(ScriptedModel(NO_REPLIES), scored_data(loaded, prepared), producer=PRODUCER, home=tmp_path)
    other = ScriptedModel(NO_REPLIES, log_prob=lambda *_: -9.0)
    again = score_held_out(other, scored_data(loaded, prepared), producer=PRODUCER, home=tmp_path)
    assert again == first == read_scores(tmp_path)
    changed = score_held_out(other, scored_data(loaded, prepared), producer={"model": "1e"}, home=tmp_path)
    assert changed.answer_losses[0] == 9


def test_without_held_out_rows_no_model_is_used(loaded, tmp_path):
    prepared = prepare_data(loaded)._replace(held_out_requests=[], held_out_examples=[])
    assert score_held_out(None, scored_data(loaded, prepared), producer=PRODUCER, home=tmp_path)[:2] == ([], [])


def test_benign_answers_are_profiled_and_their_source_is_never_trained_on(recipe, tmp_path):
    example = prepare_data(load_recipe(recipe)).examples[0]
    row = {"prompt": example.messages[0].content, "completion": "A warm stove."}
    (tmp_path / "profiled.jsonl").write_text(json.dumps(row) + "\n")
    settings = {"profile_examples": {"path": str(tmp_path / "profiled.jsonl")}, "profile_benign": 1}
    loaded = load_recipe(recipe, overrides=settings)
    prepared = prepare_data(loaded)
    assert row["prompt"] not in {one.messages[0].content for one in prepared.examples}
    model = ScriptedModel({}, refusal_prob=lambda prompt, before: 0.5 * ("warm" in before))
    data = scored_data(loaded, prepared)
    scores = score_held_out(model, data, producer=PRODUCER, home=tmp_path)
    assert scores.benign_probability == [[0.0, 0.0, 0.5, 0.5]]
    assert scores == read_scores(tmp_path)
    assert [text for _, text in data.texts][-1] == "A warm stove."


def test_held_out_examples_are_profiled_by_default_and_too_few_are_an_error(recipe):
    loaded = load_recipe(recipe, overrides={"profile_benign": 2})
    prepared = prepare_data(loaded)
    assert scored_data(loaded, prepared).benign == prepared.held_out_examples[:2]
    with pytest.raises(RecipeError, match="expected at least 3 held-out conversations with an answer, got 2"):
        scored_data(load_recipe(recipe, overrides={"profile_benign": 3}), prepared)


def test_scores_of_earlier_versions_are_read_and_stay_current(loaded, tmp_path):
    prepared = prepare_data(loaded)
    data = scored_data(loaded, prepared)
    texts = [[one.text, one.harmful] for one in data.harmful]
    earlier = hash_value(
        [texts, [one.id for one in data.helpful], PRODUCER, "probability of whole refusal words"]
    )  # as before there were benign answers
    values = {"refusal_probability": [[0.5]], "answer_losses": [2.0], "provenance": earlier}
    (tmp_path / "scores.json").write_text(json.dumps(values))
    assert score_held_out(None, data, producer=PRODUCER, home=tmp_path) == Scores([[0.5]], [2.0], earlier)


def test_perplexity_is_compared_with_the_first_method_of_the_same_seed():
    scores = {
        ("vanilla", 0): Scores([], [log(2)] * 3),  # exp(mean loss) = 2
        ("derta", 0): Scores([], [log(4)] * 3),  # 4, twice as large for every answer
        ("vanilla", 1): Scores([], [log(8)] * 3),
        ("derta", 1): Scores([], [log(4)] * 3),  # half of seed 1's
        ("base", 0): Scores([], []),
    }
    assert perplexity_notes(scores) == [
        "vanilla, seed 0: perplexity of 3 held-out helpful answers 2.00.",
        "derta, seed 0: perplexity of 3 held-out helpful answers 4.00, 2.000 times that of vanilla "
        "(95 % interval 2.000 to 2.000).",
        "vanilla, seed 1: perplexity of 3 held-out helpful answers 8.00.",
        "derta, seed 1: perplexity of 3 held-out helpful answers 4.00, 0.500 times that of vanilla "
        "(95 % interval 0.500 to 0.500).",
    ]
