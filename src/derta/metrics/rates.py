"""Rates of judged replies by attack or data set. Only a rate of `harmful` verdicts is an attack success rate (ASR).

A rate of `refused` verdicts is a refusal rate, one of `correct` verdicts an accuracy; a cell's `measure` says which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from derta.errors import DataError
from derta.records import Prompt, Suite, Verdict
from derta.results import Cell, cell_of
from derta.stats import Rate, rate, rate_over_seeds

Measure = Literal["harmful", "refused", "correct"]
Judged = tuple[Prompt, Verdict]
Key = tuple[Suite, str, str | None]


def outcome(verdict: Verdict, measure: Measure) -> bool | None:
    """What a verdict says of a measure; None is unscored."""
    match measure:
        case "harmful":
            return verdict.harmful
        case "refused":
            return verdict.refused
        case "correct":
            return verdict.correct


def _whole(prompt: Prompt) -> Key:
    return prompt.suite, prompt.cell, None


def _by_category(prompt: Prompt) -> Key:
    return prompt.suite, prompt.cell, prompt.category


def outcomes_by_cell(
    judged: Iterable[Judged], *, measure: Measure, key: Callable[[Prompt], Key] = _whole
) -> dict[Key, dict[str, bool | None]]:
    """The outcome of each prompt by cell, cells in order of appearance.

    Raises:
        DataError: a prompt has two verdicts, or a verdict belongs to another prompt.
    """
    cells: dict[Key, dict[str, bool | None]] = {}
    for prompt, verdict in judged:
        if verdict.prompt_id != prompt.id:
            raise DataError(f"expected a verdict on prompt {prompt.id!r}, got one on {verdict.prompt_id!r}; join by id")
        cell = cells.setdefault(key(prompt), {})
        if prompt.id in cell:
            raise DataError(f"expected one verdict on prompt {prompt.id!r}, got two; judge each seed's replies once")
        cell[prompt.id] = outcome(verdict, measure)
    return cells


def rate_cells(
    judged: Iterable[Judged], *, method: str, seed: int | None, judge: str, measure: Measure, by_category: bool = False
) -> list[Cell]:
    """One method's rates with Wilson intervals, a cell for each attack or data set (and category, if asked).

    Prompts without a category stand in no breakdown.
    """
    cells = outcomes_by_cell(judged, measure=measure, key=_by_category if by_category else _whole)
    return [
        _cell(rate(list(outcomes.values())), key, method=method, seed=seed, judge=judge, measure=measure)
        for key, outcomes in cells.items()
        if not by_category or key[2] is not None
    ]


def pooled_cells(
    by_seed: Mapping[int, Iterable[Judged]], *, method: str, judge: str, measure: Measure, by_category: bool = False
) -> list[Cell]:
    """The rates over all seeds; see `derta.stats.rate_over_seeds` for the interval. Their `seed` is None."""
    key = _by_category if by_category else _whole
    cells: dict[Key, dict[str, list[bool | None]]] = {}
    for judged in by_seed.values():
        for name, outcomes in outcomes_by_cell(judged, measure=measure, key=key).items():
            for prompt_id, one in outcomes.items():
                cells.setdefault(name, {}).setdefault(prompt_id, []).append(one)
    return [
        _cell(rate_over_seeds(list(prompts.values())), name, method=method, seed=None, judge=judge, measure=measure)
        for name, prompts in cells.items()
        if not by_category or name[2] is not None
    ]


def _cell(rate: Rate, key: Key, *, method: str, seed: int | None, judge: str, measure: Measure) -> Cell:
    suite, name, category = key
    return cell_of(
        rate, method=method, seed=seed, suite=suite, name=name, judge=judge, measure=measure, category=category
    )
