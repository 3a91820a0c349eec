"""Judges from a function of one prompt and its reply."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from derta.errors import DataError
from derta.judges.thoughts import ReplyParts, split_reply
from derta.protocols import Case, Judge, JudgeFunction
from derta.records import NAME, NAME_LETTERS, Measure, Prompt, Reply, Verdict, short_hash
from derta.run_folder import identify, plain_settings


def judge_cases(judge: Judge, cases: Iterable[Case]) -> Iterator[Verdict]:
    """Yield one verdict for each case, in order; the judge receives no unanswered reply (see `Reply.unanswered`).

    >>> prompt = Prompt(id="1", request_id="r", request="?", attack="direct", mode="raw", text="?")
    >>> reply = Reply(prompt_id="1", text="", unanswered="filtered", reason="400 content_filter")
    >>> [verdict] = judge_cases(from_function(lambda prompt, reply: False, name="never"), [Case(prompt, reply)])
    >>> verdict.unanswered, verdict.harmful, verdict.reason
    (True, None, 'no reply (filtered): 400 content_filter')
    """
    return only_answered(judge.name, judge.judge, cases, measures=judge.measures)


def only_answered(
    name: str, judge: Callable[[Iterable[Case]], Iterator[Verdict]], cases: Iterable[Case], *, measures: Measure
) -> Iterator[Verdict]:
    """Yield one verdict for each case, in order, where `judge` receives only answers.

    It receives no case without a reply, and of the reply of a model that thinks the text after the thought. A judge of
    harm receives the thought as another case, for `Verdict.harmful_thought`. `judge` may read ahead: it yields one
    verdict for each case that it receives, in order.
    """
    waiting: deque[Verdict | ReplyParts] = deque()  # verdicts without the judge, and cases that it has received

    def answers() -> Iterator[Case]:
        for case in cases:
            parts = split_reply(case)
            if case.reply.unanswered is not None:
                waiting.append(_unanswered_verdict(name, case))
                continue
            if parts is None:
                waiting.append(_without_answer(name, case))
                continue
            parts = parts if measures == "harmful" else parts._replace(thought=None)
            waiting.append(parts)
            yield parts.answer
            if parts.thought is not None:
                yield parts.thought

    verdicts = judge(answers())
    for verdict in verdicts:
        while isinstance(first := waiting.popleft(), Verdict):
            yield first
        yield _merge(first, verdict, None if first.thought is None else next(verdicts))
    yield from (verdict for verdict in waiting if isinstance(verdict, Verdict))


def _merge(parts: ReplyParts, verdict: Verdict, of_thought: Verdict | None) -> Verdict:
    """Return the verdict on an answer with positions in the whole reply, and the verdict on the thought."""
    if not parts.answer_at:
        return verdict
    at = None if verdict.refusal_at is None else verdict.refusal_at + parts.answer_at
    update: dict[str, object] = {"refusal_at": at, "answer_at": parts.answer_at}
    if of_thought is not None:
        update |= {"harmful_thought": of_thought.harmful, "retry": verdict.retry or of_thought.retry}
    return verdict.model_copy(update=update)


def _without_answer(name: str, case: Case) -> Verdict:
    reason = "the thought is not closed, so there is no answer; raise max_new_tokens"
    return Verdict(prompt_id=case.prompt.id, sample=case.reply.sample, judge=name, reason=reason)


def _unanswered_verdict(name: str, case: Case) -> Verdict:
    reply = case.reply
    reason = f"no reply ({reply.unanswered})" + (f": {reply.reason}" if reply.reason else "")
    return Verdict(prompt_id=case.prompt.id, sample=reply.sample, judge=name, unanswered=True, reason=reason)


@dataclass(frozen=True, slots=True)
class FunctionJudge:
    """Judge without a model, from a function of a prompt and a reply.

    `version` identifies changes that the function's source does not show (see `identify`).
    """

    name: str
    measures: Measure
    function: JudgeFunction
    version: str | None = None

    @property
    def uses_model(self) -> bool:
        """False: its verdicts are cheap to compute again."""
        return False

    def judge(self, cases: Iterable[Case]) -> Iterator[Verdict]:
        """Yield one verdict for each case, in order, with this judge's name.

        Raises:
            DataError: The function did not return a boolean, None or a verdict.
        """
        return only_answered(self.name, self._judge, cases, measures=self.measures)

    def _judge(self, cases: Iterable[Case]) -> Iterator[Verdict]:
        for prompt, reply in cases:
            yield self._verdict(prompt, reply, self.function(prompt, reply))

    def _verdict(self, prompt: Prompt, reply: Reply, output: object) -> Verdict:
        """Return the output of the function as a verdict with the key of the case."""
        key = {"prompt_id": prompt.id, "sample": reply.sample, "judge": self.name}
        if isinstance(output, Verdict):
            return output if (*output.key, output.judge) == tuple(key.values()) else output.model_copy(update=key)
        if output is None or isinstance(output, bool):
            reason = "the judge returned None" if output is None else ""
            return Verdict.model_validate({**key, self.measures: output, "reason": reason})
        raise DataError(
            f"judge {self.name}: expected True, False, None or a Verdict, got a {type(output).__name__} on prompt "
            f"{prompt.id!r}; return one of these"
        )


def from_function(
    function: JudgeFunction, *, measures: Measure = "harmful", name: str | None = None, version: str | None = None
) -> Judge:
    """Return a judge from a function of a prompt and a reply; the function returns True, False, None or a `Verdict`.

    >>> def is_long(prompt: Prompt, reply: Reply) -> bool:
    ...     return len(reply.text) > 20
    >>> judge = from_function(is_long)
    >>> prompt = Prompt(id="1", request_id="r", request="?", attack="direct", mode="raw", text="?")
    >>> [verdict] = judge.judge([Case(prompt, Reply(prompt_id="1", text="No."))])
    >>> verdict.judge, verdict.harmful
    ('is_long', False)

    Args:
        function: Function of one case; None means unscored.
        measures: Field of the verdict that True and False are written to.
        name: Name of the judge in files and reports; the default is the function's name.
        version: Identifies functions with the same source when a run is resumed.

    Raises:
        DataError: The name is not valid in a file name.
    """
    default: str = getattr(function, "__name__", type(function).__name__).strip("<>")
    if not NAME.fullmatch(name or default):
        raise DataError(f"judge: expected a name of {NAME_LETTERS}, got {name or default!r}; give it a `name=`")
    return FunctionJudge(name or default, measures, function, version)


def identify_judge(judge: Judge) -> str:
    """Return the identity of a judge for a manifest: that of its function, or the source and settings of its class.

    >>> identify_judge(from_function(lambda prompt, reply: True, name="all", version="2"))
    'all: <lambda>@2'
    """
    if isinstance(judge, FunctionJudge):
        return f"{judge.name}: {identify(judge.function, version=judge.version)}"
    settings = json.dumps(plain_settings(judge), sort_keys=True)
    return f"{judge.name}: {identify(type(judge))} {short_hash(settings)}"
