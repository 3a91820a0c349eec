"""Types, defaults and descriptions of Hugging Face's training arguments, without importing torch.

They are recorded in `training_fields.json` by `scripts/training_fields.py`; a test compares them with the pinned
version.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from types import SimpleNamespace
from typing import Annotated, Any, Literal, NamedTuple, Union

from pydantic import Field, TypeAdapter

from derta.config.combinations import faults_together
from derta.config.rows import ROW_FIELDS, RowConfig, field_adapters, value_faults
from derta.config.train import ELSEWHERE, REFUSED, RENAMED, allowed_fields
from derta.errors import RecipeError, did_you_mean

_TYPES: Mapping[str, Any] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "null": None,
    "object": dict[str, Any],
}


class TrainingField(NamedTuple):
    """A training argument: its type as JSON schema, its default, and one sentence on it."""

    schema: Mapping[str, Any]
    default: Any
    description: str


@cache
def training_fields() -> dict[str, TrainingField]:
    """Return the supported fields of `TrainingArguments` by name, also those that a recipe sets elsewhere (cached).

    >>> training_fields()["learning_rate"].default
    2e-05
    """
    text = (files("derta.config") / "training_fields.json").read_text(encoding="utf-8")
    return {name: TrainingField(**values) for name, values in json.loads(text).items()}


def setting_faults(values: Mapping[str, Any], *, where: str, own: Collection[str] = ()) -> Iterator[RecipeError]:
    """Yield an error for each training setting of a section that is unknown, or has a value that is not valid.

    >>> for fault in setting_faults({"max_step": 3, "bf16": "no!"}, where="train"):
    ...     print(fault)
    unknown key `train.max_step`; did you mean 'max_steps'?
    `train.bf16`: Input should be a valid boolean, unable to interpret input, got 'no!'

    Args:
        values: The settings.
        where: Key of the section.
        own: Names of fields that a method adds; they are set in its section only.
    """
    known = {*allowed_fields(), *own}
    for name in values:
        if name not in known:
            yield _unknown(name, where=where, known=known)
    for fault in value_faults(_adapters(), {name: value for name, value in values.items() if name in known}):
        yield fault.within(where)


def combination_faults(train: Mapping[str, Any], overrides: Mapping[str, Any], *, where: str) -> Iterator[RecipeError]:
    """Yield an error for each set of valid training settings that exclude each other or have no effect together.

    Args:
        train: The settings of the `train` section, with the method's own defaults.
        overrides: The settings of a method.
        where: Key of the overrides.
    """
    defaults = {name: one.default for name, one in training_fields().items()} | asdict(RowConfig())
    adapters, given = _adapters(), {**train, **overrides}
    parsed = {name: adapters[name].validate_python(value) for name, value in given.items() if name in adapters}
    for fault in faults_together(SimpleNamespace(**(defaults | parsed))):
        names = {*(fault.key or "").split(", ")}
        yield fault.within(where if names & overrides.keys() else "train")


def _unknown(name: str, *, where: str, known: set[str]) -> RecipeError:
    if reason := ELSEWHERE.get(name) or REFUSED.get(name):
        return RecipeError(f"`{where}.{name}`: cannot be set; {reason}")
    offer = f"did you mean {RENAMED[name]!r}?" if name in RENAMED else did_you_mean(name, sorted(known))
    return RecipeError(f"unknown key `{where}.{name}`; {offer}")


@cache
def _adapters() -> dict[str, TypeAdapter[Any]]:
    rows = {name: adapter for name, adapter in field_adapters(RowConfig).items() if name in ROW_FIELDS}
    return {name: TypeAdapter(_type_of(one.schema)) for name, one in training_fields().items()} | rows


def _type_of(schema: Mapping[str, Any]) -> Any:
    """Return the type that a JSON schema describes, of the few kinds that training arguments have."""
    if "anyOf" in schema:
        return Union[tuple(_type_of(one) for one in schema["anyOf"])]  # noqa: UP007 - of a tuple
    if "enum" in schema or "const" in schema:
        return Literal[tuple(schema.get("enum", [schema.get("const")]))]
    if schema.get("type") == "array":
        return list[_type_of(schema["items"])]
    limits = {"minimum": "ge", "exclusiveMinimum": "gt", "maximum": "le", "pattern": "pattern"}
    bounds = {limits[name]: value for name, value in schema.items() if name in limits}
    kind = _TYPES[schema["type"]] if "type" in schema else Any
    return Annotated[kind, Field(**bounds)] if bounds else kind
