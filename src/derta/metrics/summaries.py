"""Summary of an evaluation: rates by method, seed and attack, paired comparisons, and curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from derta.metrics.cells import marked_cells, method_comparisons
from derta.metrics.comparisons import holm_corrected
from derta.metrics.curves import (
    depth_curves,
    late_refusal_cell,
    probability_by_share,
    probability_by_token,
    refusal_position_curves,
)
from derta.metrics.frontier import frontier
from derta.metrics.kinds import empty_cells, empty_notes, is_empty, malformed_cells, malformed_notes, thought_cells
from derta.metrics.leakage import leakage_cells
from derta.metrics.lengths import length_cells, perplexity_cells
from derta.metrics.outcomes import MeasureOf, Outcome, by_reply
from derta.metrics.over_refusal import over_refusal_cells
from derta.metrics.power import power_notes
from derta.metrics.rates import measure_of_verdicts, rate_cells
from derta.metrics.roc import ScoredSeed, auc_cells, roc_curves
from derta.metrics.samples import any_cells, any_curves
from derta.records import REFUSAL_WORDS, Measure, Suite
from derta.results import (
    METHODS_WITH_THE_FIRST,
    Cell,
    Comparison,
    Curve,
    CurveKind,
    Place,
    ScoredAnswer,
    Summary,
    Transcript,
    cell_of,
    place_of,
)
from derta.run_folder import versions
from derta.stats import Outcome as RateOutcome
from derta.stats import rate_over_seeds

MethodPairs = Mapping[str, Sequence[tuple[str, str]]]
"""Pairs of methods to compare, by the question that they answer."""


def summarize(
    outcomes: Sequence[Outcome],
    *,
    title: str = "",
    recipe: str = "",
    measure_of: MeasureOf | None = None,
    pairs: MethodPairs | None = None,
    notes: Sequence[str] = (),
    refusal_words: Sequence[str] = REFUSAL_WORDS,
    recommended: str | None = None,
) -> Summary:
    """Compute all metrics of the evaluated models, as `summary.json` holds them and the report shows them.

    By default the first method is compared with each of the others. p-values are Holm-corrected for each question
    separately, so that another question changes none of them. Notes on power are for the first question only.

    >>> from derta.records import Prompt, Reply, Verdict
    >>> prompts = [Prompt(id=str(i), request_id=str(i), attack="direct", mode="raw", text="?") for i in range(4)]
    >>> replies = [Reply(prompt_id=prompt.id, text="Boil water.") for prompt in prompts]
    >>> verdicts = [Verdict(prompt_id=str(i), judge="harm", harmful=i < 3) for i in range(4)]
    >>> summary = summarize([Outcome("vanilla", 0, prompts, replies, {"harm": verdicts})])
    >>> [(cell.method, cell.name, cell.value) for cell in summary.cells]
    [('vanilla', 'direct', 0.75)]

    Args:
        outcomes: Replies and verdicts of each model.
        title: Title of the report.
        recipe: Text or name of the recipe, shown in the report.
        measure_of: Measure of a judge in a suite; by default the only field that its verdicts there fill.
        pairs: Pairs of methods to compare, by question.
        notes: Notes to show in the report.
        refusal_words: The recipe's refusal words, which leakage does not count.
        recommended: The method of the report's verdict; by default as in a recipe (`derta.config.recommended_method`).

    Raises:
        DataError: A verdict without a reply, two verdicts on one reply, or a judge whose verdicts fill no field or
            several.
    """
    methods = list(dict.fromkeys(outcome.method for outcome in outcomes))
    judges = list(dict.fromkeys(judge for outcome in outcomes for judge in outcome.verdicts))
    by_method = {method: [one for one in outcomes if one.method == method] for method in methods}
    measure_of = measure_of or partial(_measure_in, outcomes)
    places: list[tuple[str, Suite, Measure]] = [
        (judge, suite, measure_of(judge, suite)) for judge in judges for suite in _suites(outcomes, judge)
    ]
    cells = [cell for runs in by_method.values() for place in places for cell in _rates(runs, *place)]
    cells += [cell for runs in by_method.values() for cell in _analysis(runs, refusal_words)]
    cells += [cell for runs in by_method.values() for place in places for cell in _any_of_n(runs, *place)]
    cells += [cell for method, runs in by_method.items() for cell in auc_cells(_scored(runs), method=method)]
    if any(is_empty(reply) for one in outcomes for reply in one.replies):
        cells += [cell for runs in by_method.values() for cell in _empty(runs)]
    first = next((pair[0] for ones in (pairs or {}).values() for pair in ones), methods[0]) if methods else ""
    cells += [*length_cells(outcomes, baseline=first), *perplexity_cells(outcomes, baseline=first)]
    breakdown = [
        cell for runs in by_method.values() for place in places for cell in _rates(runs, *place, by_category=True)
    ]
    cells, breakdown = marked_cells(cells, outcomes), marked_cells(breakdown, outcomes)
    pairs = pairs or {METHODS_WITH_THE_FIRST: [(methods[0], method) for method in methods[1:]]}
    answers: list[list[Comparison]] = []
    for question, method_pairs in pairs.items():
        family = [
            one
            for first, second in method_pairs
            for one in method_comparisons(by_method[first], by_method[second], places)
        ]
        answers.append(holm_corrected(family, question))
    return Summary(
        title=title,
        recipe=recipe,
        versions=versions(),
        cells=tuple(cells),
        breakdown=tuple(breakdown) if len({cell.category for cell in breakdown}) > 1 else (),
        comparisons=tuple(one for comparisons in answers for one in comparisons),
        curves=tuple(curve for runs in by_method.values() for curve in _curves(runs, judges, measure_of)),
        frontier=frontier(outcomes, places, baseline=first),
        baseline=first or None,
        recommended=recommended or _recommended(outcomes, baseline=first),
        notes=(*empty_notes(cells), *malformed_notes(cells), *notes, *power_notes(answers[0])),
    )


def _recommended(outcomes: Sequence[Outcome], *, baseline: str) -> str | None:
    from derta.config import recommended_method  # it loads YAML, which no rate needs

    methods = list(dict.fromkeys(one.method for one in outcomes if one.fine_tuning is None))
    return recommended_method(methods, baseline=baseline) if methods else None


def transcripts(outcomes: Sequence[Outcome]) -> list[Transcript]:
    """Return each reply with its prompt and its verdicts, and the refusal probabilities that are measured."""
    rows: list[Transcript] = []
    for one in outcomes:
        measured = one.token_refusals or [None] * len(one.replies)
        prompts = {prompt.id: prompt for prompt in one.prompts}
        verdicts = [{v.key: v for v in by_judge if v is not None} for by_judge in one.verdicts.values()]
        rows += [
            Transcript(
                method=one.method,
                seed=one.seed,
                prompt=prompts[reply.prompt_id],
                reply=reply,
                verdicts=tuple(by_key[reply.key] for by_key in verdicts if reply.key in by_key),
                refusal_probability=None if probabilities is None else tuple(probabilities),
            )
            for reply, probabilities in zip(one.replies, measured, strict=True)
        ]
    return rows


def scored_answers(outcomes: Sequence[Outcome]) -> list[ScoredAnswer]:
    """Return the held-out harmful answers of which the refusal probability before each token is measured."""
    return [
        ScoredAnswer(
            method=one.method,
            seed=one.seed,
            request_id=answer.prompt_id,
            request=answer.request or "",
            text=answer.text or "",
            token_starts=answer.token_starts or (),
            refusal_probability=answer.probabilities,
        )
        for one in outcomes
        for answer in one.answer_refusals
    ]


def _measure_in(outcomes: Sequence[Outcome], judge: str, suite: Suite) -> Measure:
    return measure_of_verdicts(verdict for one in outcomes for _, verdict in one.prompt_verdicts(judge, suite))


def _suites(outcomes: Sequence[Outcome], judge: str) -> list[Suite]:
    return list(dict.fromkeys(prompt.suite for outcome in outcomes for prompt, _ in outcome.prompt_verdicts(judge)))


def _rates(
    runs: Sequence[Outcome], judge: str, suite: Suite, measure: Measure, *, by_category: bool = False
) -> list[Cell]:
    """Compute the cells of each seed and, with several seeds, the pooled cells; by category the pooled cells alone."""
    settings: dict[str, Any] = {
        "method": runs[0].method,
        "judge": judge,
        "measure": measure,
        "by_category": by_category,
    }
    by_seed = {run.seed: run.prompt_verdicts(judge, suite) for run in runs}
    pooled = rate_cells(*by_seed.values(), seed=None, **settings) if len(by_seed) > 1 else []
    if by_category and pooled:
        return pooled
    return [*(cell for seed, judged in by_seed.items() for cell in rate_cells(judged, seed=seed, **settings)), *pooled]


def _any_of_n(runs: Sequence[Outcome], judge: str, suite: Suite, measure: Measure) -> list[Cell]:
    """Compute attack success in any attempt, by seed and pooled, where a prompt or request has several attempts."""
    if (suite, measure) != ("attack", "harmful"):
        return []
    method, by_seed = runs[0].method, {run.seed: run.prompt_verdicts(judge, suite) for run in runs}
    cells = [
        one for seed, judged in by_seed.items() for one in any_cells(judged, method=method, seed=seed, judge=judge)
    ]
    pooled = any_cells(*by_seed.values(), method=method, seed=None, judge=judge) if len(by_seed) > 1 else []
    return [*cells, *pooled]


def _analysis(runs: Sequence[Outcome], refusal_words: Sequence[str], judge: str = "refusal") -> Iterator[Cell]:
    """Yield the analysis cells: late refusals and leakage of attacks, malformed refusals, over-refusal and so on."""
    method = runs[0].method
    seed = runs[0].seed if len(runs) == 1 else None
    cases = [case for run in runs for case in run.cases(judge)]
    late = [(reply, verdict) for prompt, reply, verdict in cases if prompt.suite == "attack"]
    if late:
        yield late_refusal_cell(late, method=method, seed=seed, name="all attacks", judge=judge)
    for name in dict.fromkeys(name for run in runs for name in run.verdicts):
        thoughts = [(prompt, verdict) for run in runs for prompt, _, verdict in run.cases(name)]
        yield from thought_cells(thoughts, method=method, seed=seed, judge=name)
    yield from malformed_cells(by_reply(runs), method=method, seed=seed, judge=judge)
    yield from leakage_cells(cases, method=method, seed=seed, judge=judge, refusal_words=refusal_words)
    yield from over_refusal_cells(cases, method=method, seed=seed, judge=judge)
    broken: dict[Place, dict[str, list[RateOutcome]]] = {}
    for prompt, _, verdict in cases:
        if prompt.suite != "attack":
            is_broken = "unanswered" if verdict.unanswered else verdict.reply_class == "degenerate"
            broken.setdefault(place_of(prompt), {}).setdefault(prompt.id, []).append(is_broken)
    for place, outcomes in broken.items():
        analysis = place._replace(suite="analysis")
        rate = rate_over_seeds([*outcomes.values()])
        yield cell_of(rate, place=analysis, method=method, seed=seed, judge=judge, measure="degenerate")


def _scored(runs: Sequence[Outcome]) -> list[ScoredSeed]:
    return [(run.seed, run.probabilities, run.benign_probabilities) for run in runs]


def _empty(runs: Sequence[Outcome]) -> list[Cell]:
    """Return the shares of empty replies, of all seeds together."""
    prompts = {prompt.id: prompt for run in runs for prompt in run.prompts}
    replies = [(prompts[reply.prompt_id], reply) for run in runs for reply in run.replies]
    return empty_cells(replies, method=runs[0].method, seed=runs[0].seed if len(runs) == 1 else None)


def _curves(runs: Sequence[Outcome], judges: Sequence[str], measure_of: MeasureOf) -> Iterator[Curve]:
    method = runs[0].method
    refusals = [(r, v) for run in runs for p, r, v in run.cases("refusal") if p.suite == "attack"]
    yield from refusal_position_curves(refusals, method=method, name="all attacks")
    for judge in judges:
        judged = [pair for run in runs for pair in run.prompt_verdicts(judge, "attack")]
        if judged:
            yield from depth_curves(judged, method=method, measure=measure_of(judge, "attack"))
        if judged and measure_of(judge, "attack") == "harmful":
            yield from any_curves(*(run.prompt_verdicts(judge, "attack") for run in runs), method=method, judge=judge)
    harmful = [row for run in runs for row in run.probabilities]
    benign = [row for run in runs for row in run.benign_probabilities]
    kinds: list[tuple[CurveKind, str, list[Sequence[float]]]] = [
        ("refusal_probability", "held-out harmful answers", harmful),
        ("benign_probability", "held-out benign answers", benign),
    ]
    for kind, name, rows in kinds:
        for curve_of in (probability_by_token, probability_by_share):
            if (curve := curve_of(rows, method=method, name=name, kind=kind)) is not None:
                yield curve
    yield from roc_curves(_scored(runs), method=method)
