"""Replies of the models of `derta triples`: generated once, kept in a file with their provenance, and counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from derta.config import GREEDY, EngineConfig, JudgeConfig, Sampling
from derta.data.fields import REFUSED
from derta.data.matching import match_key
from derta.data.topic import shares_topic
from derta.errors import RecipeError
from derta.files import read_records
from derta.judges import build_judge, judge_cases
from derta.pipeline.generate import expected_replies, generate_missing
from derta.pipeline.judge import engine_loader, expected_verdicts, find_judge
from derta.pipeline.readiness import template_support
from derta.pipeline.resuming import check_unique, judge_missing, store_prompts, supersede
from derta.pipeline.triples.rows import NO_COST, Cost, Dropped, Stage
from derta.protocols import Case, Display, Engine, Judge
from derta.records import Prompt, Reply, ReplyClass, Verdict


class Answered(NamedTuple):
    """Cases of a stage, what their replies cost, and the prompts that the model's chat template refuses."""

    cases: list[Case]
    cost: Cost
    refused: list[Prompt]


class Models:
    """The models of all stages, of which one is loaded at a time: consecutive stages of one model share it."""

    def __init__(self) -> None:
        self._config: EngineConfig | None = None
        self._engine: Engine | None = None

    def load(self, config: EngineConfig) -> Engine:
        """Return the engine of a configuration; another one that is loaded is released."""
        named = EngineConfig(model=config.model, engine=config.engine, settings=config.settings)
        if self._engine is None or self._config != named:
            self.release()
            self._engine, self._config = engine_loader(named)(), named
        return self._engine

    def release(self) -> None:
        """Forget the engine, and return the memory of a local one."""
        local = self._config is not None and self._config.engine != "api"
        self._engine = self._config = None
        if local:
            from derta.loading import release_memory

            release_memory()


def ask_model(
    models: Models,
    config: EngineConfig,
    prompts: Sequence[Prompt],
    *,
    path: Path,
    max_new_tokens: int,
    description: str,
    sampling: Sampling = GREEDY,
    display: Display,
) -> Answered:
    """Return the cases of a model's replies to prompts; replies in the file that it would give today are used again.

    The prompts are written next to the replies. Replies to other prompts or of another model move to
    `*.superseded.jsonl`.

    Raises:
        EngineError: no server answers, or a prompt has no reply after all attempts.
        ModelError: the model cannot be loaded.
        RunError: another process writes the file.
    """
    check_unique(prompts)
    refused = _refused_by_template(config, prompts)
    prompts = [prompt for prompt in prompts if prompt not in refused] if refused else prompts
    if not prompts:
        return Answered([], NO_COST, refused)
    loader = engine_loader(EngineConfig(model=config.model, engine=config.engine, settings=config.settings))
    ids = [prompt.id for prompt in prompts]
    expected = expected_replies(
        prompts,
        producer=loader.producer(),
        max_new_tokens=dict.fromkeys(ids, max_new_tokens),
        samplings=dict.fromkeys(ids, sampling),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    store_prompts(prompts_path(path), prompts)
    supersede(path, Reply, expected)
    start = monotonic()
    replies = generate_missing(
        lambda: models.load(config), prompts, path=path, expected=expected, description=description, display=display
    )
    cost = Cost(
        calls=len(replies),
        prompt_tokens=sum(reply.prompt_tokens or 0 for reply in replies),
        tokens=sum(len(reply.token_ids or ()) for reply in replies),
        seconds=round(monotonic() - start, 3),
    )
    by_id = {prompt.id: prompt for prompt in prompts}
    return Answered([Case(by_id[reply.prompt_id], reply) for reply in replies], cost, refused)


def _refused_by_template(config: EngineConfig, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return the conversations that the chat template of a local model refuses; one message is never checked."""
    conversations = [one for one in prompts if one.messages and (len(one.messages) > 1 or one.tools)]
    support = template_support(config) if conversations else None
    if support is None:
        return []
    return [one for one in conversations if support.fault(one.messages or (), one.tools)]


def dropped_prompts(stage: Stage, prompts: Iterable[Prompt]) -> list[Dropped]:
    """Return the records of prompts that a chat template refuses."""
    return [Dropped(stage=stage, id=prompt.id, reason=REFUSED) for prompt in prompts]


def prompts_path(replies: Path) -> Path:
    """Return the path of the prompts of a file of replies."""
    return replies.with_name(replies.name.replace(".replies.", ".prompts."))


def count_done(path: Path, prompts: Iterable[Prompt] | None = None) -> int:
    """Return the number of replies to prompts in a file, of whichever model; None: of all replies."""
    records = read_records(path, Reply, complete_lines=True) if path.exists() else iter(())
    keys = {reply.key for reply in records}
    ids = None if prompts is None else {prompt.id for prompt in prompts}
    return sum(ids is None or prompt_id in ids for prompt_id, _ in keys)


def harm_judge(config: JudgeConfig, *, key: str) -> Judge:
    """Return the judge of harm of a configuration.

    Raises:
        DataError: the judge is unknown, or lacks its model.
        RecipeError: the judge does not measure harm.
    """
    judge = find_judge(config.name, model=config.engine_config)
    if judge.measures != "harmful":
        raise RecipeError(f"expected a judge of harm, got {config.name}; use harm or a judge with a model", key=key)
    return judge


def judge_harm_of(
    judge: Judge, cases: Sequence[Case], *, path: Path, models: Models, display: Display
) -> list[Verdict]:
    """Return a verdict for each case; those of a judge that asks a model are kept in a file, and asked for once."""
    if not judge.uses_model:
        return list(judge_cases(judge, cases))
    if not cases:
        return []
    models.release()
    expected = expected_verdicts(judge, cases)
    supersede(path, Verdict, expected)
    verdicts = judge_missing(
        path,
        Verdict,
        expected=expected,
        judge=judge.name,
        judge_replies=lambda missing: judge_cases(judge, (case for case in cases if case.reply.key in missing)),
        display=display,
    )
    by_key = {verdict.key: verdict for verdict in verdicts}
    return [by_key[case.reply.key] for case in cases]


def refusal_verdicts(cases: Sequence[Case], *, refusal_words: Sequence[str]) -> list[Verdict]:
    """Return the verdicts of the refusal judge."""
    return list(judge_cases(build_judge("refusal", refusal_words=refusal_words), cases))


_NO_ANSWER: dict[ReplyClass, str] = {"refuse": "refused", "comply_then_refuse": "refused", "malformed": "malformed"}


def no_answer_reason(case: Case, verdict: Verdict, *, text: str) -> str | None:
    """Return why a reply holds no answer: it is missing, empty, a loop, or it refuses; None if it may hold one."""
    if case.reply.unanswered is not None:
        return f"unanswered_{case.reply.unanswered}"
    if not text.strip():
        return "empty"
    if verdict.reply_class in ("degenerate", "empty"):
        return "degenerate"
    return None if verdict.reply_class is None else _NO_ANSWER.get(verdict.reply_class)


def is_off_topic(request: str, text: str) -> bool:
    """Return whether a text has no content word of a request that has some."""
    return shares_topic(request, text) is False


def distinct_share(texts: Sequence[str]) -> float | None:
    """Return the share of texts that differ, in 3 decimals; None without texts.

    >>> distinct_share(["Sorry, no.", "sorry no", "Sorry, never."])
    0.667
    """
    return round(len({match_key(text) for text in texts}) / len(texts), 3) if texts else None
