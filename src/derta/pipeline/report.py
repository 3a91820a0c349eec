"""Report of a run, or of several runs pooled, from the files in their folders; no data, model or recipe is loaded.

`run.json` is written before the first training step. It holds the models, the judges of each evaluation and the
comparisons, which the other files do not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, field_validator

from derta.config import THRESHOLD, SectionKey
from derta.errors import RunError
from derta.files import parse_record, read_records, write_text
from derta.judges import JUDGES, build_judge, judge_producer, uses_model
from derta.metrics.kinds import empty_notes
from derta.metrics.summaries import Outcome, summarize, transcripts
from derta.pipeline.evaluate import is_complete, judge_models, judges_of, prompts_path, section_keys
from derta.pipeline.fine_tuning import fine_tuning_note
from derta.pipeline.likelihoods import DECODING_KEYS, Scores, perplexity_notes, read_scores
from derta.pipeline.resuming import read_keyed
from derta.pipeline.run_threshold import check_replies_threshold, threshold_notes
from derta.pipeline.search import search_notes
from derta.protocols import Display
from derta.provenance import Producer, case_hash, changed_keys, prompt_hash
from derta.records import NAME, REFUSAL_WORDS, Measure, Prompt, Record, Reply, ReplyKey, Suite, Verdict
from derta.reporting import write_report
from derta.results import Summary

CONTENTS = "run.json"


class ModelEntry(Record):
    """Entry of a model in `run.json`: its label in the report, its seed, and the name of its folder in the run's.

    `fine_tuning` is the name of the attack on the model by fine-tuning, in its label; None for the model of a method.
    `refusal_threshold` is the threshold of decoding (`run_threshold.threshold_identity`); None without one.
    """

    label: str
    seed: int
    folder: str = Field(pattern=r"^[\w.+-]*[\w+-][\w.+-]*$")
    fine_tuning: str | None = None
    refusal_threshold: str | None = None


class SectionJudges(Record):
    """Judges of an evaluation, by its key; None matches any value that has no section."""

    suite: Suite | None
    attack: str | None
    name: str | None
    judges: tuple[str, ...]


class RunContents(Record):
    """Contents of `run.json`: the models in order, the judges, the comparisons and the notes."""

    title: str
    models: tuple[ModelEntry, ...]
    measures: dict[str, Measure]
    sections: tuple[SectionJudges, ...]
    questions: dict[str, tuple[tuple[str, str], ...]]
    notes: tuple[str, ...]
    refusal_words: tuple[str, ...] = REFUSAL_WORDS

    @field_validator("measures")
    @classmethod
    def _check_measures(cls, measures: dict[str, Measure]) -> dict[str, Measure]:
        if wrong := [judge for judge in measures if not NAME.fullmatch(judge)]:
            raise ValueError(f"expected names of judges, got {wrong[0]!r:.80}")
        return measures

    @property
    def judges(self) -> dict[SectionKey, tuple[str, ...]]:
        """Names of the judges of each evaluation, by its key."""
        return {(one.suite, one.attack, one.name): one.judges for one in self.sections}


class ModelResults(NamedTuple):
    """Results of one model: its replies and verdicts, its scores, and notes for the report."""

    outcome: Outcome
    scores: Scores
    notes: list[str]


def write_contents(folder: Path, contents: RunContents) -> None:
    """Write a run's `run.json`."""
    write_text(folder / CONTENTS, contents.model_dump_json(indent=2) + "\n")


def read_contents(folder: Path) -> RunContents:
    """Load a run's `run.json`.

    Raises:
        RunError: the folder is no run, or the file is not valid.
    """
    path = folder / CONTENTS
    try:
        return parse_record(RunContents, json.loads(path.read_text(encoding="utf-8")), where=str(path))
    except FileNotFoundError as error:
        raise RunError(f"{folder}: expected a run's folder with a {CONTENTS}, found none; check the path") from error
    except (OSError, ValueError) as error:  # a DataError is a ValueError
        raise RunError(f"{path}: expected an output of `derta run`, got another file; check the path") from error


def report(
    source: Path | str | Sequence[Path | str],
    *,
    title: str | None = None,
    out: Path | str | None = None,
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
    write_report(Path(out), summary, transcripts(outcomes))
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
    labels = list(dict.fromkeys(entry.label for entry in first.models))
    results.sort(key=lambda one: labels.index(one.outcome.method))
    _check_comparable([one.outcome for one in results])
    return runs, results


def read_model(folder: Path, entry: ModelEntry, contents: RunContents) -> ModelResults:
    """Load the replies, verdicts and scores of one model of a run.

    Raises:
        RunError: something is missing, or was made from other prompts or replies.
    """
    home = folder / entry.folder
    path, shared_path = prompts_path(folder, home), folder / "prompts.jsonl"
    prompts = list(read_records(path, Prompt)) if path.exists() else []
    if not path.exists() or not is_complete(home, prompts):
        raise RunError(f"{folder}: {entry.label} seed {entry.seed} is not finished; `derta run` resumes it")
    shared = prompts if path == shared_path else list(read_records(shared_path, Prompt))
    replies = read_keyed(home / "replies.jsonl", Reply, prompts=prompts)
    old = sum(replies[one.id, 0].input_hash not in {None, prompt_hash(one)} for one in prompts)
    if old or prompts[: len(shared)] != shared:
        raise RunError(
            f"{folder}: {entry.label} seed {entry.seed}: {old or 'the'} replies are to prompts that have changed "
            "since; `derta run` generates them again"
        )
    required = [judges_of(prompt, contents.judges) for prompt in prompts]
    verdicts: dict[str, list[Verdict | None]] = {}
    for judge in contents.measures:
        judged = _current_verdicts(
            judge, folder=folder, entry=entry, contents=contents, prompts=prompts, replies=replies
        )
        verdicts[judge] = [judged.get((prompt.id, 0)) for prompt in prompts]
        if any(judge in judges and one is None for judges, one in zip(required, verdicts[judge], strict=True)):
            raise RunError(f"{folder}: {judge} has not judged all of {entry.label} seed {entry.seed}; run it again")
    scores = read_scores(home)
    outcome = Outcome(
        entry.label,
        entry.seed,
        prompts,
        [replies[prompt.id, 0] for prompt in prompts],
        verdicts,
        scores.refusal_probability,
        scores.answer_losses,
        entry.fine_tuning,
        scores.benign_probability,
    )
    name = f"{entry.label}, seed {entry.seed}"
    if THRESHOLD in entry.model_fields_set:  # not in runs of earlier versions
        check_replies_threshold(home, entry.refusal_threshold, outcome.replies, model=f"{folder}: {name}")
    return ModelResults(outcome, scores, list(_model_notes(home, name, outcome, entry.refusal_threshold)))


def _current_verdicts(
    judge: str,
    *,
    folder: Path,
    entry: ModelEntry,
    contents: RunContents,
    prompts: Sequence[Prompt],
    replies: Mapping[ReplyKey, Reply],
) -> dict[ReplyKey, Verdict]:
    """Return a judge's verdicts on a model's replies.

    Replies that changed since, and those that another version of a judge without a model has judged (which may lack a
    class that this one has), are judged again.

    Raises:
        RunError: replies have changed, and the judge queries a model or is a user's own, or a verdict is another
            judge's.
    """
    home = folder / entry.folder
    path = home / f"verdicts.{judge}.jsonl"
    verdicts = read_keyed(path, Verdict, prompts=prompts)
    if other := next((one.judge for one in verdicts.values() if one.judge != judge), None):
        raise RunError(f"{path}: expected verdicts of {judge}, got one of {other}; `derta run` judges them again")
    changed = sum(
        (prompt.id, 0) in verdicts and verdicts[prompt.id, 0].input_hash != case_hash(prompt, replies[prompt.id, 0])
        for prompt in prompts
    )
    if judge not in JUDGES or uses_model(judge):
        if changed:
            raise RunError(
                f"{path}: {changed} verdicts are on replies that have changed since; `derta run` judges them"
            )
        return verdicts
    options: dict[str, Any] = {"refusal_words": contents.refusal_words} if judge == "refusal" else {}
    built = build_judge(judge, **options)
    producer = judge_producer(built)
    if not changed and all(one.producer == producer for one in verdicts.values()):
        return verdicts
    judge_models(built, {entry.label: home}, folder=folder, judges=contents.judges)
    return read_keyed(path, Verdict, prompts=prompts)


_OF_A_MODEL = {"model", "adapter", *DECODING_KEYS}
"""Keys of a producer that may differ between the models of a report."""


def _check_comparable(outcomes: Sequence[Outcome]) -> None:
    """Check that all models have the same judges, and replies with the same settings, as the first model.

    Only thresholds of decoding may differ between methods (see `run_threshold.check_replies_threshold`).
    They differ if a run was stopped after its recipe changed, or if runs of different recipes are pooled.

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
            others = first.setdefault(section_keys(prompt)[0], settings) if settings else settings
            if differences := _differences(others, settings):
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


def _model_notes(home: Path, name: str, outcome: Outcome, threshold: str | None) -> Iterator[str]:
    yield from fine_tuning_note(home, model=name)
    yield from threshold_notes(home, threshold, model=name)
    yield from search_notes(outcome.prompts, model=name)
    if unanswered := sum(reply.unanswered is not None for reply in outcome.replies):
        yield f"{name}: {unanswered} of {len(outcome.replies)} prompts are unanswered; they have no verdict."
    for judge, verdicts in outcome.verdicts.items():
        if failed := sum(one is not None and one.retry for one in verdicts):
            yield f"{name}: the engine of judge {judge} failed on {failed} replies; run again to judge them."


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
