"""Pairwise preferences to a win rate; a tie is half a win."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from derta.results import Cell, Comparison, cell_of
from derta.stats import rate, sign_test, wilson_bounds

JUDGE = "pairwise"
Better = Literal["ours", "theirs", "tie"]
_POINTS: dict[Better, float] = {"ours": 1.0, "tie": 0.5, "theirs": 0.0}


def win_rate_cell(preferences: Sequence[Better | None], *, first: str, second: str) -> Cell:
    """The share of prompts won, ties counted half, with a Wilson interval; None is unscored.

    Ties vary less than wins and losses do, so that with ties the interval is somewhat too wide, never too narrow.

    >>> cell = win_rate_cell(["ours", "ours", "tie", "theirs", None], first="a", second="b")
    >>> cell.value, cell.scored, cell.unscored
    (0.625, 4, 1)
    """
    points = [_POINTS[one] for one in preferences if one is not None]
    value = sum(points) / len(points) if points else None
    low, high = (None, None) if value is None else wilson_bounds(value, len(points))
    return Cell(
        method=first,
        seed=None,
        suite="helpfulness",
        name=f"against {second}",
        judge=JUDGE,
        measure="win_rate",
        value=value,
        low=low,
        high=high,
        scored=len(points),
        unscored=len(preferences) - len(points),
    )


def order_cell(orders: Sequence[tuple[Better | None, ...]], *, first: str, second: str) -> Cell:
    """The share of prompts on which the order of the replies decided, of those asked about: how far to trust the judge.

    Each entry is what was said in the one order and in the other; empty where nothing was asked.
    """
    decided = [None if None in said else len(set(said)) > 1 for said in orders if said]
    name = f"against {second}"
    return cell_of(
        rate(decided), method=first, seed=None, suite="analysis", name=name, judge=JUDGE, measure="order_decided"
    )


def preference_comparison(preferences: Sequence[Better | None], *, first: str, second: str) -> Comparison | None:
    """Wins against losses by the exact sign test, ties apart; None where nothing was scored."""
    points = [2 * _POINTS[one] - 1 for one in preferences if one is not None]
    if not points:
        return None
    test = sign_test(points)
    won = (sum(points) / len(points) + 1) / 2
    return Comparison(
        first=first,
        second=second,
        suite="helpfulness",
        name=f"against {second}",
        judge=JUDGE,
        measure="win_rate",
        first_value=won,
        second_value=1 - won,
        **test._asdict(),
        p_holm=test.p_value,
    )
