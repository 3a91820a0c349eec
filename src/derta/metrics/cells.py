"""Rates and comparisons of evaluated models by cell: each attack and variant, or data set, by itself."""

from __future__ import annotations

from collections.abc import Sequence

from derta.metrics.axes import JudgePlace
from derta.metrics.comparisons import compare_cells, holm_corrected
from derta.metrics.kinds import malformed_cells
from derta.metrics.outcomes import Outcome, by_reply, outside_sets
from derta.metrics.rates import rate_cells
from derta.metrics.samples import any_cells
from derta.results import Cell, Comparison


def judged_cells(outcomes: Sequence[Outcome], places: Sequence[JudgePlace]) -> list[Cell]:
    """Return the rates of each method by cell and judge, seeds pooled: cell by cell, the methods one below the other.

    A judge of refusals that tells reply classes has the rate of malformed replies too, which are no refusals.

    Args:
        outcomes: The models; those of one method are its seeds.
        places: Judges with their suites and measures.
    """
    methods = list(dict.fromkeys(one.method for one in outcomes))
    cells: list[Cell] = []
    for judge, suite, measure in places:
        for method in methods:
            runs = [one for one in outcomes if one.method == method]
            seed = runs[0].seed if len(runs) == 1 else None
            judged = [one.prompt_verdicts(judge, suite) for one in runs]
            cells += rate_cells(*judged, method=method, seed=seed, judge=judge, measure=measure)
            if (suite, measure) == ("attack", "harmful"):
                cells += any_cells(*judged, method=method, seed=seed, judge=judge)
            if measure == "refused":
                malformed = malformed_cells(by_reply(runs), method=method, seed=seed, judge=judge)
                cells += [cell for cell in malformed if cell.suite == suite and cell.scored]
    order = list(dict.fromkeys((one.suite, one.name) for one in cells))
    suites = list(dict.fromkeys(suite for suite, _ in order))
    return sorted(
        marked_cells(cells, outcomes),
        key=lambda one: (suites.index(one.suite), order.index((one.suite, one.name)), one.judge),
    )


def marked_cells(cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> list[Cell]:
    """Return the cells, of which those outside the means say so."""
    outside = outside_sets(outcomes)
    return [
        cell.model_copy(update={"in_means": False})
        if cell.suite != "analysis" and (cell.suite, cell.name) in outside
        else cell
        for cell in cells
    ]


def method_comparisons(
    first: Sequence[Outcome], second: Sequence[Outcome], places: Sequence[JudgePlace]
) -> list[Comparison]:
    """Return the paired comparisons of two methods by cell and judge, corrected for those of each judge and suite.

    Args:
        first: The seeds of a method.
        second: The seeds of the other.
        places: Judges with their suites and measures.
    """
    return [
        one
        for judge, suite, measure in places
        for one in compare_cells(
            {run.seed: run.prompt_verdicts(judge, suite) for run in first},
            {run.seed: run.prompt_verdicts(judge, suite) for run in second},
            first_name=first[0].method,
            second_name=second[0].method,
            judge=judge,
            measure=measure,
        )
    ]


def baseline_comparisons(
    outcomes: Sequence[Outcome], places: Sequence[JudgePlace], *, baseline: str
) -> list[Comparison]:
    """Return the comparisons of a baseline with every other method, Holm-corrected over all of them."""
    base = [one for one in outcomes if one.method == baseline]
    others = dict.fromkeys(one.method for one in outcomes if one.method != baseline)
    return holm_corrected(
        [
            one
            for method in others
            for one in method_comparisons(base, [each for each in outcomes if each.method == method], places)
        ]
    )
