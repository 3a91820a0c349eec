"""Models of a recipe: the one that its methods train, and others that are evaluated as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, cast

from pydantic import Field, model_validator

from derta.config.rows import RowConfig
from derta.config.sections import Section
from derta.errors import RecipeError
from derta.records import REFUSAL_WORDS


class ModelSection(Section):
    """The `model` section of a recipe: the model to tune, a local folder or a hub id.

    Attributes:
        path: Folder or hub id (`org/name`).
        revision: Branch, tag or commit of a hub id, the same as `org/name@revision` as `path`.
        template: Chat template: `auto` (the tokenizer's), the name of one of its templates, `paper`, `paper_eval`, or
            the path of a Jinja file.
        template_kwargs: Variables of the template, such as `enable_thinking: false`.
        template_date: The date that a template writes instead of today's, as YYYY-MM-DD.
        thinking: Whether replies of a model that thinks begin with its thought, as in use. Otherwise they follow an
            empty thought, as in the training rows.
        refusal_words: Words that start a refusal.
        trust_remote_code: Run the Python code of the model.

    >>> ModelSection(path="org/name", revision="v2").path
    'org/name@v2'
    """

    PATHS = ("path", "template")

    path: str
    revision: str | None = None
    template: str = RowConfig.template
    template_kwargs: dict[str, Any] = Field(default_factory=dict)
    template_date: str = RowConfig.template_date
    thinking: bool = True
    refusal_words: tuple[str, ...] = Field(default=REFUSAL_WORDS, min_length=1)
    trust_remote_code: bool = RowConfig.trust_remote_code

    @model_validator(mode="before")
    @classmethod
    def _join_revision(cls, values: Any) -> Any:
        """Move the revision into the path, where every loader and every hash finds it."""
        if not isinstance(values, Mapping):
            return values
        given = cast("Mapping[str, Any]", values)
        path, revision = given.get("path"), given.get("revision")
        if not isinstance(path, str) or not isinstance(revision, str):
            return given
        if "@" in path:
            raise RecipeError(f"model.path: expected one revision, got {path!r:.80} and {revision!r:.80}; remove one")
        return {**given, "path": f"{path}@{revision}", "revision": None}


class OtherModel(ModelSection):
    """A model that is not trained but evaluated like the recipe's, with its own chat template.

    In a recipe it is an entry of `methods`, with a `name` in addition: an instruct model, or another defence.

    Attributes:
        adapter: PEFT adapter of the model: a folder or hub id.
    """

    PATHS = ("path", "template", "adapter")

    adapter: str | None = None

    @model_validator(mode="after")
    def _has_no_words(self) -> Self:
        if self.refusal_words != REFUSAL_WORDS:
            raise RecipeError(
                "methods: expected no refusal_words, because all models are judged by those of `model`; remove it"
            )
        return self


METHODS_SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": {
        "anyOf": [
            {"type": "string"},
            {
                "type": "object",
                "required": ["name", "path"],
                "properties": {key: {} for key in OtherModel.model_fields} | {"name": {"type": "string"}},
                "additionalProperties": False,
            },
        ]
    },
}
"""JSON schema of `methods`, whose entries are names or models."""


def split_methods(values: Any) -> Any:
    """Return a recipe's values with the models among its `methods` under `models`, and only names in `methods`.

    >>> split_methods({"methods": ["base", {"name": "rival", "path": "org/rival"}]})
    {'methods': ['base', 'rival'], 'models': {'rival': {'path': 'org/rival'}}}

    Raises:
        RecipeError: an entry has no name, or two have the same.
    """
    entries = cast("Mapping[str, Any]", values).get("methods") if isinstance(values, Mapping) else None
    if not isinstance(entries, list | tuple) or not any(isinstance(one, Mapping) for one in cast("list[Any]", entries)):
        return values
    models: dict[str, Any] = dict(values.get("models") or {})
    names: list[Any] = []
    for entry in cast("list[Any]", entries):
        if not isinstance(entry, Mapping):
            names.append(entry)
            continue
        model = dict(cast("Mapping[str, Any]", entry))
        name = model.pop("name", None)
        if not isinstance(name, str):
            raise RecipeError(
                f"methods: expected a name for each model, such as {{name: rival, path: org/rival}}, got {name!r:.80}"
            )
        if name in models:
            raise RecipeError(f"methods: expected a different name for each model, got {name!r:.80} twice")
        models[name] = model
        names.append(name)
    return {**values, "methods": names, "models": models}
