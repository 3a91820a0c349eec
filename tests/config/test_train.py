import re

import pytest
from pydantic import ValidationError

from derta.config import (
    ELSEWHERE,
    REFUSED,
    RENAMED,
    ROW_FIELDS,
    WORKING,
    LoraSection,
    TrainSection,
    allowed_fields,
    check_field,
)
from derta.errors import RecipeError


def error_of(values: object) -> RecipeError:
    """The error that a section raises, which pydantic wraps."""
    with pytest.raises(ValidationError) as caught:
        TrainSection.model_validate(values)
    error = caught.value.errors()[0].get("ctx", {})["error"]
    assert isinstance(error, RecipeError)
    return error


def test_a_field_is_in_one_table_only():
    assert not WORKING & REFUSED.keys()
    assert not {*allowed_fields()} & (REFUSED.keys() | ELSEWHERE.keys() | RENAMED.keys())
    assert {*allowed_fields()} == (WORKING | {*ROW_FIELDS}) - ELSEWHERE.keys()


@pytest.mark.parametrize("name", allowed_fields())
def test_an_allowed_field_passes_its_check(name):
    check_field(name)


@pytest.mark.parametrize("name", sorted({*REFUSED, *ELSEWHERE}))
def test_a_refused_field_is_an_error_with_its_reason(name):
    reason = REFUSED.get(name) or ELSEWHERE[name]
    with pytest.raises(RecipeError, match=re.escape(f"`attack.{name}`: cannot be set; {reason}")):
        check_field(name, section="attack")


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_is_answered_with_a_new_one_that_is_allowed(old, new):
    with pytest.raises(RecipeError, match=re.escape(f"unknown key `train.{old}`; did you mean {new!r}?")):
        check_field(old)
    assert {*re.findall(r"\w+", new)} & {*allowed_fields(), "lora"}


def test_an_unknown_name_is_answered_with_the_most_similar_one():
    with pytest.raises(RecipeError, match=r"unknown key `train.lorra`; did you mean 'lora'\?"):
        check_field("lorra")


def test_settings_are_all_row_fields_and_those_of_hugging_face_that_the_recipe_sets():
    settings = TrainSection.model_validate({"learning_rate": 1e-4, "sorry_dropout": 0.5}).settings
    assert settings.keys() == {*ROW_FIELDS} - ELSEWHERE.keys() | {"learning_rate"}
    assert (settings["learning_rate"], settings["sorry_dropout"], settings["max_length"]) == (1e-4, 0.5, 1024)


@pytest.mark.parametrize("lora", [None, {}, {"r": 8, "target_modules": ["q_proj"]}])
def test_a_section_is_the_same_after_it_is_written_to_a_manifest(lora):
    section = TrainSection.model_validate({"num_train_epochs": 1, "tree_rows": True, "lora": lora})
    written = section.model_dump(mode="json")
    assert "settings" not in written
    assert TrainSection.model_validate(written) == section
    assert section.lora == (None if lora is None else LoraSection.model_validate(lora))


@pytest.mark.parametrize(
    ("values", "key", "part"),
    [
        ({"max_length": 31}, "`train.max_length`", "greater than or equal to 32, got 31"),
        ({"reference": True, "step_tokens": 9}, "`train.reference`", "no step_tokens"),
    ],
)
def test_an_invalid_row_setting_is_an_error_with_its_key_in_the_recipe(values, key, part):
    error = error_of(values)
    assert error.key == key
    assert part in error.reason


def test_an_unknown_key_is_an_error_before_any_value_is_checked():
    assert str(error_of({"max_length": 31, "max_lenght": 31})).startswith("unknown key `train.max_lenght`")


@pytest.mark.parametrize("values", [None, ["bf16"], "bf16"])
def test_a_section_is_a_mapping(values):
    with pytest.raises(ValidationError):
        TrainSection.model_validate(values)


@pytest.mark.parametrize("values", [{"r": 0}, {"lora_dropout": 1}, {"target_modules": 5}, {"rank": 8}])
def test_an_invalid_lora_section_is_refused(values):
    with pytest.raises(ValidationError):
        TrainSection.model_validate({"lora": values})
