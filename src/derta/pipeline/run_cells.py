"""A run's rates and comparisons by cell, with the verdicts in its folder or those of another judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from derta.errors import RunError, did_you_mean
from derta.judges import judge_cases
from derta.metrics.axes import JudgePlace
from derta.metrics.cells import baseline_comparisons, judged_cells
from derta.metrics.outcomes import Outcome
from derta.pipeline.contents import read_contents
from derta.pipeline.frontier import Evaluated, judge_places, read_evaluated
from derta.pipeline.model_results import read_model
from derta.pipeline.older_verdicts import log_judged_again
from derta.pipeline.resuming import log_failures
from derta.pipeline.run_paths import REPLIES, is_run
from derta.protocols import Case, Display, Judge
from derta.records import Suite, Verdict
from derta.results import Cell, Comparison


def judge_run(path: Path, *, judge: Judge | None = None, display: Display = Display()) -> list[Cell]:
    """Return the rates of a run's models by cell, seeds pooled.

    Args:
        path: A run's folder, a folder of runs, or the folder of one model of a run.
        judge: A judge that judges all replies now; by default the verdicts in the folder are used.
        display: Shows progress.

    Raises:
        RunError: the folder is no run, or a stage of it is not finished.
    """
    evaluated = _judged(path, judge, display)
    return judged_cells(evaluated.outcomes, evaluated.places)


def compare_run(
    path: Path, *, judge: Judge | None = None, display: Display = Display()
) -> tuple[str, list[Comparison]]:
    """Return a run's baseline, and its paired comparisons with the other methods by cell, Holm-corrected together.

    Models after a fine-tuning attack are no methods, and are left out. The arguments are those of `judge_run`.

    Raises:
        RunError: the folder is no finished run, or has no two methods with judged replies to the same prompts.
    """
    if not is_run(path):
        raise RunError(f"{path}: expected the folder of a run, or two models to compare, got another path; check it")
    evaluated = _judged(path, judge, display)
    methods = [one for one in evaluated.outcomes if one.fine_tuning is None]
    baseline = evaluated.baseline or methods[0].method
    comparisons = baseline_comparisons(methods, evaluated.places, baseline=baseline)
    if not comparisons:
        raise RunError(f"{path}: expected two methods with judged replies to the same prompts, got {baseline} alone")
    return baseline, comparisons


def _judged(path: Path, judge: Judge | None, display: Display) -> Evaluated:
    if judge is None and path.is_file():
        raise RunError(
            f"{path}: expected --judge NAME for a file of replies, got none; only a run has its own verdicts"
        )
    evaluated = _read_one(path) if (path / REPLIES).is_file() else read_evaluated([path])
    if judge is None:
        return evaluated
    outcomes = [_judge_again(one, judge, path, display) for one in evaluated.outcomes]
    suites: list[Suite] = list(dict.fromkeys(prompt.suite for one in outcomes for prompt in one.prompts))
    places: list[JudgePlace] = [(judge.name, suite, judge.measures) for suite in suites]
    return evaluated._replace(outcomes=outcomes, places=places)


def _read_one(home: Path) -> Evaluated:
    """Load one model of a run by its folder."""
    contents = read_contents(home.resolve().parent)
    folders = {entry.folder: entry for entry in contents.models}
    if (entry := folders.get(home.resolve().name)) is None:
        raise RunError(f"{home}: no model of the run in {home.resolve().parent}; {did_you_mean(home.name, folders)}")
    results = read_model(home.resolve().parent, entry, contents)
    log_judged_again([results.older], [home])
    outcomes = [results.outcome]
    return Evaluated(outcomes, judge_places(outcomes, contents.measures), {}, entry.label, entry.label)


def _judge_again(outcome: Outcome, judge: Judge, path: Path, display: Display) -> Outcome:
    cases: Sequence[Case] = [Case(*pair) for pair in zip(outcome.prompts, outcome.replies, strict=True)]
    verdicts: list[Verdict] = []
    with display.progress.task(f"{judge.name}: {outcome.method}", total=len(cases)) as task:
        for verdict in judge_cases(judge, cases):
            verdicts.append(verdict)
            task.update(len(verdicts))
    log_failures(path, verdicts, display)
    return outcome._replace(verdicts={judge.name: verdicts})
