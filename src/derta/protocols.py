"""Protocols between stages: engines, judges, and the caller's display of progress and log messages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from derta.errors import EngineError
from derta.records import Measure, Prompt, Reply, Verdict
from derta.sampling import GREEDY, Sampling


class Case(NamedTuple):
    """A prompt with its reply, the input of a judge."""

    prompt: Prompt
    reply: Reply


@runtime_checkable
class Judge(Protocol):
    """Interface of a judge: returns a verdict for each reply, whose fields are None where the judge cannot decide.

    A judge does not depend on the attack or the method.

    >>> from derta.judges import JUDGES
    >>> judge: Judge = JUDGES["refusal"]()
    >>> judge.name, judge.measures
    ('refusal', 'refused')
    """

    @property
    def name(self) -> str:
        """Name of the judge in verdicts, file names and reports."""
        ...

    @property
    def measures(self) -> Measure:
        """Name of the verdict field that a rate counts."""
        ...

    @property
    def uses_model(self) -> bool:
        """True if the judge runs a model: its verdicts are expensive, so each is written as soon as it is returned."""
        ...

    def judge(self, cases: Iterable[Case]) -> Iterator[Verdict]:
        """Yield one verdict per case, in order, without loading all cases into memory."""
        ...


JudgeFunction = Callable[[Prompt, Reply], Verdict | bool | None]
"""A custom judge function of one case. It returns a bool, None if it cannot decide, or a complete verdict."""


class UnansweredError(EngineError):
    """Prompts without a reply, after the replies to all others.

    `replies` are their records (see `Reply.unanswered`).
    """

    def __init__(self, message: str, replies: Sequence[Reply]) -> None:
        super().__init__(message)
        self.replies = tuple(replies)


class Engine(Protocol):
    """Interface of an inference engine: a local, served or scripted model.

    >>> from derta.engines.scripted import ScriptedModel
    >>> model: Engine = ScriptedModel({"direct:7": "Sorry, no."})
    """

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, sampling: Sampling = GREEDY
    ) -> Iterator[Reply]:
        """Yield a reply for each sample of each prompt, in any order, as soon as each is complete.

        By default it is one greedy reply per prompt. A sampled reply has the number of its sample and its seed.

        Raises:
            UnansweredError: After all other replies, if prompts have none.
        """
        ...

    def log_likelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[list[float]]:
        """Return the log-probability of each token of each continuation, after its prompt and prefill."""
        ...

    def refusal_probability(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[list[float]]:
        """Return the probability that a refusal word comes next, at each position of each continuation.

        It is the sum over the words in both forms, bare and after a space; a form of several tokens has the product of
        their probabilities. Each list has one entry more than its continuation has tokens: the last is the probability
        after all tokens.
        """
        ...


@runtime_checkable
class StreamingEngine(Protocol):
    """Interface of an engine that takes prompts one by one, in bounded memory: a served model."""

    def stream(
        self, samples: Iterable[tuple[Prompt, int]], *, max_new_tokens: int, sampling: Sampling = GREEDY
    ) -> Iterator[Reply]:
        """Yield a reply for each prompt and number of a sample, in any order; each is drawn when it can be sent.

        A prompt without a reply has an unanswered one (see `Reply.unanswered`).

        Raises:
            UnansweredError: The first prompts have no reply, so that the settings are at fault.
        """
        ...


@dataclass(frozen=True, slots=True)
class EngineLoader:
    """A function that loads an engine, and one that returns the provenance of its output without loading it."""

    load: Callable[[], Engine]
    producer: Callable[[], Mapping[str, str]]

    def __call__(self) -> Engine:
        """Load the engine."""
        return self.load()


class ProgressTask(Protocol):
    """Interface of a progress bar."""

    def update(self, completed: int) -> None:
        """Set the number of completed items."""
        ...

    def set_total(self, total: int) -> None:
        """Set the total number of items."""
        ...


class Progress(Protocol):
    """Interface of a progress display: `with progress.task("replies", total=9) as task: task.update(3)`."""

    def task(self, description: str, *, total: int) -> AbstractContextManager[ProgressTask]:
        """Show a progress bar while the block runs."""
        ...


class _SilentTask:
    def update(self, completed: int) -> None:
        del completed

    def set_total(self, total: int) -> None:
        del total


class NoProgress:
    """Progress display without output, the default in notebooks and scripts."""

    @contextmanager
    def task(self, description: str, *, total: int) -> Generator[ProgressTask]:
        """Run the block without a progress bar."""
        del description, total
        yield _SilentTask()


@dataclass(frozen=True, slots=True)
class Display:
    """Configuration of a run's output: a progress display and a standard logger. The pipeline never prints.

    >>> Display().logger.name
    'derta'
    """

    progress: Progress = field(default_factory=NoProgress)
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger("derta"))
