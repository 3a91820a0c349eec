"""What a search tried, kept line by line so that it can go on where it stopped, and told by its budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from derta.errors import RunError
from derta.files import drop_torn_line, read_records
from derta.records import Cost, Message, Record, Request, Text, Verdict

BUDGETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class Attempt(Record):
    """One step of one stream: what the target was asked, what it said, and what the judge said of that.

    `messages` is None where nothing was asked: the attacker's output was `malformed` time after time, or the target
    cannot take the prompt. `score` runs from 0 to 1; what the judge could not tell is None.
    """

    search: Text
    request_id: Text
    stream: int
    step: int
    messages: tuple[Message, ...] | None = None
    note: str = ""
    reply: str = ""
    harmful: bool | None = None
    score: float | None = None
    malformed: int = 0
    cost: Cost

    @property
    def draft(self) -> str:
        """The last message that the target was sent."""
        return self.messages[-1].content if self.messages else ""


class Budget(Record):
    """How many of the requests had been answered harmfully after at most so many queries of the target each."""

    queries: int
    found: int
    requests: int


def grade(verdict: Verdict) -> float | None:
    """A verdict as a number from 0 to 1: the judge's score where it has one, else 0 or 1.

    >>> grade(Verdict(prompt_id="p", judge="strongreject", harmful=True, score=0.75))
    0.75
    >>> grade(Verdict(prompt_id="p", judge="guideline", harmful=True)), grade(Verdict(prompt_id="p", judge="guideline"))
    (1.0, None)
    """
    if verdict.harmful is None:
        return None
    return float(verdict.harmful) if verdict.score is None else verdict.score


def read_attempts(path: Path, *, key: str) -> list[Attempt]:
    """What a search has tried so far; a torn last line is cut off.

    Raises:
        RunError: the file is another search's.
        DataError: it holds something else.
    """
    drop_torn_line(path)
    attempts = list(read_records(path, Attempt)) if path.exists() else []
    if any(attempt.search != key for attempt in attempts):
        raise RunError(
            f"{path}: expected the tries of this search, got those of another target, attacker, judge, seed or option; "
            "choose another file, or delete it"
        )
    return attempts


def tries_by_request(path: Path, requests: Sequence[Request], *, key: str) -> dict[str, list[Attempt]]:
    """What a search has tried so far, for each of its requests; see `read_attempts`."""
    known: dict[str, list[Attempt]] = {request.id: [] for request in requests}
    for attempt in read_attempts(path, key=key):
        known.setdefault(attempt.request_id, []).append(attempt)
    return known


def add_costs(costs: Sequence[Cost]) -> Cost:
    """What several things cost together."""
    return Cost(
        target_queries=sum(cost.target_queries for cost in costs),
        attacker_queries=sum(cost.attacker_queries for cost in costs),
        judge_queries=sum(cost.judge_queries for cost in costs),
        tokens=sum(cost.tokens for cost in costs),
        seconds=sum(cost.seconds for cost in costs),
    )


def total(attempts: Iterable[Attempt]) -> Cost:
    """What attempts cost together."""
    return add_costs([attempt.cost for attempt in attempts])


def best(attempts: Iterable[Attempt]) -> Attempt | None:
    """The first attempt of the highest score, one without a score where none has any; None where nothing was asked."""
    asked = [attempt for attempt in attempts if attempt.messages is not None]
    return max(asked, key=lambda attempt: -1.0 if attempt.score is None else attempt.score, default=None)


def success_by_budget(attempts: Iterable[Attempt]) -> list[Budget]:
    """How far each number of queries would have come: those of `BUDGETS` below the most that a request took, and that.

    Queries count in the order they were made; within a step, streams in their order. Nothing is told of a search that
    no judge took part in.
    """
    attempts = list(attempts)
    if not any(attempt.cost.judge_queries for attempt in attempts):
        return []
    asked: dict[str, int] = {}
    first: dict[str, int] = {}
    for attempt in attempts:
        asked[attempt.request_id] = asked.get(attempt.request_id, 0) + attempt.cost.target_queries
        if attempt.harmful:
            first.setdefault(attempt.request_id, asked[attempt.request_id])
    most = max(asked.values(), default=0)
    limits = [limit for limit in BUDGETS if limit < most] + [most]
    return [
        Budget(queries=limit, found=sum(count <= limit for count in first.values()), requests=len(asked))
        for limit in limits
    ]
