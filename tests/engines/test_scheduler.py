import asyncio
import threading
import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.engines.scheduler import Limits, RejectedError, RetryableError, in_background, schedule
from derta.errors import DataError, EngineError

AT_ONCE = Limits(concurrency=4, attempts=3, busy_attempts=5, first_wait=0.0)


def outcomes(jobs, query, *, servers=1, limits=AT_ONCE):
    """Return every reported outcome, in order."""
    answers = []
    asyncio.run(schedule(jobs, query, answers.append, servers=servers, limits=limits, rng=Random(0)))
    return answers


def failing(plans):
    """Return a query that raises the faults of a job's plan in turn, then answers."""
    remaining = {job: list(plan) for job, plan in enumerate(plans)}

    async def query(_server, job):
        await asyncio.sleep(0)
        fault = remaining[job].pop(0) if remaining[job] else None
        if fault == "again":
            raise RetryableError("broken")
        if fault == "busy":
            raise RetryableError("busy", busy=True)
        if fault == "refused":
            raise RejectedError("too long")
        return f"answer {job}"

    return query


faults = st.lists(st.sampled_from(["again", "busy", "refused"]), max_size=9)


@given(plans=st.lists(faults, max_size=12), concurrency=st.integers(1, 5), servers=st.integers(1, 3))
def test_each_job_is_reported_exactly_once_with_its_answer_or_its_failure(plans, concurrency, servers):
    limits = Limits(concurrency=concurrency, attempts=3, busy_attempts=5, first_wait=0.0)
    answers = outcomes(range(len(plans)), failing(plans), servers=servers, limits=limits)
    assert sorted(answer.job for answer in answers) == list(range(len(plans)))
    for answer in answers:
        plan = plans[answer.job]
        ends = next((i for i, fault in enumerate(plan) if fault == "refused"), len(plan))
        queried = plan[: ends + 1]
        if queried.count("again") >= 3 or queried.count("busy") >= 5 or "refused" in queried:
            assert answer.value is None
            assert answer.failure
        else:
            assert answer.value == f"answer {answer.job}"


def test_a_failure_holds_the_reason_and_the_number_of_attempts():
    [answer] = outcomes([0], failing([["again", "busy", "again", "again"]]))
    assert (answer.value, answer.failure) == (None, "broken (4 attempts)")


def test_concurrency_is_limited_and_servers_are_balanced():
    now, peak, each = set(), [], [0, 0, 0]

    async def query(server, job):
        now.add(job)
        peak.append(len(now))
        each[server] += 1
        await asyncio.sleep(0.001)
        now.remove(job)
        return job

    outcomes(range(60), query, servers=3, limits=Limits(concurrency=6))
    assert max(peak) == 6
    assert each == [20, 20, 20]


def test_a_retry_uses_another_server():
    queried = []

    async def query(server, _job):
        queried.append(server)
        if server == 0:
            raise RetryableError("broken")
        return "fine"

    [answer] = outcomes([0], query, servers=2)
    assert (queried, answer.value) == ([0, 1], "fine")


def test_a_busy_server_is_not_queried_during_its_wait():
    times = []

    async def query(_server, job):
        times.append(time.monotonic())
        if len(times) == 1:
            raise RetryableError("busy", after=0.15, busy=True)
        return job

    assert [answer.value for answer in outcomes([0], query)] == [0]
    assert times[1] - times[0] >= 0.15


def test_while_one_server_is_busy_another_is_queried():
    queried = []

    async def query(server, job):
        queried.append(server)
        await asyncio.sleep(0.001)
        if server == 0:
            raise RetryableError("busy", after=60.0, busy=True)
        return job

    answers = outcomes(range(20), query, servers=2, limits=Limits(concurrency=2, first_wait=0.0))
    assert sorted(answer.value for answer in answers) == list(range(20))
    assert queried.count(0) == 1


def test_waits_double_with_jitter_up_to_a_maximum():
    limits = Limits(first_wait=1.0, longest_wait=8.0)
    rng = Random(0)
    for attempt, longest in ((1, 1.0), (2, 2.0), (4, 8.0), (50, 8.0)):
        waits = [limits.wait(attempt, rng) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest


def test_requests_are_evenly_spread_over_the_minute():
    times = []

    async def query(_server, _job):
        times.append(time.monotonic())

    outcomes(range(6), query, limits=Limits(concurrency=6, requests_per_minute=60 / 0.03))
    assert len(times) == 6
    assert times[-1] - times[0] >= 5 * 0.03 - 0.01


def test_unreachable_servers_stop_the_run_unless_one_is_reachable():
    async def unreachable(_server, _job):
        raise RetryableError("cannot be reached", busy=True, unreachable=True)

    async def one_of_two(server, job):
        await asyncio.sleep(0)
        return await unreachable(server, job) if server == 0 else job

    with pytest.raises(EngineError, match="cannot be reached; check that the server runs"):
        outcomes(range(50), unreachable)
    answers = outcomes(range(50), one_of_two, servers=2)
    assert sorted(answer.value for answer in answers) == list(range(50))


def test_a_lost_server_costs_no_waiting_while_another_answers():
    queried = []

    async def query(server, job):
        queried.append(server)
        await asyncio.sleep(0)
        if server == 1:
            raise RetryableError("cannot be reached", busy=True, unreachable=True)
        return job

    start = time.monotonic()
    answers = outcomes(range(400), query, servers=2, limits=Limits(concurrency=8, first_wait=60.0))
    assert sorted(answer.value for answer in answers) == list(range(400))
    assert time.monotonic() - start < 20
    assert queried.count(1) <= 8


def test_a_permanent_error_stops_all_jobs():
    queried = []

    async def query(_server, job):
        queried.append(job)
        await asyncio.sleep(0.001)
        raise EngineError("wrong key")

    with pytest.raises(EngineError, match="wrong key"):
        outcomes(range(50), query)
    assert len(queried) == 4


def test_jobs_are_drawn_only_while_there_is_room():
    drawn, answers = [], []

    def jobs():
        for job in range(100):
            drawn.append(job)
            yield job

    async def query(_server, job):
        await asyncio.sleep(0)
        return job

    async def limited():
        room = 10
        task = asyncio.create_task(
            schedule(
                jobs(),
                query,
                answers.append,
                servers=1,
                limits=Limits(concurrency=4),
                rng=Random(0),
                has_room=lambda: len(drawn) < room,
            )
        )
        while len(answers) < 10:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        assert 10 <= len(drawn) <= 10 + 4
        room = 1000
        await task

    asyncio.run(limited())
    assert sorted(answer.value for answer in answers) == list(range(100))


def test_an_error_of_the_jobs_stops_the_others():
    def jobs():
        yield from range(5)
        raise DataError("line 6 is no prompt")

    with pytest.raises(DataError, match="line 6 is no prompt"):
        outcomes(jobs(), failing([[]] * 5))


def test_results_are_yielded_early_and_closing_the_iterator_cancels_the_work():
    stopped = threading.Event()

    async def produce(put):
        put("first")
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    results = in_background(produce)
    assert next(results) == "first"
    results.close()
    assert stopped.wait(5)


def test_an_error_in_the_background_is_raised_after_the_results():
    async def produce(put):
        put(1)
        raise EngineError("broken")

    results = in_background(produce)
    assert next(results) == 1
    with pytest.raises(EngineError, match="broken"):
        next(results)


def test_the_caller_may_have_an_event_loop():
    async def produce(put):
        put(1)

    async def caller():
        return list(in_background(produce))

    assert asyncio.run(caller()) == [1]
