"""Scheduler of many requests to one or more servers: bounded, paced, retried; each ends in an answer or a reason."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from random import Random
from typing import Generic, NamedTuple, TypeVar

from derta.errors import EngineError

J = TypeVar("J")
R = TypeVar("R")
Query = Callable[[int, J], Awaitable[R]]
"""Sends one job to server number n. Raises `RetryableError`, `RejectedError`, or any other error, which ends all."""

UNREACHABLE_ATTEMPTS = 4


class RetryableError(Exception):
    """A request failed in a way that may pass.

    `busy`: the server takes no request for now (`after`: the seconds it asked for); `unreachable`: there is none.
    """

    def __init__(self, why: str, *, after: float = 0.0, busy: bool = False, unreachable: bool = False) -> None:
        super().__init__(why)
        self.after = after
        self.busy = busy
        self.unreachable = unreachable


class RejectedError(Exception):
    """A server will never answer this request; others it may."""


class Outcome(NamedTuple, Generic[R]):
    """The answer to job number `job`, or the reason why there is none."""

    job: int
    value: R | None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of concurrency, rate and retries.

    Attributes:
        concurrency: Requests in flight at once, over all servers.
        requests_per_minute: Over all servers, evenly spread; None: no limit.
        attempts: How often one request may fail before it is given up.
        busy_attempts: How often, in addition, it may find a server busy: behind a rate limit many wait for few places.
        first_wait: Seconds before the second attempt, at most; each wait is twice the one before.
        longest_wait: What doubling stops at. A server may ask for longer.
    """

    concurrency: int = 16
    requests_per_minute: float | None = None
    attempts: int = 8
    busy_attempts: int = 40
    first_wait: float = 0.5
    longest_wait: float = 60.0

    def wait(self, failed: int, rng: Random) -> float:
        """Return the seconds before the next attempt: half fixed, half random, so that failures spread."""
        return min(self.longest_wait, self.first_wait * 2 ** (failed - 1)) * rng.uniform(0.5, 1.0)


@dataclass(slots=True)
class _Server:
    number: int
    in_flight: int = 0
    free_at: float = 0.0
    down: bool = False


class _RateLimiter:
    """Lets one pass every `interval` seconds."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._next = 0.0

    async def turn(self) -> None:
        now = asyncio.get_running_loop().time()
        own = max(now, self._next)
        self._next = own + self._interval
        if own > now:
            await asyncio.sleep(own - now)


async def _free_server(servers: Sequence[_Server], *, avoid: int | None) -> _Server:
    """Return the server with the fewest requests in flight among those that take any; wait for one if none does."""
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
    rng: Random,
) -> Outcome[R]:
    failed, busy, last = 0, 0, None
    while True:
        server = await _free_server(servers, avoid=last)
        server.in_flight += 1
        try:
            await pace.turn()
            value = await query(server.number, job)
        except RejectedError as rejected:
            return Outcome(number, None, str(rejected))
        except RetryableError as fault:
            why, last, server.down = str(fault), server.number, fault.unreachable
            failed, busy = failed + (not fault.busy), busy + fault.busy
            wait = limits.wait(failed + busy, rng)
            if fault.busy:
                server.free_at = asyncio.get_running_loop().time() + fault.after + wait
        else:
            server.down = False
            return Outcome(number, value)
        finally:
            server.in_flight -= 1
        if busy >= UNREACHABLE_ATTEMPTS and all(one.down for one in servers):
            raise EngineError(f"{why}; check that the server runs, then run the same command again")
        if failed >= limits.attempts or busy >= limits.busy_attempts:
            return Outcome(number, None, f"{why} ({failed + busy} attempts)")
        await asyncio.sleep(wait)


async def schedule(
    jobs: Sequence[J],
    query: Query[J, R],
    report: Callable[[Outcome[R]], None],
    *,
    servers: int,
    limits: Limits,
    rng: Random,
) -> None:
    """Send every job, and again where that may help; `report` receives each outcome exactly once, in any order.

    Raises:
        EngineError: `query` raised it, or no server can be reached. Jobs without an outcome by then stay unsent.
    """
    waiting = iter(enumerate(jobs))
    known = [_Server(number) for number in range(servers)]
    pace = _RateLimiter(60.0 / limits.requests_per_minute if limits.requests_per_minute else 0.0)

    async def work() -> None:
        for number, job in waiting:
            report(await _query_with_retries(number, job, query, servers=known, limits=limits, pace=pace, rng=rng))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(limits.concurrency, len(jobs))):
                group.create_task(work())
    except* EngineError as fatal:
        raise fatal.exceptions[0] from None


def in_background(produce: Callable[[Callable[[R], None]], Awaitable[None]]) -> Iterator[R]:
    """Run a coroutine in its own thread and yield its results as they come; it is stopped with the iterator.

    It works next to a caller that has an event loop, and continues while the caller is busy with a result.
    """
    from anyio.from_thread import start_blocking_portal

    found: SimpleQueue[R | None] = SimpleQueue()
    with start_blocking_portal() as portal:
        running = portal.start_task_soon(produce, found.put)
        running.add_done_callback(lambda _: found.put(None))
        try:
            while (one := found.get()) is not None:
                yield one
            running.result()
        finally:
            running.cancel()
