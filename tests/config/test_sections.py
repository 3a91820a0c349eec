from typing import Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from derta.config import Section, SourceSection
from derta.config.sections import walk


class Inner(Section):
    depth: int = 0


class Outer(Section):
    inner: Inner | Literal["none"] | None = None
    listed: tuple[Inner, ...] = ()
    by_name: dict[str, tuple[SourceSection, ...]] = Field(default_factory=dict)


def test_a_section_is_frozen_and_refuses_unknown_keys():
    source = SourceSection(path="a.jsonl")
    with pytest.raises(ValidationError, match="frozen"):
        source.path = "b.jsonl"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValidationError, match="Extra inputs"):
        SourceSection.model_validate({"path": "a.jsonl", "pth": "x"})


def test_a_source_has_the_training_split_in_any_format_and_all_of_its_rows():
    source = SourceSection(path="a.jsonl")
    assert (source.format, source.split, source.limit) == ("auto", "train", None)
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        SourceSection(path="a.jsonl", limit=0)


@pytest.mark.parametrize(
    ("location", "keys", "section"),
    [
        ((), [], Outer),
        (("inner", "depth"), ["inner", "depth"], Inner),
        (("inner", "Inner", "depth"), ["inner", "depth"], Inner),
        (("inner", "literal['none']"), ["inner"], Inner),
        (("listed", 3, "depth"), ["listed", "3", "depth"], Inner),
        (("listed", 3, "dpth"), ["listed", "3"], Inner),
        (("by_name", 0, "path"), ["by_name", "0", "path"], SourceSection),
    ],
)
def test_the_location_of_an_error_is_its_keys_without_the_tags_of_unions(location, keys, section: type[BaseModel]):
    assert walk(location, start=Outer) == (keys, section)


def test_the_location_of_a_real_error_leads_to_the_section_with_the_unknown_key():
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"inner": {"dpth": 3}})
    location = next(error["loc"] for error in caught.value.errors() if error["type"] == "extra_forbidden")
    keys, section = walk(location, start=Outer)
    assert (keys, section) == (["inner"], Inner)
