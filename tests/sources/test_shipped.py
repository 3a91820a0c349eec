"""Data sets that are part of the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from derta.config import parse_recipe
from derta.data.helpful import load_examples, read_examples
from derta.data.matching import match_key
from derta.data.requests import load_requests
from derta.errors import DataError, RecipeError
from derta.files import read_records
from derta.pipeline.data import evaluated_requests, input_files
from derta.pipeline.distillation import drop_refusals
from derta.pipeline.evaluate import craft_prompts
from derta.pipeline.paths import expanded_paths
from derta.records import Prompt
from derta.sources.shipped import expand_name, shipped_sets

UNTRAINED = {"translation", "names", "language"}
RECIPE = {
    "title": "An ordinary sorry",
    "model": {"path": "m"},
    "methods": ["derta"],
    "data": {"triples": [{"path": "t.jsonl"}], "helpful": [{"path": "derta:ordinary_sorry_counter"}]},
    "evaluate": [
        {"suite": "over_refusal", "name": "ordinary sorry", "requests": {"path": "derta:ordinary_sorry"}},
        {"suite": "over_refusal", "name": "prefilled", "prompts": "derta:ordinary_sorry_prefilled"},
    ],
}


def prefilled() -> list[Prompt]:
    return list(read_records(Path(expand_name("derta:ordinary_sorry_prefilled")), Prompt))


def answers() -> dict[str, str]:
    examples = load_examples("derta:ordinary_sorry_counter")
    return {one.messages[0].content: one.messages[-1].content for one in examples}


def test_no_prompt_of_the_counter_rows_is_evaluated():
    requests = {match_key(request.text) for request in load_requests("derta:ordinary_sorry")}
    assert len(requests) == 110
    assert requests.isdisjoint(map(match_key, answers()))


def test_every_prefill_ends_in_an_ordinary_sorry_for_its_request():
    prompts, requests = prefilled(), load_requests("derta:ordinary_sorry")
    assert [(one.request_id, one.request) for one in prompts] == [(one.id, one.text) for one in requests]
    assert all((one.prefill or "").lower().endswith("sorry") for one in prompts)
    assert sum((one.prefill or "").endswith("Sorry") for one in prompts) >= 60  # DeRTa's token
    assert {one.category for one in prompts} > UNTRAINED


def test_counter_answers_say_sorry_once_in_varied_places():
    texts = list(answers().values())
    assert len(texts) == 60
    assert all(text.lower().count("sorry") == 1 for text in texts)
    assert sum(text.lower().index("sorry") < 8 for text in texts) >= 10
    assert sum(", sorry" in text.lower() for text in texts) >= 8
    assert sum("Sorry" in text for text in texts) >= 25


def test_no_counter_row_is_dropped_as_a_refusal():
    read = read_examples("derta:ordinary_sorry_counter")
    recipe = parse_recipe(RECIPE, where="recipe")
    assert drop_refusals(read, recipe).dropped == read.dropped
    assert len(drop_refusals(read, recipe).examples) == 60


def test_a_name_that_is_no_set_is_an_error_with_the_nearest_one():
    with pytest.raises(DataError, match="did you mean 'ordinary_sorry'"):
        load_requests("derta:ordinary_sory")
    recipe = parse_recipe({**RECIPE, "evaluate": [{"prompts": "derta:x"}]}, where="recipe")
    message = r"`evaluate\.0\.prompts`: derta:x: expected a data set of derta"
    with pytest.raises(RecipeError, match=message), expanded_paths(recipe):
        pass


def test_a_recipe_names_the_sets_and_leaves_their_prompts_out_of_training():
    with expanded_paths(parse_recipe(RECIPE, where="recipe")) as paths:
        prompts = craft_prompts(paths.recipe, held_out=[], seed=0)
        assert len({prompt.id for prompt in prompts}) == 220
        assert {prompt.suite for prompt in prompts} == {"over_refusal"}
        names = {paths.name(path) for path in input_files(paths.recipe)}
        assert names >= {f"derta:{name}" for name in shipped_sets() if name.startswith("ordinary_sorry")}
        assert {one.text for one in load_requests("derta:ordinary_sorry")} <= set(evaluated_requests(paths.recipe))
