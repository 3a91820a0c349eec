"""Base classes of recipe sections, and the location of validation errors in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from derta.sources.named import source_values


class Section(BaseModel):
    """Base class of recipe sections: frozen, and unknown keys are a validation error.

    Attributes:
        PATHS: Fields that are paths, where environment variables are expanded; `settings.NAME` is an item of a field.
    """

    PATHS: ClassVar[tuple[str, ...]] = ()

    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceSection(Section):
    """Configuration of a data source: a file, a folder of `datasets` or a hub dataset, and its format.

    Attributes:
        name: Name of a public data set (`derta list datasets`), which gives the other keys; with a `path`, that of a
            local copy, it gives the format.
        path: Path of a file or folder, or a hub id (`org/name`, or with a file of it `org/name:file`); see
            `derta.sources.read_rows`.
        format: Name of the format, or `auto` to detect it from the names of the columns.
        split: Split of a folder or a hub dataset.
        config: Configuration of a folder or a hub dataset that has several.
        columns: Names of columns in the source, by the names that the format has: `{prompt: question}`.
        limit: Maximum number of rows to use; None uses all.
    """

    PATHS = ("path",)

    name: Annotated[str | None, Field(exclude_if=lambda name: name is None)] = None
    path: str
    format: str = "auto"
    split: str = "train"
    config: str | None = Field(default=None, min_length=1)
    columns: dict[str, str] = Field(default_factory=dict)
    limit: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _read_name(cls, values: Any) -> Any:
        return source_values(cast("dict[str, Any]", values)) if isinstance(values, dict) else values


def _as_source(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


def _as_sources(value: Any) -> Any:
    """Return the value of a key with sources as a list; a text is the path of a source."""
    listed = [value] if isinstance(value, str | dict) else value
    return [_as_source(one) for one in cast("list[Any]", listed)] if isinstance(listed, list | tuple) else listed


S = TypeVar("S", bound=SourceSection)
Source = Annotated[S, BeforeValidator(_as_source)]
"""A source, or the text of its path."""
Sources = Annotated[tuple[S, ...], BeforeValidator(_as_sources)]
"""Sources as a list; one source, or the text of its path, is a list of one."""


def walk(loc: tuple[int | str, ...], *, start: type[BaseModel]) -> tuple[list[str], type[BaseModel]]:
    """Return the recipe keys in the location of a validation error, and the innermost section.

    The tags that pydantic adds for unions are left out; the name of a class as a tag chooses that section.
    """
    keys: list[str] = []
    section, of_mapping = start, False
    choices: list[type[BaseModel]] = []
    for part in loc:
        if isinstance(part, int) or of_mapping:
            keys.append(str(part))
            of_mapping = False
        elif part in section.model_fields:
            keys.append(part)
            annotation = section.model_fields[part].annotation
            choices = list(_sections(annotation))
            section = next(iter(choices), section)
            of_mapping = get_origin(annotation) is dict and section is not start
        else:
            section = next((one for one in choices if one.__name__ == part), section)
    return keys, section


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the section classes in an annotation, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)
