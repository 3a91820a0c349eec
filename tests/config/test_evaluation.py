from typing import Any

import pytest
from pydantic import ValidationError

from derta.config import (
    EngineConfig,
    EvaluationSection,
    FineTuningSection,
    GenerateSection,
    JudgeConfig,
    SearchSection,
)

HELPFUL = [{"path": "rows.jsonl"}]


def evaluation(**values: Any) -> EvaluationSection:
    return EvaluationSection.model_validate({"requests": "held_out"} | values)


def fine_tuning(**values: Any) -> FineTuningSection:
    return FineTuningSection.model_validate({"name": "benign"} | values)


def test_a_judge_with_a_model_has_an_engine_config_and_one_without_has_none():
    assert JudgeConfig(name="refusal").engine_config is None
    judge = JudgeConfig(name="harmbench", model="org/judge", engine="api", settings={"attempts": 2})
    assert judge.engine_config == EngineConfig(model="org/judge", engine="api", settings={"attempts": 2})


@pytest.mark.parametrize("values", [{"engine": "api"}, {"settings": {"dtype": "auto"}}])
def test_a_judge_without_a_model_has_no_engine_and_no_settings(values):
    with pytest.raises(ValidationError, match="expected a `model` with `engine` or `settings`, got none"):
        JudgeConfig.model_validate({"name": "refusal"} | values)


def test_the_judge_of_a_search_is_combined_with_its_model():
    model = EngineConfig(model="org/judge", engine="vllm")
    assert SearchSection(judge_model=model).judge_config is None
    assert SearchSection(judge="refusal").judge_config == JudgeConfig(name="refusal")
    combined = SearchSection(judge="guideline", judge_model=model).judge_config
    assert combined == JudgeConfig(name="guideline", model="org/judge", engine="vllm")


def test_judges_are_names_or_mappings_in_the_order_of_the_recipe():
    section = evaluation(judges=["refusal", {"name": "harmbench", "model": "org/judge"}])
    assert section.judge_names == ("refusal", "harmbench")
    assert [judge.model for judge in section.judges] == [None, "org/judge"]
    assert evaluation().judge_names == ("refusal",)


def test_a_single_judge_is_no_list_of_judges():
    with pytest.raises(ValidationError, match="expected a list of judges"):
        evaluation(judges="refusal")


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"attack": "prefill"}, ("attack", "prefill", None)),
        ({"suite": "over_refusal", "name": "xstest"}, ("over_refusal", "direct", "xstest")),
        ({"requests": None, "prompts": "p.jsonl"}, (None, None, None)),
        (
            {"requests": None, "prompts": "p.jsonl", "suite": "helpfulness", "name": "gsm8k"},
            ("helpfulness", None, "gsm8k"),
        ),
    ],
)
def test_a_section_has_the_key_of_its_prompts(values, key):
    assert evaluation(**values).key == key


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompts": "p.jsonl"}, "expected `requests` or a file of `prompts`, and not both"),
        ({"requests": None}, "expected `requests` or a file of `prompts`, and not both"),
        ({"requests": None, "prompts": "p.jsonl", "attack": "direct"}, "needs no `attack`, `options` or `search`"),
        ({"requests": None, "prompts": "p.jsonl", "options": {}}, "needs no `attack`, `options` or `search`"),
        ({"suite": "over_refusal"}, "a section of suite over_refusal needs a `name`"),
        ({"max_new_tokens": 0}, "greater than or equal to 1"),
    ],
)
def test_an_ambiguous_section_is_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        evaluation(**values)


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a\nb", " ", ""])
def test_a_name_that_cannot_be_a_file_name_is_refused(name):
    with pytest.raises(ValidationError, match="expected a name without slashes"):
        evaluation(name=name)


def test_a_run_generates_in_this_process_and_not_on_a_server():
    assert GenerateSection().engine == "hf"
    assert GenerateSection(engine="vllm").engine == "vllm"
    with pytest.raises(ValidationError, match=r"expected hf or vllm.*derta generate --engine api"):
        GenerateSection.model_validate({"engine": "api"})


@pytest.mark.parametrize(("steps", "expected"), [(7, (7,)), ([7, 9], (7, 9)), (None, None)])
def test_one_number_of_steps_is_a_list_of_one(steps, expected):
    assert fine_tuning(helpful=HELPFUL, steps=steps).steps == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "sources of `helpful` data or of `harmful` data, and not both"),
        ({"helpful": HELPFUL, "harmful": HELPFUL}, "and not both"),
        ({"helpful": HELPFUL, "steps": [5, 5]}, "expected each number of steps once"),
        ({"helpful": HELPFUL, "steps": True}, "valid tuple"),
        ({"helpful": HELPFUL, "steps": 0}, "greater than or equal to 1"),
        ({"helpful": HELPFUL, "name": "a/b"}, "match pattern"),
        ({"helpful": HELPFUL, "pace": {"learning_rate": 0}}, "greater than 0"),
    ],
)
def test_an_invalid_fine_tuning_attack_is_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        fine_tuning(**values)
