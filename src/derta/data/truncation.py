"""Truncation of rows that are longer than the limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

MIN_PROMPT_TOKENS = 16
"""Tokens of a prompt that truncation leaves."""


def cut_middle(ids: Sequence[T], length: int) -> Sequence[T]:
    """Return the ids (or what belongs to each) truncated to `length` by removing the middle.

    So the template's head and tail remain.

    >>> cut_middle([1, 2, 3, 4, 5], 3)
    [1, 2, 5]
    """
    if len(ids) <= length:
        return ids
    tail = length // 2
    return [*ids[: length - tail], *ids[len(ids) - tail :]] if tail else list(ids[:length])
