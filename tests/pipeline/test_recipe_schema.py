"""The JSON schema of recipes: every key is described, and the shipped recipes fit it."""

import json
from pathlib import Path

import pytest

from derta.attacks import ATTACKS
from derta.config import RowConfig, allowed_fields, read_values
from derta.pipeline.recipe_schema import recipe_schema

RECIPES = Path(__file__).parents[2] / "recipes"
SCHEMA = recipe_schema()
TYPES = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
    "object": dict,
    "array": (list, tuple),
}


def faults(value, schema, path="recipe"):
    """Faults of a value by the keywords that the schema of recipes has."""
    if "$ref" in schema:
        return faults(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], path)
    found = []
    for options in (schema.get("anyOf"), schema.get("oneOf")):
        if options and all(faults(value, one, path) for one in options):
            found.append(f"{path}: none of the alternatives")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{path}: {value!r} is not one of {schema['enum']}")
    kind = schema.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind in ("integer", "number"))):
        return [*found, f"{path}: {value!r} is no {kind}"]
    if isinstance(value, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        for name, one in value.items():
            inner = known.get(name, others)
            if inner is False:
                found.append(f"{path}.{name}: unknown")
            elif isinstance(inner, dict):
                found += faults(one, inner, f"{path}.{name}")
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        found += [fault for i, one in enumerate(value) for fault in faults(one, schema["items"], f"{path}.{i}")]
    return found


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_fit_the_schema(path):
    values = read_values(path)
    if path.parent.name not in ("accelerate", "goals"):
        assert faults(values, SCHEMA) == []


@pytest.mark.parametrize(
    "values",
    [
        {"titel": "x"},
        {"train": {"epochs": 1}},
        {"train": {"learning_rate": "fast"}},
        {"seeds": 3},
        {"data": {"triples": [3]}},
        {"evaluate": [{"suite": "attacks"}]},
        {"generate": {"engine": "api"}},
    ],
)
def test_the_schema_refuses_what_a_recipe_cannot_have(values):
    assert faults(values, SCHEMA)


@pytest.mark.parametrize(
    "values",
    [
        {"data": {"triples": "t.jsonl", "helpful": ["h.jsonl", {"path": "i.jsonl"}]}},
        {"train": {"lora": True}},
        {"evaluate": [{"requests": "held_out", "judges": ["refusal", {"name": "guideline", "model": "m"}]}]},
        {"fine_tuning_attacks": [{"name": "a", "steps": 3, "helpful": "h.jsonl"}]},
        {"include": "other.yaml"},
        {"methods": ["base", {"name": "rival", "path": "org/rival"}]},
    ],
)
def test_the_schema_has_the_short_forms(values):
    assert faults(values, SCHEMA) == []


def test_every_key_has_a_description():
    sections = {"Recipe": SCHEMA, **SCHEMA["$defs"]}
    missing = [
        f"{name}.{key}"
        for name, section in sections.items()
        for key, value in section.get("properties", {}).items()
        if not value.get("description")
    ]
    assert missing == []


def test_training_has_all_its_fields_with_their_defaults():
    properties = SCHEMA["$defs"]["TrainSection"]["properties"]
    assert {*properties} == {*allowed_fields(), "lora"}
    assert properties["sorry_dropout"]["default"] == RowConfig.sorry_dropout


def test_the_options_of_every_attack_are_offered_and_described():
    rules = SCHEMA["$defs"]["EvaluationSection"]["allOf"]
    offered = {rule["if"]["properties"]["attack"]["const"]: rule["then"]["properties"]["options"] for rule in rules}
    assert {*offered} <= {*ATTACKS}
    missing = [
        f"{attack}.{name}"
        for attack, options in offered.items()
        for name, option in options["properties"].items()
        if "description" not in option
    ]
    assert missing == []


def test_the_schema_is_printed_and_written(derta, tmp_path):
    assert json.loads(derta("schema").out) == json.loads(json.dumps(SCHEMA))
    called = derta("schema", "--out", tmp_path / "s.json")
    assert called.out.strip() == str(tmp_path / "s.json")
    assert json.loads((tmp_path / "s.json").read_text()) == json.loads(json.dumps(SCHEMA))
