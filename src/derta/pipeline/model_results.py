"""Results of one model of a run, read and checked for the report."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from derta.config import THRESHOLD
from derta.errors import RunError
from derta.files import read_records
from derta.judges import JUDGES, build_judge, judge_producer, uses_model
from derta.metrics.outcomes import Outcome, SetKey
from derta.pipeline.bbq import bbq_notes
from derta.pipeline.contents import ModelEntry, RunContents
from derta.pipeline.evaluate import is_complete, judge_models, judges_of, prompts_path, reply_keys, section_of
from derta.pipeline.fine_tuning import fine_tuning_note
from derta.pipeline.likelihoods import Scores, read_scores
from derta.pipeline.resuming import read_keyed
from derta.pipeline.run_threshold import check_replies_threshold, threshold_notes
from derta.pipeline.search import search_notes
from derta.pipeline.token_refusal import read_answer_refusals, read_token_refusals
from derta.protocols import Display
from derta.provenance import case_hash, prompt_hash
from derta.records import Prompt, Reply, ReplyKey, Verdict

_QUIET = logging.getLogger("derta.judged_again")
"""Logger of the judging of each model, for which the caller logs one line (`log_judged_again`)."""
_QUIET.setLevel(logging.WARNING)


class ModelResults(NamedTuple):
    """Results of one model: its replies and verdicts, its scores, and notes for the report.

    `older` counts the verdicts by judge that have been replaced, because another version of the judge made them.
    """

    outcome: Outcome
    scores: Scores
    notes: list[str]
    older: Mapping[str, int] = {}


def read_model(folder: Path, entry: ModelEntry, contents: RunContents) -> ModelResults:
    """Load the replies, verdicts and scores of one model of a run.

    Raises:
        RunError: something is missing, or was made from other prompts or replies.
    """
    home = folder / entry.folder
    path, shared_path = prompts_path(folder, home), folder / "prompts.jsonl"
    prompts = list(read_records(path, Prompt)) if path.exists() else []
    if not path.exists() or not is_complete(home, prompts, contents.samples):
        raise RunError(f"{folder}: {entry.label} seed {entry.seed} is not finished; `derta run` resumes it")
    shared = prompts if path == shared_path else list(read_records(shared_path, Prompt))
    replies = read_keyed(home / "replies.jsonl", Reply, prompts=prompts)
    hashes = {one.id: prompt_hash(one) for one in prompts}
    old = sum(one.input_hash not in {None, hashes[one.prompt_id]} for one in replies.values())
    if old or prompts[: len(shared)] != shared:
        raise RunError(
            f"{folder}: {entry.label} seed {entry.seed}: {old or 'the'} replies are to prompts that have changed "
            "since; `derta run` generates them again"
        )
    keys = reply_keys(prompts, contents.samples)
    by_id = {prompt.id: prompt for prompt in prompts}
    answered = [by_id[prompt_id] for prompt_id, _ in keys]
    required = [judges_of(prompt, contents.judges) for prompt in answered]
    verdicts: dict[str, list[Verdict | None]] = {}
    older: dict[str, int] = {}
    for judge in contents.measures:
        judged, num_older = _current_verdicts(
            judge, folder=folder, entry=entry, contents=contents, prompts=prompts, replies=replies
        )
        older |= {judge: num_older} if num_older else {}
        verdicts[judge] = [judged.get(key) for key in keys]
        if any(judge in judges and one is None for judges, one in zip(required, verdicts[judge], strict=True)):
            raise RunError(f"{folder}: {judge} has not judged all of {entry.label} seed {entry.seed}; run it again")
    scores = read_scores(home)
    if entry.own_format:  # its tokens may be others, and losses are means over tokens
        scores = scores._replace(answer_losses=[])
    outcome = Outcome(
        entry.label,
        entry.seed,
        answered,
        [replies[key] for key in keys],
        verdicts,
        scores.refusal_probability,
        scores.answer_losses,
        entry.fine_tuning,
        scores.benign_probability,
        token_refusals=read_token_refusals(home, answered, [replies[key] for key in keys]),
        answer_refusals=read_answer_refusals(home),
        outside=_outside(prompts, contents),
    )
    name = f"{entry.label}, seed {entry.seed}"
    if THRESHOLD in entry.model_fields_set:  # not in runs of earlier versions
        check_replies_threshold(home, entry.refusal_threshold, outcome.replies, model=f"{folder}: {name}")
    return ModelResults(outcome, scores, list(_model_notes(home, name, outcome, entry.refusal_threshold)), older)


def _outside(prompts: Sequence[Prompt], contents: RunContents) -> frozenset[SetKey]:
    """Return the sets of the prompts of evaluations outside the means."""
    judges, outside = contents.judges, contents.outside
    return frozenset((one.suite, one.cell) for one in prompts if section_of(one, judges) in outside)


def _current_verdicts(
    judge: str,
    *,
    folder: Path,
    entry: ModelEntry,
    contents: RunContents,
    prompts: Sequence[Prompt],
    replies: Mapping[ReplyKey, Reply],
) -> tuple[dict[ReplyKey, Verdict], int]:
    """Return a judge's verdicts on a model's replies, and the number of those that were replaced.

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
    by_id = {prompt.id: prompt for prompt in prompts}
    changed = sum(
        verdict.input_hash != case_hash(by_id[key[0]], replies[key])
        for key, verdict in verdicts.items()
        if key in replies
    )
    if judge not in JUDGES or uses_model(judge):
        if changed:
            raise RunError(
                f"{path}: {changed} verdicts are on replies that have changed since; `derta run` judges them"
            )
        return verdicts, 0
    options: dict[str, Any] = {"refusal_words": contents.refusal_words} if judge == "refusal" else {}
    built = build_judge(judge, **options)
    producer = judge_producer(built)
    if not changed and all(one.producer == producer for one in verdicts.values()):
        return verdicts, 0
    older = sum(
        one.producer != producer or one.input_hash != case_hash(by_id[key[0]], replies[key])
        for key, one in verdicts.items()
        if key in replies
    )
    judge_models(built, {entry.label: home}, folder=folder, judges=contents.judges, display=Display(logger=_QUIET))
    return read_keyed(path, Verdict, prompts=prompts), older


def _model_notes(home: Path, name: str, outcome: Outcome, threshold: str | None) -> Iterator[str]:
    yield from fine_tuning_note(home, model=name)
    yield from threshold_notes(home, threshold, model=name)
    yield from search_notes({one.id: one for one in outcome.prompts}.values(), model=name)
    yield from bbq_notes(outcome.prompts, outcome.replies, model=name)
    if unanswered := sum(reply.unanswered is not None for reply in outcome.replies):
        yield f"{name}: {unanswered} of {len(outcome.replies)} prompts are unanswered; they have no verdict."
    for judge, verdicts in outcome.verdicts.items():
        if failed := sum(one is not None and one.retry for one in verdicts):
            yield f"{name}: the engine of judge {judge} failed on {failed} replies; run again to judge them."
