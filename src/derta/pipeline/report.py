"""Report of a run, or of several runs pooled, from the files in their folders; no data, model or recipe is loaded."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from derta.config import SectionKey
from derta.errors import RunError
from derta.metrics.kinds import empty_notes
from derta.metrics.summaries import Outcome, scored_answers, summarize, transcripts
from derta.pipeline.contents import RunContents, read_contents
from derta.pipeline.details import read_details
from derta.pipeline.evaluate import section_keys
from derta.pipeline.likelihoods import DECODING_KEYS, perplexity_notes
from derta.pipeline.model_results import ModelResults, read_model
from derta.pipeline.older_verdicts import log_judged_again
from derta.pipeline.run_paths import CONTENTS
from derta.protocols import Display
from derta.provenance import Producer, changed_keys
from derta.reporting import write_report
from derta.results import Summary


def report(
    source: Path | str | Sequence[Path | str],
    *,
    title: str | None = None,
    out: Path | str | None = None,
    redact: bool = False,
    display: Display = Display(),
) -> Summary:
    """Write the report of a finished run, or of several runs pooled, and return its summary.

    >>> from tempfile import mkdtemp
    >>> from derta.demo.run import write_example
    >>> from derta.pipeline.run import run
    >>> recipe = write_example(Path(mkdtemp()))
    >>> summary = run(recipe, out=recipe.parent / "run")
    >>> report(recipe.parent / "run") == summary, report([recipe.parent / "run"], out=mkdtemp()) == summary
    (True, True)

    Args:
        source: A run's folder, a folder whose subfolders are runs, or several folders. Pooled runs have the same
            models with different seeds; their prompts may differ.
        title: The report's title; default: the title of the first run.
        out: The output folder of `summary.json` and `report.html`; default: `source`, if it is one folder.
        redact: Whether the page leaves out the texts of attacks and of replies that a judge calls harmful.
        display: Shows warnings.

    Returns:
        The contents of `summary.json`.

    Raises:
        RunError: a folder is no run, a stage of it is not finished, or the runs cannot be pooled.
    """
    if isinstance(source, str | Path):
        out = Path(source) if out is None else out
        folders = run_folders(Path(source))
    else:
        folders = [Path(each) for each in source]
    if not folders:
        raise RunError("report: expected the folder of a run, got none")
    if out is None:
        raise RunError(
            f"report: expected an output folder for the report of {len(folders)} runs, got none; set `out` (--out)"
        )
    summary, outcomes = pool(folders, title=title)
    details = read_details({folder: read_contents(folder) for folder in folders}, outcomes)
    answers = scored_answers(outcomes)
    write_report(Path(out), summary, transcripts(outcomes), answers=answers, redact=redact, details=details)
    for note in empty_notes(summary.cells):
        display.logger.warning("%s", note)
    return summary


def run_folders(folder: Path) -> list[Path]:
    """Return the folder itself if it is a run, else its subfolders that are runs, sorted by name."""
    if (folder / CONTENTS).exists():
        return [folder]
    paths = list(folder.glob(f"*/{CONTENTS}")) or list(folder.glob(f"*/run/{CONTENTS}"))  # the latter: the demo's
    folders = sorted((path.parent for path in paths), key=_natural_key)
    if not folders:
        raise RunError(f"{folder}: expected a run's folder with a {CONTENTS}, or folders of runs, found none")
    return folders


def pool(folders: Sequence[Path], *, title: str | None = None) -> tuple[Summary, list[Outcome]]:
    """Return the summary and the outcomes of runs of the same models with different seeds.

    Raises:
        RunError: a stage is not finished, runs differ in models, judges or comparisons, or share a seed, or two models
            have results with other settings or by another judge.
    """
    runs, results = read_runs(folders)
    first = next(iter(runs.values()))
    outcomes = [one.outcome for one in results]
    scores = {(one.outcome.method, one.outcome.seed): one.scores for one in results}
    summary = summarize(
        outcomes,
        title=title or first.title,
        recipe=first.title,
        measure_of=lambda judge, _suite: first.measures[judge],
        pairs=first.questions,
        notes=[*_notes(runs), *perplexity_notes(scores), *(note for one in results for note in one.notes)],
        refusal_words=first.refusal_words,
        recommended=first.recommended,
    )
    return summary.model_copy(update={"versions": _versions(folders[0])}), outcomes


def read_runs(folders: Sequence[Path]) -> tuple[dict[Path, RunContents], list[ModelResults]]:
    """Load runs of the same models with different seeds: their contents, and the results of all models by method.

    Raises:
        RunError: as for `pool`.
    """
    runs = {folder: read_contents(folder) for folder in folders}
    _check_poolable(runs)
    first = next(iter(runs.values()))
    results = _distinguish_ids(
        {
            _name(folder, folders): [read_model(folder, entry, contents) for entry in contents.models]
            for folder, contents in runs.items()
        }
    )
    log_judged_again([one.older for one in results], folders)
    labels = list(dict.fromkeys(entry.label for entry in first.models))
    results.sort(key=lambda one: labels.index(one.outcome.method))
    own_format = {entry.label for entry in first.models if entry.own_format}
    _check_comparable([one.outcome for one in results], own_format=own_format)
    return runs, results


_OF_A_MODEL = {"model", "adapter", *DECODING_KEYS}
"""Keys of a producer that may differ between the models of a report."""


_OF_A_FORMAT = {"template", "template_kwargs", "template_date", "thinking"}
"""Keys of a producer that may differ for the other models of a recipe, which have their own chat templates."""


def _check_comparable(outcomes: Sequence[Outcome], *, own_format: Container[str] = ()) -> None:
    """Check that all models have the same judges, and replies with the same settings, as the first model.

    `own_format` has the labels of models with their own chat templates. Only thresholds of decoding may differ between
    methods (see `run_threshold.check_replies_threshold`). They differ if a run was stopped after its recipe changed, or
    if runs of different recipes are pooled.

    Raises:
        RunError: they differ; the message names the model and what differs.
    """
    first: dict[tuple[object, ...], Producer] = {}
    for outcome in outcomes:
        name = f"{outcome.method} seed {outcome.seed}"
        for judge, verdicts in outcome.verdicts.items():
            for producer in (one.producer for one in verdicts if one is not None and one.producer is not None):
                if differences := _differences(first.setdefault(("judge", judge), producer), producer):
                    raise RunError(
                        f"report: {name}: expected the verdicts of {judge} by the same judge as the other models', got "
                        f"another ({differences}); `derta run` judges them again"
                    )
        for prompt, reply in zip(outcome.prompts, outcome.replies, strict=True):
            settings = {key: value for key, value in (reply.producer or {}).items() if key not in _OF_A_MODEL}
            shared = {key: value for key, value in settings.items() if key not in _OF_A_FORMAT}
            compared = {"shared": shared} if outcome.method in own_format else {"shared": shared, "all": settings}
            key, found = section_keys(prompt)[0], [*compared.items()] if settings else []
            differences = "; ".join(_differences(first.setdefault((*key, name), own), own) for name, own in found)
            if differences := differences.strip("; "):
                raise RunError(
                    f"report: {name}: expected replies with the settings of the other models, got others "
                    f"({differences}); `derta run` generates them again"
                )


def _differences(first: Producer, other: Producer) -> str:
    return "; ".join(changed_keys(first, other)) if first != other else ""


def _distinguish_ids(runs: Mapping[str, list[ModelResults]]) -> list[ModelResults]:
    """Return the results of all models.

    If prompts of different runs share an id, all ids get the name of their run as prefix.
    """
    requests: dict[str, set[str]] = {}
    for models in runs.values():
        for prompt in (prompt for one in models for prompt in one.outcome.prompts):
            requests.setdefault(prompt.id, set()).add(prompt.request or str(prompt.messages or prompt.text))
    if all(len(texts) == 1 for texts in requests.values()):
        return [one for models in runs.values() for one in models]
    return [_prefix_ids(one, name) for name, models in runs.items() for one in models]


def _prefix_ids(results: ModelResults, name: str) -> ModelResults:
    outcome = results.outcome
    prompts = [prompt.model_copy(update={"id": f"{name}/{prompt.id}"}) for prompt in outcome.prompts]
    named = [{"prompt_id": prompt.id} for prompt in prompts]
    replies = [one.model_copy(update=new) for one, new in zip(outcome.replies, named, strict=True)]
    verdicts = {
        judge: [one and one.model_copy(update=new) for one, new in zip(ones, named, strict=True)]
        for judge, ones in outcome.verdicts.items()
    }
    return results._replace(outcome=outcome._replace(prompts=prompts, replies=replies, verdicts=verdicts))


def _check_poolable(runs: Mapping[Path, RunContents]) -> None:
    (first_folder, first), *others = runs.items()
    seeds: dict[tuple[str, int], Path] = {}
    for folder, contents in ((first_folder, first), *others):
        for entry in contents.models:
            if other := seeds.get((entry.label, entry.seed)):
                raise RunError(
                    f"{folder}: expected runs of different seeds, got {entry.label} seed {entry.seed} of {other} too"
                )
            seeds[entry.label, entry.seed] = folder
        labels = {(entry.label, entry.refusal_threshold) for entry in contents.models}
        if (
            labels != {(entry.label, entry.refusal_threshold) for entry in first.models}
            or contents.measures != first.measures
        ):
            raise RunError(
                f"{folder}: expected the models and judges of {first_folder}, got others; report it separately"
            )
        if differing := sorted(map(_section_name, contents.outside ^ first.outside)):
            raise RunError(
                f"{folder}: expected the evaluations of {first_folder} in the means, got another `in_means` of "
                f"{', '.join(differing)}; set it in both recipes alike, and run the changed one again"
            )


def _section_name(key: SectionKey) -> str:
    """Return the name of an evaluation as a recipe has it."""
    return next((one for one in (key[2], key[1]) if one is not None), "the file of prompts")


def _notes(runs: Mapping[Path, RunContents]) -> list[str]:
    """Return the notes of all runs; a note that is not in all of them gets the run's name as prefix."""
    each = [set(contents.notes) for contents in runs.values()]
    shared = set.intersection(*each)
    notes = [note for note in next(iter(runs.values())).notes if note in shared]
    return notes + [
        f"{_name(folder, list(runs))}: {note}"
        for folder, contents in runs.items()
        for note in contents.notes
        if note not in shared
    ]


def _name(folder: Path, folders: Sequence[Path]) -> str:
    """Return the name of a run: its folder's or, if these are not unique, that of the parent folder."""
    return folder.name if len({one.name for one in folders}) == len(folders) else folder.parent.name


def _natural_key(path: Path) -> tuple[str, int]:
    name = path.parent.name if path.name == "run" else path.name
    digits = name[len(name.rstrip("0123456789")) :]
    return name[: len(name) - len(digits)], int(digits or 0)


def _versions(folder: Path) -> dict[str, str]:
    path = folder / "manifest.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))["versions"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: expected a run's manifest, got another file; check the path") from error
