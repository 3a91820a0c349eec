"""Attack success rate (ASR), refusal rate and accuracy, by attack or dataset.

The `measure` of a cell is the field of the verdicts that it counts: a rate of `harmful` verdicts is an ASR, a rate of
`refused` verdicts a refusal rate, and a rate of `correct` verdicts an accuracy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import get_args

from derta.errors import DataError, did_you_mean
from derta.records import Measure, Prompt, ReplyKey, Verdict
from derta.results import Cell, Place, cell_of, place_of
from derta.stats import Outcome, Rate, rate_over_seeds

PromptVerdict = tuple[Prompt, Verdict]
Outcomes = dict[ReplyKey, Outcome]
"""A judge's outcome for each reply."""
OutcomesByCell = dict[tuple[Place, str], dict[str, list[Outcome]]]
"""The outcomes of each prompt id, by the place and measure of a cell."""


def measure_of_verdicts(verdicts: Iterable[Verdict]) -> Measure:
    """Return the measure of a judge's verdicts: the only field of `harmful`, `refused` and `correct` that they fill.

    >>> measure_of_verdicts([Verdict(prompt_id="1", judge="harm"), Verdict(prompt_id="2", judge="harm", harmful=True)])
    'harmful'

    Raises:
        DataError: The verdicts fill none of the fields, or several.
    """
    measures: tuple[Measure, ...] = get_args(Measure)
    verdicts = list(verdicts)
    filled: list[Measure] = [
        measure for measure in measures if any(verdict.outcome(measure) is not None for verdict in verdicts)
    ]
    if len(filled) != 1:
        raise DataError(
            f"measure: expected verdicts that fill one of {', '.join(measures)}, got {' and '.join(filled) or 'none'}; "
            "pass `measure=`"
        )
    return filled[0]


def check_measure(measure: str) -> None:
    """Validate the name of a measure.

    Raises:
        DataError: Unknown measure; the message suggests the closest valid name.
    """
    measures: tuple[str, ...] = get_args(Measure)
    if measure not in measures:
        raise DataError(f"measure: unknown {measure!r}; {did_you_mean(measure, measures)}")


def outcome_of(verdict: Verdict, measure: Measure) -> Outcome:
    """Return the outcome of a verdict: its field of the measure, or `unanswered` without a reply."""
    return "unanswered" if verdict.unanswered else verdict.outcome(measure)


def outcomes_by_key(verdicts: Iterable[Verdict], measure: Measure) -> Outcomes:
    """Return the outcome of each reply, by reply key.

    Raises:
        DataError: A reply has two verdicts, or the measure is unknown.
    """
    check_measure(measure)
    outcomes: Outcomes = {}
    for verdict in verdicts:
        if verdict.key in outcomes:
            raise DataError(
                f"expected one verdict on prompt {verdict.prompt_id!r} (sample {verdict.sample}) from "
                f"{verdict.judge!r}, got two; judge each seed's replies once"
            )
        outcomes[verdict.key] = outcome_of(verdict, measure)
    return outcomes


def unit_of(prompt: Prompt) -> str:
    """Return the key of the independent unit that a prompt belongs to: its id, or the request that it is a draw for.

    >>> prompt = Prompt(id="best_of_n:7#3", request_id="7", attack="best_of_n", mode="raw", text="?", draw=3)
    >>> unit_of(prompt), unit_of(prompt.model_copy(update={"draw": None}))
    ('request 7 ', 'best_of_n:7#3')
    """
    return prompt.id if prompt.draw is None else f"request {prompt.request_id} {prompt.request or ''}"


def outcomes_by_prompt(
    outcomes: Iterable[Outcomes], units: Mapping[str, str] | None = None
) -> dict[str, list[Outcome]]:
    """Return the outcomes of all samples and seeds of each prompt, by prompt id, or by its unit in `units`."""
    grouped: dict[str, list[Outcome]] = {}
    for one in outcomes:
        for (prompt_id, _), value in one.items():
            unit = prompt_id if units is None else units[prompt_id]
            grouped.setdefault(unit, []).append(value)
    return grouped


def rate(verdicts: Iterable[Verdict | Outcome], *, measure: Measure | None = None) -> Rate:
    """Compute the share of true verdicts (or plain outcomes) with its 95 % Wilson interval; None is unscored.

    >>> result = rate([Verdict(prompt_id=str(i), judge="harm", harmful=i < 2) for i in range(40)])
    >>> result.value, round(result.low or 0, 3), round(result.high or 0, 3), result.scored
    (0.05, 0.014, 0.165, 40)
    >>> rate([True, False, None]).unscored
    1

    Samples of one prompt are not independent: see `derta.stats.rate_over_seeds`.

    Args:
        verdicts: Verdicts of one judge, or outcomes.
        measure: Field of the verdicts to count; by default the only one that the verdicts fill.

    Raises:
        DataError: Two verdicts on one reply, or verdicts that fill several fields and no `measure`.
    """
    inputs = list(verdicts)
    records = [one for one in inputs if isinstance(one, Verdict)]
    outcomes: list[Outcome] = [one for one in inputs if not isinstance(one, Verdict)]
    if not records:
        return rate_over_seeds([[one] for one in outcomes])
    if outcomes:
        raise DataError("expected verdicts or outcomes, got both; pass one kind")
    measure = measure or measure_of_verdicts(records)
    return rate_over_seeds(list(outcomes_by_prompt([outcomes_by_key(records, measure)]).values()))


def verdicts_by_place(judged: Iterable[PromptVerdict], *, by_category: bool = False) -> dict[Place, list[Verdict]]:
    """Return the verdicts of each place, in order of appearance; with `by_category`, without uncategorised prompts.

    Raises:
        DataError: A verdict belongs to another prompt.
    """
    places: dict[Place, list[Verdict]] = {}
    for prompt, verdict in judged:
        if verdict.prompt_id != prompt.id:
            raise DataError(f"expected a verdict on prompt {prompt.id!r}, got one on {verdict.prompt_id!r}; join by id")
        if not by_category or prompt.category is not None:
            places.setdefault(place_of(prompt, by_category=by_category), []).append(verdict)
    return places


def outcomes_by_place(
    by_seed: Iterable[Iterable[PromptVerdict]], measure: Measure, *, by_category: bool = False
) -> dict[Place, dict[str, list[Outcome]]]:
    """Return the outcomes of all seeds and samples of each unit (`unit_of`), by place.

    Raises:
        DataError: A reply has two verdicts, or a verdict belongs to another prompt.
    """
    places: dict[Place, list[Outcomes]] = {}
    units: dict[str, str] = {}
    for judged in map(list, by_seed):
        units |= {prompt.id: unit_of(prompt) for prompt, _ in judged}
        for place, verdicts in verdicts_by_place(judged, by_category=by_category).items():
            places.setdefault(place, []).append(outcomes_by_key(verdicts, measure))
    return {place: outcomes_by_prompt(outcomes, units) for place, outcomes in places.items()}


def rate_cells(
    *by_seed: Iterable[PromptVerdict],
    method: str,
    seed: int | None,
    judge: str,
    measure: Measure,
    by_category: bool = False,
) -> list[Cell]:
    """Compute a method's rates with Wilson intervals: a cell for each attack or dataset (and category, optionally).

    Several seeds are pooled by prompt (see `derta.stats.rate_over_seeds`); pass `seed=None` for them.

    Args:
        by_seed: Prompts with one judge's verdicts, an argument for each seed.
        method: Name of the method, stored in the cells.
        seed: Seed of the method; None for pooled seeds.
        judge: Name of the judge.
        measure: Field of the verdicts to count.
        by_category: Split the cells by category, without uncategorised prompts; by default a cell has all categories.
    """
    places = outcomes_by_place(by_seed, measure, by_category=by_category)
    outcomes: OutcomesByCell = {(place, measure): prompts for place, prompts in places.items()}
    return cells_of(outcomes, method=method, seed=seed, judge=judge)


def cells_of(outcomes: OutcomesByCell, *, method: str, seed: int | None, judge: str) -> list[Cell]:
    """Compute a cell for each place and measure, from the outcomes by prompt."""
    return [
        cell_of(
            rate_over_seeds(list(prompts.values())), place=place, method=method, seed=seed, judge=judge, measure=measure
        )
        for (place, measure), prompts in outcomes.items()
    ]
