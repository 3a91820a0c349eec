"""The methods: what each makes of a triple."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Method(NamedTuple):
    """What a method makes of a triple, and how many triples it takes for each one that DeRTa takes.

    A method of `pairs` makes no rows: it goes on from the vanilla model with another loss (see `data/preferences.py`).
    """

    triples_per_unit: int
    harmful_prefix: bool
    rto: bool
    pairs: bool = False


METHODS: Mapping[str, Method] = {
    "vanilla": Method(triples_per_unit=2, harmful_prefix=False, rto=False),
    "vanilla_half": Method(triples_per_unit=1, harmful_prefix=False, rto=False),
    "harmful_prefix": Method(triples_per_unit=1, harmful_prefix=True, rto=False),
    "rto": Method(triples_per_unit=1, harmful_prefix=False, rto=True),
    "derta": Method(triples_per_unit=1, harmful_prefix=True, rto=True),
    "dpo": Method(triples_per_unit=1, harmful_prefix=False, rto=False, pairs=True),
}
