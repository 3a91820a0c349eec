"""Write `src/derta/config/training_fields.json`: type, default and description of the supported training arguments.

They are fields of Hugging Face's `TrainingArguments`; with the file, a recipe is checked, and its schema written,
without importing torch.

Usage: python scripts/training_fields.py

The descriptions are the first sentences of the docstring of the pinned transformers (Apache-2.0).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter
from transformers import TrainingArguments

from derta.config import WORKING
from derta.train.checks import defaults_of
from derta.train.config import DertaConfig

TARGET = Path(__file__).parents[1] / "src/derta/config/training_fields.json"
_ENTRY = re.compile(r"^ {8}(\w+) \([^\n]*\):\n((?:(?: {12}[^\n]*)?\n)+)", re.MULTILINE)


def training_fields() -> dict[str, dict[str, Any]]:
    """Return the type (as JSON schema), the default and the description of each field, by name."""
    hints, defaults = get_type_hints(DertaConfig, include_extras=True), defaults_of(DertaConfig)
    described = {"num_train_epochs": "Number of training epochs.", "full_determinism": "Use deterministic kernels."}
    described |= dict(_descriptions(TrainingArguments.__doc__ or ""))
    return {
        name: {
            "schema": _schema(hints[name]),
            "default": _plain(defaults[name]),
            "description": described.get(name, ""),
        }
        for name in sorted(WORKING)
    }


def _schema(hint: Any) -> dict[str, Any]:
    schema = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).json_schema()
    names = schema.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return inline(names[value["$ref"].rpartition("/")[2]])
            return {key: inline(one) for key, one in value.items() if key not in ("title", "description")}
        return [inline(one) for one in value] if isinstance(value, list) else value

    return _without_texts(inline(schema))


def _without_texts(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema where a text beside a choice of texts is left out: other texts are refused (`check_config`)."""
    options = schema.get("anyOf", [])
    if any("enum" in one for one in options):
        schema = {**schema, "anyOf": [one for one in options if one != {"type": "string"}]}
    return schema


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _descriptions(text: str) -> Iterator[tuple[str, str]]:
    for name, body in _ENTRY.findall(text):
        paragraph = " ".join(body.strip().split("\n\n")[0].split())
        yield name, re.split(r"(?<=[a-z`)])\. ", paragraph)[0].rstrip(".") + "."


if __name__ == "__main__":
    TARGET.write_text(json.dumps(training_fields(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
