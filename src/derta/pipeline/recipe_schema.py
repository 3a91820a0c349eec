"""JSON schema of recipe files, for editors: every key with its description, type and default."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema

from derta.attacks import ATTACKS
from derta.config import ELSEWHERE, Recipe, RowConfig, Section, training_fields
from derta.config.recipe import DEFINING
from derta.config.recipe_file import INCLUDE
from derta.config.rows import field_adapters
from derta.docstrings import documented, summary
from derta.engines import ENGINES
from derta.files import write_text
from derta.judges import JUDGES
from derta.methods import METHODS

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SOURCES = ("SourceSection", "AnswerSource")
_DEFINED = {
    "method": "Method that this entry is a variant of, under its own name.",
    "init_from": "Method whose model initialises this one.",
}


def recipe_schema() -> Schema:
    """Return the JSON schema of a recipe file; values that only Python can pass, such as custom attacks, are texts.

    >>> recipe_schema()["properties"]["title"]["description"]
    'Title of the report. A recipe file without one has its own name, without `.yaml`.'
    """
    schema: Schema = Recipe.model_json_schema()
    sections = schema["$defs"]
    for kind in (Recipe, *_subclasses(Section)):
        if (section := schema if kind is Recipe else sections.get(kind.__name__)) is not None:
            _describe(section, kind)
    for section in (schema, *sections.values()):
        _allow_paths(section)
    _add_training(schema)
    _add_names(schema)
    include = {
        "type": "string",
        "description": "Another recipe file, relative to this one, whose values this one adds to.",
    }
    schema["properties"] = {INCLUDE: include, **schema["properties"]}
    schema["required"] = []  # an included file may have them
    for name in ("ModelSection", "DataSection", *_SOURCES):
        sections[name]["required"] = []
    return {"$schema": DIALECT, **schema, "title": "derta recipe", "description": "A run of derta."}


def _subclasses(kind: type[Section]) -> Iterator[type[Section]]:
    for one in kind.__subclasses__():
        yield one
        yield from _subclasses(one)


def _describe(schema: Schema, kind: type[Section]) -> None:
    """Replace a section's docstring by its first sentence, and titles by the descriptions of the keys."""
    texts = {name: text for base in reversed(kind.__mro__) for name, text in documented(base, "Attributes").items()}
    schema["description"] = summary(kind)
    schema.pop("title", None)
    for name, value in schema.get("properties", {}).items():
        value.pop("title", None)
        if name in texts:
            value["description"] = texts[name]


def _allow_paths(section: Schema) -> None:
    """Allow the text of a path in place of a source, one source in place of a list, and a judge's name."""
    for value in section.get("properties", {}).values():
        items = value.get("items", {})
        if _refers(items, _SOURCES):
            one = {"anyOf": [{"type": "string"}, items]}
            value.update(anyOf=[{"type": "string"}, items, {"type": "array", "items": one}])
            del value["items"], value["type"]
        elif any(_refers(one, _SOURCES) for one in value.get("anyOf", [])):
            value["anyOf"].insert(0, {"type": "string"})
        elif _refers(items, ("JudgeConfig",)):
            value["items"] = {"anyOf": [{"type": "string"}, items]}
    if "steps" in section.get("properties", {}):
        section["properties"]["steps"]["anyOf"].append({"type": "integer", "minimum": 1})


def _refers(value: Mapping[str, Any], names: tuple[str, ...]) -> bool:
    return value.get("$ref", "").rpartition("/")[2] in names


def _add_training(schema: Schema) -> None:
    """Write the keys of `train`, and those of `method_settings`, of which a method may add its own."""
    sections = schema["$defs"]
    lora: Schema = {"anyOf": [{"type": "boolean"}, {"$ref": "#/$defs/LoraSection"}, {"type": "null"}], "default": None}
    lora["description"] = documented(Recipe.model_fields["train"].annotation, "Attributes")["lora"]
    settings = {name: dict(value) for name, value in _settings() if name not in ELSEWHERE}
    sections["TrainSection"] = {
        "type": "object",
        "description": "Training: settings of derta's rows and losses, and Hugging Face's training arguments.",
        "properties": {"lora": lora, **settings},
        "additionalProperties": False,
    }
    texts = {name: {"type": "string", "description": _DEFINED[name]} for name in DEFINING}
    threshold = sections["GenerateSection"]["properties"]["refusal_threshold"]
    own = {"type": "object", "properties": {**texts, "refusal_threshold": threshold, **settings}}
    schema["properties"]["method_settings"]["additionalProperties"] = own


def _settings() -> Iterator[tuple[str, Schema]]:
    texts = documented(RowConfig, "Attributes")
    defaults = vars(RowConfig())
    for name, adapter in field_adapters(RowConfig).items():
        try:
            value = adapter.json_schema()
        except PydanticInvalidForJsonSchema:
            value = {}
        value.pop("default", None)
        default = defaults[name]
        yield (
            name,
            {**value, "default": list(default) if isinstance(default, tuple) else default, "description": texts[name]},
        )
    for name, one in training_fields().items():
        yield name, {**one.schema, "default": one.default, "description": one.description}


def _add_names(schema: Schema) -> None:
    """Offer the names of attacks, their options, judges, methods and engines; other names stay valid."""
    sections = schema["$defs"]
    evaluation = sections["EvaluationSection"]
    evaluation["properties"]["attack"].update(_named(ATTACKS))
    evaluation["allOf"] = [
        {
            "if": {"properties": {"attack": {"const": name}}, "required": ["attack"]},
            "then": {"properties": {"options": {"type": "object", "properties": options}}},
        }
        for name, attack in ATTACKS.items()
        if (options := _options(attack))
    ]
    judges = evaluation["properties"]["judges"]["items"]["anyOf"]
    judges[0] = {"type": "string", **_named(JUDGES)}
    sections["JudgeConfig"]["properties"]["name"].update(_named(JUDGES))
    for name in ("JudgeConfig", "EngineConfig"):
        sections[name]["properties"]["engine"]["enum"] = [*ENGINES]
    methods = schema["properties"]["methods"]
    methods["items"] = {"anyOf": [{"enum": [*METHODS]}, *methods["items"].get("anyOf", [methods["items"]])]}


def _named(names: Mapping[str, object]) -> Schema:
    return {"anyOf": [{"enum": [*names]}, {"type": "string"}]}


def _options(attack: Any) -> dict[str, Schema]:
    """Return the options of an attack, with their defaults and descriptions."""
    texts = documented(attack, "Args")
    return {name: _option(one, texts.get(name, "")) for name, one in signature(attack).parameters.items()}


def _option(parameter: Parameter, text: str) -> Schema:
    default = parameter.default
    value: Schema = {"description": text} if text else {}
    if default is not Parameter.empty:
        value["default"] = TypeAdapter(Any).dump_python(default, mode="json")
    return value


def write_schema(out: Path) -> None:
    """Write the schema of recipes to a file.

    Raises:
        RunError: the file cannot be written.
    """
    write_text(out, json.dumps(recipe_schema(), indent=1, ensure_ascii=False) + "\n")
