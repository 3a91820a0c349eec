"""Scheduler of concurrent requests to one or more servers, with rate limits, load balancing and retries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from random import Random
from typing import Generic, NamedTuple, TypeVar

from derta.errors import DertaError, ServerError
from derta.records import Unanswered

J = TypeVar("J")
R = TypeVar("R")
Query = Callable[[int, J], Awaitable[R]]
"""Function that sends one job to server n; errors other than `RetryableError` and `RejectedError` stop all jobs."""

UNREACHABLE_ATTEMPTS = 4
UNANSWERED_ATTEMPTS = 3
"""Minimum number of failures in a row, over all requests, before `Limits.patience` applies."""
ROOM_SECONDS = 0.002
"""Seconds between two checks whether the consumer of the outcomes has caught up."""


class RetryableError(Exception):
    """Temporary failure of a request.

    Attributes:
        after: Seconds to wait that the server requested.
        busy: The server accepts no request at the moment.
        unreachable: There is no server at the address.
    """

    def __init__(self, reason: str, *, after: float = 0.0, busy: bool = False, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.after = after
        self.busy = busy
        self.unreachable = unreachable


class RejectedError(Exception):
    """Permanent failure of one request; other requests may succeed.

    `filtered` is True if a content filter stopped the request.
    """

    def __init__(self, reason: str, *, filtered: bool = False) -> None:
        super().__init__(reason)
        self.filtered = filtered


class Outcome(NamedTuple, Generic[R]):
    """Answer to job number `job`; None if the job failed, with the reason in `failure` and its cause."""

    job: int
    value: R | None
    failure: str = ""
    cause: Unanswered = "failed"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of concurrency, rate and retries.

    Attributes:
        concurrency: Maximum number of requests in flight, over all servers.
        requests_per_minute: Rate limit over all servers, evenly spread; None is no limit.
        attempts: Maximum number of failed attempts per request.
        busy_attempts: Maximum number of additional attempts on busy servers, as under a rate limit many requests wait.
        first_wait: Maximum seconds before the second attempt; the wait doubles with each attempt.
        longest_wait: Maximum seconds of a doubled wait. A server may request a longer one.
        patience: Seconds without an answer from any server after which no further attempt is made.
    """

    concurrency: int = 16
    requests_per_minute: float | None = None
    attempts: int = 8
    busy_attempts: int = 40
    first_wait: float = 0.5
    longest_wait: float = 60.0
    patience: float = 300.0

    def wait(self, failed: int, rng: Random) -> float:
        """Return the seconds before the next attempt: exponential backoff, half fixed, half random jitter."""
        return min(self.longest_wait, self.first_wait * 2 ** (failed - 1)) * rng.uniform(0.5, 1.0)


@dataclass(slots=True)
class _Server:
    number: int
    in_flight: int = 0
    free_at: float = 0.0
    lost: int = 0  # attempts in a row that did not reach it

    @property
    def down(self) -> bool:
        return self.lost > 0


@dataclass(slots=True)
class _Silence:
    """Time since the last answer of any server, and the number of failures since then."""

    since: float
    failures: int = 0

    def end(self) -> None:
        self.since, self.failures = asyncio.get_running_loop().time(), 0

    def check(self, reason: str, limits: Limits) -> None:
        """Count a failure.

        Raises:
            ServerError: No server has answered for `limits.patience` seconds.
        """
        self.failures += 1
        seconds = asyncio.get_running_loop().time() - self.since
        if self.failures >= UNANSWERED_ATTEMPTS and seconds >= limits.patience:
            raise ServerError(
                f"{reason}; no server has answered for {seconds:.0f} s, in {self.failures} attempts; complete replies "
                "are kept; check the server, then run the same command again"
            )


class _RateLimiter:
    """Rate limiter that admits one request every `interval` seconds."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._next = 0.0

    async def turn(self) -> None:
        now = asyncio.get_running_loop().time()
        start = max(now, self._next)
        self._next = start + self._interval
        if start > now:
            await asyncio.sleep(start - now)


async def _free_server(servers: Sequence[_Server], *, avoid: int | None) -> _Server:
    """Return the available server with the fewest requests in flight; wait if none is available."""
    while True:
        now = asyncio.get_running_loop().time()
        best = min(servers, key=lambda one: (max(0.0, one.free_at - now), one.number == avoid, one.in_flight))
        if best.free_at <= now:
            return best
        await asyncio.sleep(best.free_at - now)


async def _query_with_retries(
    number: int,
    job: J,
    query: Query[J, R],
    *,
    servers: Sequence[_Server],
    limits: Limits,
    pace: _RateLimiter,
    silence: _Silence,
    rng: Random,
) -> Outcome[R]:
    failed, busy, last = 0, 0, None
    while True:
        server = await _free_server(servers, avoid=last)
        server.in_flight += 1
        if server.down:  # one request at a time finds out whether it is back
            server.free_at = asyncio.get_running_loop().time() + limits.wait(server.lost, rng)
        try:
            await pace.turn()
            value = await query(server.number, job)
        except RejectedError as rejected:
            server.lost = 0
            silence.end()
            return Outcome(number, None, str(rejected), "filtered" if rejected.filtered else "rejected")
        except RetryableError as fault:
            reason, last = str(fault), server.number
            server.lost = server.lost + 1 if fault.unreachable else 0
            failed, busy = failed + (not fault.busy), busy + fault.busy
            wait = limits.wait(failed + busy, rng)
            if fault.busy:
                server.free_at = asyncio.get_running_loop().time() + fault.after + wait
            if fault.unreachable and not all(one.down for one in servers):
                wait = 0.0  # another server may answer at once
        else:
            server.lost = 0
            silence.end()
            return Outcome(number, value)
        finally:
            server.in_flight -= 1
        if busy >= UNREACHABLE_ATTEMPTS and all(one.down for one in servers):
            raise ServerError(f"{reason}; check that the server runs, then run the same command again")
        silence.check(reason, limits)
        if failed >= limits.attempts or busy >= limits.busy_attempts:
            return Outcome(number, None, f"{reason} ({failed + busy} attempts)")
        await asyncio.sleep(wait)


async def schedule(
    jobs: Iterable[J],
    query: Query[J, R],
    report: Callable[[Outcome[R]], None],
    *,
    servers: int,
    limits: Limits,
    rng: Random,
    has_room: Callable[[], bool] = lambda: True,
) -> None:
    """Send every job, with retries after temporary failures.

    Args:
        jobs: The jobs; each is drawn when a request may be sent, so that they need not fit in memory.
        query: Function that sends a job to a server.
        report: Callback that receives each outcome exactly once, in order of completion.
        servers: Number of servers.
        limits: Limits of concurrency, rate and retries.
        rng: Random generator of the jitter.
        has_room: Whether another job may be drawn; while it returns False, the jobs in flight are completed.

    Raises:
        DertaError: `query` or the iterator of the jobs raised it. The remaining jobs are not sent.
        ServerError: No server can be reached, or none has answered for `limits.patience` seconds.
    """
    waiting = iter(enumerate(jobs))
    pool = [_Server(number) for number in range(servers)]
    pace = _RateLimiter(60.0 / limits.requests_per_minute if limits.requests_per_minute else 0.0)

    silence = _Silence(asyncio.get_running_loop().time())

    async def work() -> None:
        for number, job in waiting:
            outcome = await _query_with_retries(
                number, job, query, servers=pool, limits=limits, pace=pace, silence=silence, rng=rng
            )
            report(outcome)
            while not has_room():
                await asyncio.sleep(ROOM_SECONDS)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(limits.concurrency):
                group.create_task(work())
    except* DertaError as fatal:
        raise fatal.exceptions[0] from None


def in_background(produce: Callable[[Callable[[R], None]], Awaitable[None]]) -> Generator[R]:
    """Run a coroutine in a background thread and yield its results; closing the iterator cancels the coroutine.

    The caller may have an event loop. The coroutine continues while the caller processes a result.
    """
    from anyio.from_thread import start_blocking_portal

    results: SimpleQueue[R | None] = SimpleQueue()
    with start_blocking_portal() as portal:
        running = portal.start_task_soon(produce, results.put)
        running.add_done_callback(lambda _: results.put(None))
        try:
            while (one := results.get()) is not None:
                yield one
            running.result()
        finally:
            running.cancel()
