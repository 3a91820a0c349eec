"""Interfaces between stages: engines, judges, and the display that a caller hands in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from derta.records import Measure, Prompt, Reply, Verdict


class Case(NamedTuple):
    """A prompt and the reply to it: what a judge judges."""

    prompt: Prompt
    reply: Reply


@runtime_checkable
class Judge(Protocol):
    """Judges replies. What it cannot tell is None; of attacks and methods it knows nothing.

    >>> from derta.judges import JUDGES
    >>> judge: Judge = JUDGES["refusal"]()
    >>> judge.name, judge.measures
    ('refusal', 'refused')
    """

    @property
    def name(self) -> str:
        """The judge's name in verdicts, files and reports."""
        ...

    @property
    def measures(self) -> Measure:
        """The field of its verdicts that a rate counts."""
        ...

    @property
    def uses_model(self) -> bool:
        """Whether verdicts are expensive: they are then kept one by one as they come."""
        ...

    def judge(self, cases: Iterable[Case]) -> Iterator[Verdict]:
        """One verdict a case, in order, without holding all cases."""
        ...


JudgeFunction = Callable[[Prompt, Reply], Verdict | bool | None]
"""A user's judge of one case: a yes or no, None where it cannot tell, or a whole verdict."""


class Engine(Protocol):
    """A model behind one interface: local, served, or scripted.

    >>> from derta.engines.scripted import ScriptedModel
    >>> model: Engine = ScriptedModel({"direct:7": "Sorry, no."})
    """

    def generate(self, prompts: Sequence[Prompt], *, max_new_tokens: int) -> Iterator[Reply]:
        """Greedy replies, exactly one a prompt, in any order, each as soon as it is known."""
        ...

    def log_likelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[list[float]]:
        """The log-probability of each token of each continuation, after its prompt (and prefill)."""
        ...

    def refusal_probability(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[list[float]]:
        """At each position of each continuation, the probability that a refusal token comes there instead.

        The list is one longer than the continuation has tokens: the last entry stands after all of it.
        """
        ...


class ProgressTask(Protocol):
    """One running progress bar."""

    def update(self, completed: int) -> None:
        """Set how many items are done."""
        ...

    def set_total(self, total: int) -> None:
        """Set how many items there will be."""
        ...


class Progress(Protocol):
    """A progress display: `with progress.task("replies", total=9) as task: task.update(3)`."""

    def task(self, description: str, *, total: int) -> AbstractContextManager[ProgressTask]:
        """Show a bar while the block runs."""
        ...


class _SilentTask:
    def update(self, completed: int) -> None:
        del completed

    def set_total(self, total: int) -> None:
        del total


class NoProgress:
    """Show nothing: the default in notebooks and scripts."""

    @contextmanager
    def task(self, description: str, *, total: int) -> Generator[ProgressTask]:
        """Run the block without a display."""
        del description, total
        yield _SilentTask()


@dataclass(frozen=True, slots=True)
class Display:
    """How a caller follows long work: a progress display and a standard logger. The pipeline never prints.

    >>> Display().logger.name
    'derta'
    """

    progress: Progress = field(default_factory=NoProgress)
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger("derta"))
