"""What sections of a recipe are made of, and how a fault in one is found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A part of a recipe; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceSection(Section):
    """A file (JSON, JSONL, CSV, Parquet, zip) or hub data set, and how its rows are read."""

    path: str
    format: str = "auto"
    split: str = "train"
    limit: int | None = Field(default=None, ge=1)


def walk(loc: tuple[int | str, ...], *, start: type[BaseModel]) -> tuple[list[str], type[BaseModel]]:
    """The known keys of a fault's path, without the tags that pydantic puts in for unions, and the last section."""
    keys: list[str] = []
    section = start
    for part in loc:
        if isinstance(part, int):
            keys.append(str(part))
        elif part in section.model_fields:
            keys.append(part)
            section = next(_sections(section.model_fields[part].annotation), section)
    return keys, section


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that an annotation names, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)
