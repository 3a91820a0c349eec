"""`derta frontier`: the frontier of the methods of one or several runs, as a table and a plot, from the run folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from derta.config.goals import Goals, load_goals
from derta.errors import RunError, did_you_mean
from derta.files import write_text
from derta.metrics import frontier as metrics
from derta.metrics.axes import JudgedSet, JudgePlace
from derta.metrics.goals import GoalResult, Judged, judge_goals
from derta.metrics.outcomes import Outcome
from derta.pipeline.report import read_runs, run_folders
from derta.provenance import changed_keys
from derta.records import Measure, Suite
from derta.reporting.frontier_plot import draw_frontier
from derta.results import METHODS_WITH_THE_FIRST, Frontier, place_of


class Evaluated(NamedTuple):
    """Models of one or several runs under the names of the frontier, with what they can be compared by.

    `baseline` and `recommended` are those of the first run; None if their names have a prefix now.
    """

    outcomes: list[Outcome]
    places: list[JudgePlace]
    incomparable: dict[JudgedSet, str]
    baseline: str | None
    recommended: str | None


def frontier(
    *sources: Path | str,
    over_refusal: Sequence[str] = (),
    judge: str | None = None,
    out: Path | str | None = None,
) -> Frontier:
    """Return the frontier of the methods of one or several runs, and write its plot.

    >>> from tempfile import mkdtemp
    >>> from derta.demo.run import write_example
    >>> from derta.pipeline.run import run
    >>> recipe = write_example(Path(mkdtemp()))
    >>> summary = run(recipe, out=recipe.parent / "run")
    >>> frontier(recipe.parent / "run").points == summary.frontier.points
    True

    Args:
        sources: Folders of runs; a folder whose subfolders are runs pools their seeds. Methods with the same name in
            two of them get the name of their folder as prefix.
        over_refusal: Sets of the over-refusal axis, as names or patterns; by default all but those outside the means.
        judge: Judge of attack success; by default the first that measures harm.
        out: Path of an SVG file for the plot.

    Raises:
        RunError: a folder is no run, a stage of it is not finished, or nothing can be compared.
        DataError: the judge or a set is unknown.
    """
    return frontier_of(read_evaluated(sources), over_refusal=over_refusal, judge=judge, out=out)


def frontier_of(
    evaluated: Evaluated, *, over_refusal: Sequence[str] = (), judge: str | None = None, out: Path | str | None = None
) -> Frontier:
    """Return the frontier of models that are already loaded; see `frontier`."""
    result = metrics.frontier(
        evaluated.outcomes,
        evaluated.places,
        baseline=evaluated.baseline,
        judge=judge,
        over_refusal=over_refusal,
        incomparable=evaluated.incomparable,
    )
    if result is None:
        raise RunError("frontier: expected methods with judged replies to the same prompts, found none")
    if out is not None:
        write_text(Path(out), draw_frontier(result))
    return result


def goals_of(
    evaluated: Evaluated, goals: Goals | Path | str, *, method: str | None = None
) -> tuple[Goals, list[GoalResult]]:
    """Return the goals and their results for models that are already loaded.

    Args:
        evaluated: The models.
        goals: The goals, or the path of a goal file.
        method: The judged method, instead of that of the file.

    Raises:
        RecipeError: the goal file is not valid.
        RunError: no model has the name of the method.
    """
    goals = goals if isinstance(goals, Goals) else load_goals(Path(goals))
    goals = goals if method is None else goals.model_copy(update={"method": method})
    names = list(dict.fromkeys(one.method for one in evaluated.outcomes))
    if goals.method not in names:
        raise RunError(f"goals: no method {goals.method!r} in these runs; {did_you_mean(goals.method, names)}")
    return goals, judge_goals(goals, Judged(evaluated.outcomes, evaluated.places, evaluated.incomparable))


def read_evaluated(sources: Sequence[Path | str]) -> Evaluated:
    """Load the models of one or several runs.

    Raises:
        RunError: no folder is given, or as for `derta.pipeline.report.report`.
    """
    if not sources:
        raise RunError("expected the folder of a run, got none")
    paths = [Path(source) for source in sources]
    runs: dict[str, list[Outcome]] = {}
    measures: dict[str, Measure] = {}
    baseline = recommended = None
    for name, path in zip(_names(paths), paths, strict=True):
        contents, results = read_runs(run_folders(path))
        first = next(iter(contents.values()))
        for judge, measure in first.measures.items():
            if measures.setdefault(judge, measure) != measure:
                raise RunError(
                    f"{path}: expected judge {judge!r} to measure {measures[judge]}, as in {paths[0]}, got {measure}"
                )
        pairs = first.questions.get(METHODS_WITH_THE_FIRST, ())
        baseline = baseline or first.baseline or (pairs[0][0] if pairs else first.models[0].label)
        recommended = recommended or first.recommended
        runs[name] = [one.outcome for one in results]
    outcomes = _renamed(runs)
    names = {one.method for one in outcomes}
    baseline, recommended = (one if one in names else None for one in (baseline, recommended))
    return Evaluated(outcomes, judge_places(outcomes, measures), _incomparable(runs), baseline, recommended)


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell them apart.

    >>> _names([Path("a/run"), Path("b/run")])
    ['a/run', 'b/run']
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise RunError("expected each run once, got one twice")
    full = [path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, full))):
        names = ["/".join(parts[-depth:]) for parts in full]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _renamed(runs: Mapping[str, Sequence[Outcome]]) -> list[Outcome]:
    """Return all models; methods of the same name in two runs get the name of their run as prefix."""
    names = [name for outcomes in runs.values() for name in dict.fromkeys(one.method for one in outcomes)]
    clashing = {name for name in names if names.count(name) > 1}
    alone = len(runs) == 1
    return [
        # the seeds of a method do not tell its models of two runs apart: the name does; their held-out answers differ
        one._replace(
            method=f"{run}/{one.method}" if one.method in clashing else one.method,
            answer_losses=one.answer_losses if alone else (),
        )
        for run, outcomes in runs.items()
        for one in outcomes
    ]


def judge_places(outcomes: Sequence[Outcome], measures: Mapping[str, Measure]) -> list[JudgePlace]:
    """Return the judges with the suites in which they have verdicts, and their measures."""
    found: dict[tuple[str, Suite], None] = dict.fromkeys(
        (judge, prompt.suite)
        for judge in measures
        for one in outcomes
        for prompt, verdict in zip(one.prompts, one.verdicts.get(judge, ()), strict=False)
        if verdict is not None
    )
    return [(judge, suite, measures[judge]) for judge, suite in found]


def _incomparable(runs: Mapping[str, Sequence[Outcome]]) -> dict[JudgedSet, str]:
    """Return the judges and sets whose verdicts differ between runs in the judge or in the token limit."""
    found: dict[JudgedSet, tuple[dict[str, str], str | None]] = {}
    reasons: dict[JudgedSet, str] = {}
    for one in chain.from_iterable(runs.values()):
        limits = {reply.prompt_id: (reply.producer or {}).get("max_new_tokens") for reply in one.replies}
        for judge, verdicts in one.verdicts.items():
            for prompt, verdict in zip(one.prompts, verdicts, strict=True):
                if verdict is not None and verdict.producer is not None:
                    key = (judge, place_of(prompt).name)
                    own = (verdict.producer, limits[prompt.id])
                    first = found.setdefault(key, own)
                    if first[0] != own[0]:
                        differences = changed_keys(first[0], own[0])
                        reasons[key] = f"the runs' judges {judge} differ: {', '.join(differences)}"
                    elif first[1] != own[1]:
                        reasons[key] = f"replies of at most {first[1]} and {own[1]} tokens"
    return reasons
