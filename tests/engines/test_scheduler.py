import asyncio
import threading
import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.engines.scheduler import Limits, RejectedError, RetryableError, in_background, schedule
from derta.errors import EngineError

AT_ONCE = Limits(concurrency=4, attempts=3, busy_attempts=5, first_wait=0.0)


def outcomes(jobs, query, *, servers=1, limits=AT_ONCE):
    """Every answer that was told, in order."""
    answers = []
    asyncio.run(schedule(jobs, query, answers.append, servers=servers, limits=limits, rng=Random(0)))
    return answers


def failing(plans):
    """Server n's question goes as planned: the job's plan is a list of faults, then its answer."""
    left = {job: list(plan) for job, plan in enumerate(plans)}

    async def ask(_server, job):
        await asyncio.sleep(0)
        fault = left[job].pop(0) if left[job] else None
        if fault == "again":
            raise RetryableError("broken")
        if fault == "busy":
            raise RetryableError("busy", busy=True)
        if fault == "refused":
            raise RejectedError("too long")
        return f"answer {job}"

    return ask


faults = st.lists(st.sampled_from(["again", "busy", "refused"]), max_size=9)


@given(plans=st.lists(faults, max_size=12), concurrency=st.integers(1, 5), servers=st.integers(1, 3))
def test_each_job_is_told_exactly_once_with_its_own_answer_or_why_not(plans, concurrency, servers):
    limits = Limits(concurrency=concurrency, attempts=3, busy_attempts=5, first_wait=0.0)
    answers = outcomes(range(len(plans)), failing(plans), servers=servers, limits=limits)
    assert sorted(answer.job for answer in answers) == list(range(len(plans)))
    for answer in answers:
        plan = plans[answer.job]
        ends = next((i for i, fault in enumerate(plan) if fault == "refused"), len(plan))
        asked = plan[: ends + 1]
        if asked.count("again") >= 3 or asked.count("busy") >= 5 or "refused" in asked:
            assert answer.value is None
            assert answer.failure
        else:
            assert answer.value == f"answer {answer.job}"


def test_what_is_given_up_says_why_and_after_how_many_attempts():
    [answer] = outcomes([0], failing([["again", "busy", "again", "again"]]))
    assert (answer.value, answer.failure) == (None, "broken (4 attempts)")


def test_no_more_are_in_flight_than_allowed_and_servers_share_them_evenly():
    now, peak, each = set(), [], [0, 0, 0]

    async def ask(server, job):
        now.add(job)
        peak.append(len(now))
        each[server] += 1
        await asyncio.sleep(0.001)
        now.remove(job)
        return job

    outcomes(range(60), ask, servers=3, limits=Limits(concurrency=6))
    assert max(peak) == 6
    assert each == [20, 20, 20]


def test_a_second_try_goes_to_another_server():
    asked = []

    async def ask(server, _job):
        asked.append(server)
        if server == 0:
            raise RetryableError("broken")
        return "fine"

    [answer] = outcomes([0], ask, servers=2)
    assert (asked, answer.value) == ([0, 1], "fine")


def test_a_server_that_asks_for_time_is_given_it():
    times = []

    async def ask(_server, job):
        times.append(time.monotonic())
        if len(times) == 1:
            raise RetryableError("busy", after=0.15, busy=True)
        return job

    assert [answer.value for answer in outcomes([0], ask)] == [0]
    assert times[1] - times[0] >= 0.15


def test_while_one_server_asks_for_time_another_is_asked():
    asked = []

    async def ask(server, job):
        asked.append(server)
        await asyncio.sleep(0.001)
        if server == 0:
            raise RetryableError("busy", after=60.0, busy=True)
        return job

    answers = outcomes(range(20), ask, servers=2, limits=Limits(concurrency=2, first_wait=0.0))
    assert sorted(answer.value for answer in answers) == list(range(20))
    assert asked.count(0) == 1


def test_waits_double_are_drawn_and_have_an_end():
    limits = Limits(first_wait=1.0, longest_wait=8.0)
    rng = Random(0)
    for tried, longest in ((1, 1.0), (2, 2.0), (4, 8.0), (50, 8.0)):
        waits = [limits.wait(tried, rng) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest


def test_requests_are_spread_over_the_minute():
    times = []

    async def ask(_server, _job):
        times.append(time.monotonic())

    outcomes(range(6), ask, limits=Limits(concurrency=6, requests_per_minute=60 / 0.03))
    assert len(times) == 6
    assert times[-1] - times[0] >= 5 * 0.03 - 0.01


def test_servers_that_are_not_there_end_the_run_and_one_that_is_there_does_not():
    async def nobody(_server, _job):
        raise RetryableError("cannot be reached", busy=True, unreachable=True)

    async def one_of_two(server, job):
        await asyncio.sleep(0)
        return await nobody(server, job) if server == 0 else job

    with pytest.raises(EngineError, match="cannot be reached; check that the server runs"):
        outcomes(range(50), nobody)
    answers = outcomes(range(50), one_of_two, servers=2)
    assert sorted(answer.value for answer in answers) == list(range(50))


def test_an_error_that_nothing_helps_against_ends_everything():
    asked = []

    async def ask(_server, job):
        asked.append(job)
        await asyncio.sleep(0.001)
        raise EngineError("wrong key")

    with pytest.raises(EngineError, match="wrong key"):
        outcomes(range(50), ask)
    assert len(asked) == 4


def test_results_arrive_before_all_are_there_and_leaving_stops_the_work():
    stopped = threading.Event()

    async def produce(put):
        put("first")
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    found = in_background(produce)
    assert next(found) == "first"
    found.close()
    assert stopped.wait(5)


def test_the_background_s_error_comes_to_the_caller_after_what_was_found():
    async def produce(put):
        put(1)
        raise EngineError("broken")

    found = in_background(produce)
    assert next(found) == 1
    with pytest.raises(EngineError, match="broken"):
        next(found)


def test_a_caller_may_have_an_event_loop_of_its_own():
    async def produce(put):
        put(1)

    async def caller():
        return list(in_background(produce))

    assert asyncio.run(caller()) == [1]
