"""The reference page of all keys of a recipe, from the JSON schema that `derta schema` prints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]


def recipe_page(schema: Schema) -> str:
    """Return the page: a table of the recipe's own keys, then one of each section, under its first place."""
    lines = [
        "# All keys of a recipe",
        "",
        "From the schema that `derta schema` prints; `derta check RECIPE` checks a recipe with it. Completion in an",
        "editor: `derta schema --out derta.schema.json`, and the first line `# yaml-language-server:",
        "$schema=derta.schema.json`. A key without a default is required where its section is used.",
        "",
        *key_table(schema, schema),
    ]
    for place, section in sections_of(schema):
        lines += ["", f"## {place}", "", str(section.get("description", "")), "", *key_table(section, schema)]
    return "\n".join(lines)


def sections_of(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Yield each section of the schema with the first place where it is used, such as `data.triples`.

    >>> leaf = {"type": "object", "properties": {}}
    >>> root = {"properties": {"data": {"items": {"$ref": "#/$defs/Leaf"}}}, "$defs": {"Leaf": leaf}}
    >>> [(place, section is leaf) for place, section in sections_of(root)]
    [('data', True)]
    """
    seen: set[str] = set()
    waiting = [(key, one) for key, one in schema["properties"].items()]
    while waiting:
        place, one = waiting.pop(0)
        for name in _references(one):
            if name not in seen:
                seen.add(name)
                section = schema["$defs"][name]
                yield place, section
                waiting = [(f"{place}.{key}", inner) for key, inner in section.get("properties", {}).items()] + waiting


def _references(value: object) -> Iterator[str]:
    """Yield the names of the sections in the schema of a key, at any depth."""
    if isinstance(value, Mapping):
        if "$ref" in value:
            yield str(value["$ref"]).rpartition("/")[2]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def key_table(section: Schema, schema: Schema) -> Iterator[str]:
    """Yield the lines of the table of a section's keys."""
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    required = section.get("required", ())
    for key, one in section.get("properties", {}).items():
        default = "" if key in required or "default" not in one else f"`{_yaml(one['default'])}`"
        meaning = " ".join(str(one.get("description", "")).split())
        yield f"| `{key}` | {_escape(type_of(one, schema))} | {_escape(default)} | {_escape(meaning)} |"


def _yaml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def type_of(one: Schema, schema: Schema) -> str:
    """Return the type of a key as a reader of YAML names it.

    >>> type_of({"anyOf": [{"type": "integer"}, {"type": "null"}]}, {})
    'integer or null'
    >>> type_of({"type": "array", "items": {"enum": ["a", "b"]}}, {})
    'list of `a`, `b`'
    """
    if "$ref" in one:
        name = str(one["$ref"]).rpartition("/")[2]
        place = next((place for place, section in sections_of(schema) if section is schema["$defs"][name]), name)
        return f"[{place}](#{place.replace('.', '').lower()})"
    if "enum" in one:
        return ", ".join(f"`{value}`" for value in one["enum"])
    if "const" in one:
        return f"`{one['const']}`"
    if options := one.get("anyOf", one.get("oneOf")):
        return " or ".join(dict.fromkeys(type_of(option, schema) for option in options))
    if one.get("type") == "array":
        inner = one.get("items") or {}
        return f"list of {type_of(inner, schema)}" if inner else "list"
    return {"object": "mapping", "string": "text", "number": "number"}.get(
        str(one.get("type")), str(one.get("type", "any"))
    )
