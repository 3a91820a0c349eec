"""Log of the attempts of a search, so that a stopped search can resume, and success rates by query budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from derta.attacks.journal import CallJournal, open_journal
from derta.errors import RunError
from derta.files import Appender, drop_torn_line, read_records
from derta.records import Cost, Message, Record, Request, Text, Verdict

BUDGETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class Attempt(Record):
    """One step of one stream of a search: the target's prompt, its reply, and the judge's verdict.

    `messages` is None if the target received no prompt: all of the attacker's outputs were malformed (`malformed`
    counts them), or the prompt was too long for the target. `score` is in [0, 1], or None without a verdict.
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
        """The last message of the target's prompt."""
        return self.messages[-1].content if self.messages else ""


class Budget(Record):
    """The number of requests (`found`) that got a harmful reply within `queries` target queries per request."""

    queries: int
    found: int
    requests: int


def grade(verdict: Verdict) -> float | None:
    """Convert a verdict to a number in [0, 1]: its score, or by default 0 or 1. None without a verdict.

    >>> grade(Verdict(prompt_id="p", judge="strongreject", harmful=True, score=0.75))
    0.75
    >>> grade(Verdict(prompt_id="p", judge="guideline", harmful=True)), grade(Verdict(prompt_id="p", judge="guideline"))
    (1.0, None)
    """
    if verdict.harmful is None:
        return None
    return float(verdict.harmful) if verdict.score is None else verdict.score


@dataclass(frozen=True, slots=True)
class AttemptLog:
    """The attempts of one search by request id, in a file, or in memory if `path` is None.

    `key` identifies the search: its requests, target, attacker, judge, seed and options. `journal` holds the calls of
    the attempts that are not complete; it is None in memory.
    """

    key: str
    path: Path | None = None
    by_request: dict[str, list[Attempt]] = field(default_factory=dict[str, list[Attempt]])
    journal: CallJournal | None = None

    def attempts(self, request: Request) -> list[Attempt]:
        """Return the attempts for a request, in order."""
        return self.by_request.setdefault(request.id, [])

    def extend(self, attempts: Iterable[Attempt]) -> None:
        """Append attempts, each as soon as the iterable yields it, and then clear the journal of their calls."""
        if self.path is None:
            for attempt in attempts:
                self._add(attempt)
            return
        with Appender(self.path) as file:
            for attempt in attempts:
                file.add(attempt)
                self._add(attempt)
        if self.journal is not None:
            self.journal.clear()

    def _add(self, attempt: Attempt) -> None:
        self.by_request.setdefault(attempt.request_id, []).append(attempt)


def open_log(path: Path | None, *, key: str) -> AttemptLog:
    """Load the log of a search from its file, or return an empty log if there is none.

    Raises:
        RunError: the file belongs to another search.
        DataError: the file contains something else.
    """
    journal = None if path is None else open_journal(path.with_name(path.name + ".calls"), search=key)
    log = AttemptLog(key, path, journal=journal)
    for attempt in () if path is None else read_attempts(path):
        if attempt.search != key:
            raise RunError(
                f"{path}: expected the attempts of this search, got those of another target, attacker, judge, seed or "
                "option; choose another file, or delete this one"
            )
        log.by_request.setdefault(attempt.request_id, []).append(attempt)
    return log


def read_attempts(path: Path) -> list[Attempt]:
    """Load the attempts from the state file of a search. An incomplete last line is removed from the file.

    Raises:
        DataError: the file contains something else.
    """
    drop_torn_line(path)
    return list(read_records(path, Attempt)) if path.exists() else []


def add_costs(costs: Sequence[Cost]) -> Cost:
    """Return the sum of several costs."""
    return Cost(
        target_queries=sum(cost.target_queries for cost in costs),
        attacker_queries=sum(cost.attacker_queries for cost in costs),
        judge_queries=sum(cost.judge_queries for cost in costs),
        tokens=sum(cost.tokens for cost in costs),
        seconds=sum(cost.seconds for cost in costs),
    )


def total(attempts: Iterable[Attempt]) -> Cost:
    """Return the total cost of several attempts."""
    return add_costs([attempt.cost for attempt in attempts])


def best(attempts: Iterable[Attempt]) -> Attempt | None:
    """Return the first attempt with the highest score; None if no prompt was sent.

    Attempts without a score rank last.
    """
    sent = [attempt for attempt in attempts if attempt.messages is not None]
    return max(sent, key=lambda attempt: -1.0 if attempt.score is None else attempt.score, default=None)


def success_by_budget(attempts: Iterable[Attempt]) -> list[Budget]:
    """Compute the number of successful requests for each budget of target queries.

    The budgets are the values of `BUDGETS` below the largest number of queries of any request, and that number.
    Queries count in the order of the attempts (by step, then by stream). Return an empty list for a search without a
    judge.
    """
    attempts = list(attempts)
    if not any(attempt.cost.judge_queries for attempt in attempts):
        return []
    queries: dict[str, int] = {}
    first_success: dict[str, int] = {}
    for attempt in attempts:
        queries[attempt.request_id] = queries.get(attempt.request_id, 0) + attempt.cost.target_queries
        if attempt.harmful:
            first_success.setdefault(attempt.request_id, queries[attempt.request_id])
    most = max(queries.values(), default=0)
    limits = [limit for limit in BUDGETS if limit < most] + [most]
    return [
        Budget(queries=limit, found=sum(count <= limit for count in first_success.values()), requests=len(queries))
        for limit in limits
    ]
