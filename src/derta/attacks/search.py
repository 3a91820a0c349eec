"""Context of a search: target, attacker, judge and log, with batched generation, log-likelihoods and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import NamedTuple, TypeVar

from derta.attacks.attempts import AttemptLog
from derta.attacks.journal import CallJournal, journaled_judge
from derta.errors import DataError, ModelError, RecipeError
from derta.protocols import Case, Engine, Judge, JudgeFunction
from derta.records import Message, Prompt, Reply, Request, Tools, Verdict
from derta.run_folder import identify

H = TypeVar("H")
JudgeCases = Callable[[Sequence[Case]], list[Verdict]]
"""A judge as a search uses it: a batch of cases in, one verdict per case out, in order."""


@dataclass(frozen=True, slots=True)
class SearchContext:
    """The models and the judge of a search, and the log of its attempts."""

    target: Engine
    log: AttemptLog
    attacker: Engine | None = None
    judge: JudgeCases | None = None
    clock: Callable[[], float] = monotonic


def required(helper: H | None, name: str) -> H:
    """Return the attacker or judge that a search requires.

    Raises:
        RecipeError: it is None.
    """
    if helper is None:
        raise RecipeError(f"expected {name} for the search, got none; give one")
    return helper


def judge_name(judge: Judge | JudgeFunction) -> str:
    """Return the name of a judge or of a judge function."""
    return judge.name if isinstance(judge, Judge) else getattr(judge, "__qualname__", type(judge).__qualname__)


def judge_key(judge: Judge | JudgeFunction, *, saved: bool) -> str:
    """Return the identifier of a judge for the key of a search.

    It is the judge's name. If the attempts are `saved` to a file, the identifier of a function includes its source.

    Raises:
        RunError: the attempts are saved, and the function has no source code.
    """
    return judge_name(judge) if isinstance(judge, Judge) or not saved else identify(judge)


def as_judge(judge: Judge | JudgeFunction, *, journal: CallJournal | None = None) -> JudgeCases:
    """Convert a judge, or a function of a prompt and its reply, to a function of a batch of cases.

    With a journal, its verdicts are recorded there.

    >>> prompt = Prompt(id="p", request_id="r", request="?", attack="pair", mode="raw", text="?")
    >>> judge = as_judge(lambda prompt, reply: "mix" in reply.text)
    >>> judge([Case(prompt, Reply(prompt_id="p", text="First mix it."))])[0].harmful
    True

    Raises:
        RecipeError: the argument is neither, or the judge does not measure harm.
    """
    verdicts = _verdict_iterator(judge)
    return (lambda cases: [*verdicts(cases)]) if journal is None else journaled_judge(verdicts, journal)


def _verdict_iterator(judge: Judge | JudgeFunction) -> Callable[[Sequence[Case]], Iterator[Verdict]]:
    if isinstance(judge, Judge):
        if judge.measures != "harmful":
            raise RecipeError(
                f"judge {judge.name!r}: expected one that measures harm, such as harm or guideline, got one that "
                f"measures {judge.measures!r}"
            )
        return judge.judge
    if not callable(judge):
        raise RecipeError(
            f"judge: expected a judge or a function of a prompt and its reply, got {judge!r}; build one with "
            "`derta.judges.build_judge`"
        )
    name = judge_name(judge)
    return lambda cases: (_verdict(judge(*case), case, name=name) for case in cases)


def _verdict(result: object, case: Case, *, name: str) -> Verdict:
    if isinstance(result, Verdict):
        return result
    if result is not None and not isinstance(result, bool):
        raise DataError(
            f"judge {name}: expected True, False, None or a Verdict, got a {type(result).__name__} on prompt "
            f"{case.prompt.id!r}; return one of these"
        )
    return Verdict(prompt_id=case.prompt.id, sample=case.reply.sample, judge=name, harmful=result)


class ReplyBatch(NamedTuple):
    """Replies by prompt id. A prompt that the engine cannot process or does not answer has no entry."""

    by_id: dict[str, Reply]

    def tokens(self, prompt_id: str) -> int:
        """Return the number of tokens of a reply; 0 if the engine does not report it."""
        reply = self.by_id.get(prompt_id)
        return len(reply.token_ids or ()) if reply else 0


def query_prompt(
    request: Request, name: str, messages: tuple[Message, ...], *, attack: str, tools: Tools = None
) -> Prompt:
    """Return an intermediate prompt of a search. `name` makes its id unique within the request.

    The target's prompts have the request's `tools`; the attacker's have none.
    """
    return Prompt(
        id=f"{request.id}/{name}",
        request_id=request.id,
        request=request.in_context,
        attack=attack,
        messages=messages,
        category=request.category,
        answer=request.answer,
        steps=request.steps,
        tools=tools,
    )


def generate_all(engine: Engine, prompts: Sequence[Prompt], *, max_new_tokens: int) -> ReplyBatch:
    """Generate replies to all prompts in one batch; if that is an error, generate them one by one.

    Raises:
        ModelError: the engine cannot process any of the prompts.
    """
    try:
        replies = list(engine.generate(prompts, max_new_tokens=max_new_tokens))
        return ReplyBatch({reply.prompt_id: reply for reply in replies if reply.unanswered is None})
    except ModelError:
        if len(prompts) < 2:
            raise
    by_id: dict[str, Reply] = {}
    last_error: ModelError | None = None
    for prompt in prompts:
        try:
            reply = next(iter(engine.generate([prompt], max_new_tokens=max_new_tokens)))
            by_id |= {prompt.id: reply} if reply.unanswered is None else {}
        except ModelError as error:
            last_error = error
    if last_error is not None and not by_id:
        raise last_error
    return ReplyBatch(by_id)


def mean_likelihoods(engine: Engine, prompts: Sequence[Prompt], continuation: str) -> list[float]:
    """Compute the mean log-probability per token of a continuation after each prompt.

    Return -inf for a prompt that the engine cannot process.

    Raises:
        ModelError: the engine cannot process any of the prompts.
    """
    try:
        rows = engine.log_likelihood(prompts, [continuation] * len(prompts))
    except ModelError:
        if len(prompts) < 2:
            raise
        return _one_by_one(engine, prompts, continuation)
    return [sum(row) / len(row) for row in rows]


def _one_by_one(engine: Engine, prompts: Sequence[Prompt], continuation: str) -> list[float]:
    values: list[float] = []
    last_error: ModelError | None = None
    for prompt in prompts:
        try:
            values += mean_likelihoods(engine, [prompt], continuation)
        except ModelError as error:
            last_error = error
            values.append(float("-inf"))
    if last_error is not None and max(values) == float("-inf"):
        raise last_error
    return values
