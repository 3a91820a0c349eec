"""Verdicts to the numbers of a run: rates by method, seed and attack, comparisons and curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from derta.metrics.comparisons import compare, corrected, too_small_to_tell
from derta.metrics.depth import depth_curves
from derta.metrics.leakage import leakage_cell
from derta.metrics.over_refusal import over_refusal_cells
from derta.metrics.probability import probability_by_share, probability_by_token
from derta.metrics.rates import Judged, Measure, pooled_cells, rate_cells
from derta.metrics.refusal_position import late_refusal_cell, refusal_position_curves
from derta.records import Prompt, Reply, Suite, Verdict
from derta.results import METHODS_WITH_THE_FIRST, Cell, Comparison, Curve, Summary, Transcript, cell_of
from derta.run_folder import versions
from derta.stats import rate

MeasureOf = Callable[[str, Suite], Measure]
Pairs = Mapping[str, Sequence[tuple[str, str]]]
"""The methods that are compared, by question."""


class Outcome(NamedTuple):
    """One model's answers: replies and verdicts stand in the order of the prompts.

    `verdicts` hold, by judge, a verdict for each prompt that the judge is meant for, and None for the others.
    `probabilities` are of refusing, at each token of held-out harmful answers.
    """

    method: str
    seed: int
    prompts: Sequence[Prompt]
    replies: Sequence[Reply]
    verdicts: Mapping[str, Sequence[Verdict | None]]
    probabilities: Sequence[Sequence[float]] = ()

    def judged(self, judge: str, suite: Suite | None = None) -> list[Judged]:
        """The pairs of prompt and verdict of a judge, in one suite or all."""
        return [(prompt, verdict) for prompt, _, verdict in self.cases(judge) if suite in (None, prompt.suite)]

    def cases(self, judge: str) -> Iterator[tuple[Prompt, Reply, Verdict]]:
        """The prompts, replies and verdicts of a judge."""
        verdicts = self.verdicts.get(judge, ())
        for prompt, reply, verdict in zip(self.prompts, self.replies, verdicts, strict=False):
            if verdict is not None:
                yield prompt, reply, verdict


def summarize(
    outcomes: Sequence[Outcome],
    *,
    title: str,
    recipe: str,
    measure_of: MeasureOf,
    pairs: Pairs | None = None,
    notes: Sequence[str] = (),
) -> Summary:
    """Everything that `summary.json` holds.

    The methods of each pair are compared; without `pairs` the others with the first. Each question is corrected by
    itself, so what more is asked changes nothing of it, and only of the first it is told what is too small to tell.
    """
    methods = list(dict.fromkeys(outcome.method for outcome in outcomes))
    judges = list(dict.fromkeys(judge for outcome in outcomes for judge in outcome.verdicts))
    by_method = {method: [one for one in outcomes if one.method == method] for method in methods}
    places: list[tuple[str, Suite, Measure]] = [
        (judge, suite, measure_of(judge, suite)) for judge in judges for suite in _suites(outcomes, judge)
    ]
    cells = [cell for runs in by_method.values() for place in places for cell in _rates(runs, *place)]
    cells += [cell for runs in by_method.values() for cell in _analysis(runs)]
    breakdown = [
        cell for runs in by_method.values() for place in places for cell in _rates(runs, *place, by_category=True)
    ]
    pairs = pairs or {METHODS_WITH_THE_FIRST: [(methods[0], method) for method in methods[1:]]}
    answers: list[list[Comparison]] = []
    for question, asked in pairs.items():
        found = [one for first, second in asked for one in _compared(by_method[first], by_method[second], places)]
        answers.append(corrected(found, question))
    return Summary(
        title=title,
        recipe=recipe,
        versions=versions(),
        cells=tuple(cells),
        breakdown=tuple(breakdown) if len({cell.category for cell in breakdown}) > 1 else (),
        comparisons=tuple(one for comparisons in answers for one in comparisons),
        curves=tuple(curve for runs in by_method.values() for curve in _curves(runs, judges, measure_of)),
        notes=(*notes, *too_small_to_tell(answers[0])),
    )


def transcripts(outcomes: Sequence[Outcome]) -> list[Transcript]:
    """Every prompt with its reply and verdicts."""
    return [
        Transcript(
            method=one.method,
            seed=one.seed,
            prompt=prompt,
            reply=reply,
            verdicts=tuple(v for judged in one.verdicts.values() if (v := judged[i]) is not None),
        )
        for one in outcomes
        for i, (prompt, reply) in enumerate(zip(one.prompts, one.replies, strict=True))
    ]


def _suites(outcomes: Sequence[Outcome], judge: str) -> list[Suite]:
    return list(dict.fromkeys(prompt.suite for outcome in outcomes for prompt, _ in outcome.judged(judge)))


def _rates(
    runs: Sequence[Outcome], judge: str, suite: Suite, measure: Measure, *, by_category: bool = False
) -> list[Cell]:
    """Each seed's cells, and where there are several seeds the pooled ones."""
    settings: dict[str, Any] = {
        "method": runs[0].method,
        "judge": judge,
        "measure": measure,
        "by_category": by_category,
    }
    by_seed = {run.seed: run.judged(judge, suite) for run in runs}
    pooled = pooled_cells(by_seed, **settings) if len(by_seed) > 1 else []
    if by_category and pooled:
        return pooled
    return [*(cell for seed, judged in by_seed.items() for cell in rate_cells(judged, seed=seed, **settings)), *pooled]


def _compared(
    first: Sequence[Outcome], second: Sequence[Outcome], places: Sequence[tuple[str, Suite, Measure]]
) -> list[Comparison]:
    return [
        one
        for judge, suite, measure in places
        for one in compare(
            {run.seed: run.judged(judge, suite) for run in first},
            {run.seed: run.judged(judge, suite) for run in second},
            first_name=first[0].method,
            second_name=second[0].method,
            judge=judge,
            measure=measure,
        )
    ]


def _analysis(runs: Sequence[Outcome], judge: str = "refusal") -> Iterator[Cell]:
    """Of attacks: how late refusals come and how much is out before them. Of benign prompts: half-hearted answers."""
    method = runs[0].method
    seed = runs[0].seed if len(runs) == 1 else None
    cases = [case for run in runs for case in run.cases(judge)]
    attacked = [case for case in cases if case[0].suite == "attack"]
    if attacked:
        late = [(reply, verdict) for _, reply, verdict in attacked]
        yield late_refusal_cell(late, method=method, seed=seed, name="all attacks", judge=judge)
    for name in dict.fromkeys(prompt.cell for prompt, _, _ in attacked):
        own = [case for case in attacked if case[0].cell == name]
        yield leakage_cell(own, method=method, seed=seed, name=name, judge=judge)
    yield from over_refusal_cells(cases, method=method, seed=seed, judge=judge)
    for name in dict.fromkeys(prompt.cell for prompt, _, _ in cases if prompt.suite != "attack"):
        broken = rate([v.reply_class == "degenerate" for p, _, v in cases if p.suite != "attack" and p.cell == name])
        yield cell_of(broken, method=method, seed=seed, suite="analysis", name=name, judge=judge, measure="degenerate")


def _curves(runs: Sequence[Outcome], judges: Sequence[str], measure_of: MeasureOf) -> Iterator[Curve]:
    method = runs[0].method
    refusals = [(r, v) for run in runs for p, r, v in run.cases("refusal") if p.suite == "attack"]
    yield from refusal_position_curves(refusals, method=method, name="all attacks")
    for judge in judges:
        judged = [pair for run in runs for pair in run.judged(judge, "attack")]
        yield from depth_curves(judged, method=method, measure=measure_of(judge, "attack"))
    probabilities = [row for run in runs for row in run.probabilities]
    for curve in (
        probability_by_token(probabilities, method=method, name="held-out harmful answers"),
        probability_by_share(probabilities, method=method, name="held-out harmful answers"),
    ):
        if curve is not None:
            yield curve
