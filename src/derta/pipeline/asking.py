"""Replies of a recipe's models that its training needs: distilled answers, refusals of counter examples, rewriting.

The replies are kept in a file, so that a stopped stage resumes and all methods and seeds have the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from derta.config import EngineConfig, Recipe
from derta.files import read_records
from derta.judges import build_judge, judge_cases
from derta.pipeline.generate import expected_replies, generate_missing
from derta.pipeline.judge import engine_loader
from derta.pipeline.models import LazyEngine
from derta.pipeline.resuming import Expected, check_unique, supersede
from derta.protocols import Case, Display, EngineLoader
from derta.records import Prompt, Reply, ReplyKey, Verdict
from derta.sampling import GREEDY, Sampling

Outcome = Literal["answered", "refused", "malformed", "degenerate", "empty", "cut_off", "unanswered"]
"""What a reply to a benign prompt is: an answer, or why it is none."""
REFUSING: tuple[Outcome, ...] = ("refused", "malformed")


def ask(
    recipe: Recipe,
    model: Path | None,
    prompts: Sequence[Prompt],
    *,
    path: Path,
    max_new_tokens: int,
    description: str,
    sampling: Sampling = GREEDY,
    display: Display = Display(),
) -> list[Reply]:
    """Return a model's replies to prompts, greedy ones by default.

    Those in the file that it would give today are not generated again.

    A file that has all of them is only read, so that the processes of a distributed training can do so together. The
    recipe's `refusal_threshold` forces no refusals here: training is on what the model says by itself.

    Args:
        recipe: The recipe, whose `generate` section has the engine.
        model: The folder of the tuned model or adapter; None: the recipe's model, untuned.
        prompts: The prompts, with unique ids.
        path: The file of the replies. Replies to other prompts or of another model move to `*.superseded.jsonl`.
        max_new_tokens: The limit of each reply.
        description: The label of the progress bar.
        sampling: How the replies are sampled; those to a prompt follow one another.
        display: Shows progress.

    Raises:
        RunError: another process writes the file.
        EngineError, ModelError: the model cannot be loaded, or a prompt is too long for it.
    """
    engine = LazyEngine(recipe, model)
    replies = _replies_of(
        EngineLoader(lambda: engine, engine.producer),
        prompts,
        path=path,
        max_new_tokens=max_new_tokens,
        description=description,
        sampling=sampling,
        display=display,
    )
    engine.release()
    return replies


def ask_engine(
    config: EngineConfig,
    prompts: Sequence[Prompt],
    *,
    path: Path,
    max_new_tokens: int,
    description: str,
    display: Display = Display(),
) -> list[Reply]:
    """Return the greedy replies of another model than the recipe's to prompts; for the file see `ask`.

    Raises:
        RunError: another process writes the file.
        EngineError, ModelError: the engine is unknown, no server answers, or the model cannot be loaded.
    """
    replies = _replies_of(
        engine_loader(config),
        prompts,
        path=path,
        max_new_tokens=max_new_tokens,
        description=description,
        sampling=GREEDY,
        display=display,
    )
    if config.engine != "api":
        from derta.loading import release_memory

        release_memory()
    return replies


def _replies_of(
    load: EngineLoader,
    prompts: Sequence[Prompt],
    *,
    path: Path,
    max_new_tokens: int,
    description: str,
    sampling: Sampling,
    display: Display,
) -> list[Reply]:
    check_unique(prompts)
    ids = [prompt.id for prompt in prompts]
    expected = expected_replies(
        prompts,
        producer=dict(load.producer()),
        max_new_tokens=dict.fromkeys(ids, max_new_tokens),
        samplings=dict.fromkeys(ids, sampling),
    )
    stored = _stored(path, expected)
    if stored.keys() == expected.keys():
        return [stored[key] for key in expected]
    path.parent.mkdir(parents=True, exist_ok=True)
    supersede(path, Reply, expected)
    return generate_missing(load, prompts, path=path, expected=expected, description=description, display=display)


def _stored(path: Path, expected: Mapping[ReplyKey, Expected]) -> dict[ReplyKey, Reply]:
    """Return the replies of a file that would be the same today."""
    replies = read_records(path, Reply, complete_lines=True) if path.exists() else iter(())
    return {
        one.key: one
        for one in replies
        if one.unanswered != "failed" and one.key in expected and expected[one.key].fault(one) is None
    }


def outcomes(recipe: Recipe, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> list[Outcome]:
    """Return what each reply to a benign prompt is, by the refusal judge with the recipe's refusal words."""
    return outcomes_of(prompts, replies, refusal_words=recipe.model.refusal_words)


def outcomes_of(prompts: Sequence[Prompt], replies: Sequence[Reply], *, refusal_words: Sequence[str]) -> list[Outcome]:
    """Return what each reply to a benign prompt is, by the refusal judge with some refusal words."""
    judge = build_judge("refusal", refusal_words=refusal_words)
    cases = [Case(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)]
    return [_outcome(case.reply, verdict) for case, verdict in zip(cases, judge_cases(judge, cases), strict=True)]


def _outcome(reply: Reply, verdict: Verdict) -> Outcome:
    if reply.unanswered is not None:
        return "unanswered"
    if not answer_of(reply):
        return "cut_off" if reply.stop_reason == "length" else "empty"
    if verdict.refused or verdict.reply_class == "refuse_then_comply":
        return "refused"
    if verdict.reply_class in ("malformed", "degenerate"):
        return verdict.reply_class
    return "cut_off" if reply.stop_reason == "length" else "answered"


def answer_of(reply: Reply) -> str:
    """Return the answer of a reply, without the thought of a model that thinks and white space at its ends.

    >>> answer_of(Reply(prompt_id="1", text="Flour? Yes.</think> Mix flour. ", answer_at=19))
    'Mix flour.'
    """
    return reply.text[reply.answer_at or 0 :].strip()
