"""Names of data sets that are part of the package: `derta:NAME` instead of a path."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from os.path import expanduser
from pathlib import Path
from typing import NamedTuple

from derta.errors import DataError, did_you_mean

PREFIX = "derta:"


class ShippedSet(NamedTuple):
    """A data set of the package: what its rows are, the key of a recipe that it is for, and its licence."""

    description: str
    use: str
    licence: str = "Apache-2.0"


SHIPPED: Mapping[str, ShippedSet] = {
    "ordinary_sorry": ShippedSet("110 harmless requests; a good answer says sorry in the ordinary way.", "evaluate"),
    "ordinary_sorry_counter": ShippedSet("60 other requests with answers that say sorry once.", "data.counter"),
    "ordinary_sorry_prefilled": ShippedSet("110 prompts whose answer has begun and says sorry.", "evaluate: prompts"),
}
"""The data sets of the package by name."""


def shipped_sets() -> dict[str, Path]:
    """Return the files of the shipped data sets by name.

    >>> "ordinary_sorry" in shipped_sets()
    True
    """
    folder = Path(str(files("derta.sources"))) / "sets"
    return {path.stem: path for path in sorted(folder.iterdir())}


def expand_name(source: str) -> str:
    """Return the path of a shipped data set for `derta:NAME`, and other texts with their leading `~` expanded.

    >>> Path(expand_name("derta:ordinary_sorry")).name, expand_name("a/b.jsonl")
    ('ordinary_sorry.jsonl', 'a/b.jsonl')

    Raises:
        DataError: no data set has the name.
    """
    if not source.startswith(PREFIX):
        return expanduser(source)  # noqa: PTH111 - Path.expanduser raises where there is no home
    name, known = source.removeprefix(PREFIX), shipped_sets()
    if name not in known:
        raise DataError(f"{source}: expected a data set of derta, {did_you_mean(name, known)}")
    return str(known[name])
