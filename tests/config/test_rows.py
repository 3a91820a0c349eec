from dataclasses import fields
from typing import Any

import pytest

from derta.config import ROW_FIELDS, RowConfig, validate_values
from derta.data.rows import TERMS
from derta.errors import RecipeError


def test_the_defaults_are_valid_and_validation_does_not_change_them():
    defaults = {field.name: getattr(RowConfig(), field.name) for field in fields(RowConfig)}
    assert validate_values(RowConfig, defaults) == defaults
    assert tuple(defaults) == ROW_FIELDS


def test_values_have_the_types_of_their_fields():
    config = RowConfig(max_length="64", sorry_dropout="9e-1", refusal_words=["No"])  # pyright: ignore[reportArgumentType]
    assert (config.max_length, config.sorry_dropout, config.refusal_words) == (64, 0.9, ("No",))


@pytest.mark.parametrize(("text", "expected"), [('{"a": 1}', {"a": 1}), (None, {}), ({"a": 1}, {"a": 1})])
def test_template_arguments_may_be_json_text_as_on_a_command_line(text, expected):
    assert RowConfig(template_kwargs=text).template_kwargs == expected


def test_unknown_values_are_left_out():
    assert validate_values(RowConfig, {"learning_rate": 1, "max_length": 40}) == {"max_length": 40}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_length", 31),
        ("global_batch_size", 0),
        ("step_tokens", 0),
        ("pack_tokens", -1),
        ("branches_per_triple", 0),
        ("helpful_weight", -1),
        ("normalization", "mean"),
        ("sorry_dropout", 1),
        ("prefix_share", 1.1),
        ("rto_targets", "words"),
        ("rto_margin", 0),
        ("rto_margin", 1.1),
        ("attn_implementation", "sdp"),
        ("num_threads", 0),
    ],
)
def test_an_invalid_value_is_an_error_with_its_key_and_the_value(name, value):
    with pytest.raises(RecipeError) as caught:
        RowConfig(**{name: value})
    assert caught.value.key == name
    assert caught.value.reason.endswith(f"got {value!r}")


@pytest.mark.parametrize(
    ("values", "key", "part"),
    [
        (
            {"helpful_weight": 0, "safe_weight": 0, "rto_weight": 0},
            "helpful_weight, safe_weight, rto_weight",
            "expected at least one above 0",
        ),
        ({"reference": True, "tree_rows": True}, "reference", "no tree_rows"),
        ({"reference": True, "branches_per_triple": 2}, "reference", "one branches_per_triple"),
        ({"reference": True, "normalization": "row"}, "reference", "its own normalization"),
        ({"reference": True, "safe_weight": 2}, "reference", "no weights"),
        ({"reference": True, "counter_weight": 2}, "reference", "no weights"),
        ({"reference": True, "step_tokens": 900}, "reference", "no step_tokens"),
        ({"reference": True, "refuse_in": "thought"}, "reference", "no refuse_in"),
        ({"reference": True, "completion_per_triple": 2}, "reference", "no completion_per_triple"),
        ({"reference": True, "counter_per_triple": 0.5}, "reference", "no counter_per_triple"),
        ({"reference": True, "rto_targets": "set"}, "reference", "no rto_targets"),
        ({"reference": True, "rto_margin": 0.5}, "reference", "no rto_margin"),
        ({"reference": True, "max_prefix": 9}, "reference", "no max_prefix"),
        ({"reference": True, "sorry_dropout_end": 0.5}, "reference", "no sorry_dropout_end"),
        ({"tree_rows": True, "attn_implementation": "eager"}, "tree_rows", "expected attn_implementation sdpa or flex"),
    ],
)
def test_settings_that_exclude_each_other_are_an_error_with_their_key(values, key, part):
    with pytest.raises(RecipeError) as caught:
        RowConfig(**values)
    assert caught.value.key == key
    assert part in caught.value.reason


@pytest.mark.parametrize(
    "values",
    [
        {"reference": True},
        {"helpful_weight": 0, "safe_weight": 0},
        {"tree_rows": True, "branches_per_triple": 4, "attn_implementation": "flex_attention"},
        {"step_tokens": 900, "normalization": "row"},
    ],
)
def test_settings_that_fit_each_other_are_accepted(values: dict[str, Any]):
    RowConfig(**values)


def test_term_weights_are_in_the_order_of_the_terms():
    config = RowConfig(helpful_weight=1, safe_weight=2, rto_weight=3, completion_weight=4, counter_weight=5)
    weights = dict(zip(TERMS, config.term_weights, strict=True))
    assert weights == {"helpful": 1, "safe": 2, "rto": 3, "completion": 4, "counter": 5}
