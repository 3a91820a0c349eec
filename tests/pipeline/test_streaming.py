import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack

import pytest
from openai_server import Fault, question, serving

from derta.config import EngineConfig
from derta.engines.openai_engine import HELD
from derta.engines.scripted import ScriptedModel
from derta.errors import DataError, EngineError, RunError
from derta.files import read_records, write_records
from derta.formats.shards import shard_path, shard_paths, writing_shards
from derta.pipeline.streaming import Decoder, generate_shards
from derta.protocols import Display, UnansweredError
from derta.records import Decoding, Message, Prompt, Reply
from derta.sampling import Sampling
from forks import start_fork
from recorded_progress import RecordedProgress

ROWS = 16


def prompt(number, text=None):
    name, text = f"p{number}", text or f"question {number}"
    return Prompt(
        id=name, request_id=name, request=text, attack="direct", messages=(Message(role="user", content=text),)
    )


@pytest.fixture
def prompts_path(tmp_path):
    path = tmp_path / "prompts.jsonl"
    write_records(path, (prompt(i) for i in range(100)))
    return path


def stream(path, out, *servers, rows=ROWS, display=Display(), **settings):
    config = EngineConfig(
        model="m", engine="api", settings={"endpoints": [one.url for one in servers], "attempts": 1, **settings}
    )
    return generate_shards(path, model=config, out=out, max_new_tokens=5, rows=rows, display=display)


def check_complete(out, count, *, rows=ROWS):
    """Check that each prompt has one reply, its own, in its shard; return the replies."""
    paths = shard_paths(out, "replies")
    shards = [list(read_records(path, Reply)) for path in paths]
    assert [path.name for path in paths] == [f"replies-{i:05d}.jsonl" for i in range(-(-count // rows))]
    for i, shard in enumerate(shards):
        names = [f"p{number}" for number in range(i * rows, min(count, (i + 1) * rows))]
        assert sorted(reply.prompt_id for reply in shard) == sorted(names)
        assert all(one.text == f"About question {one.prompt_id[1:]}" for one in shard if not one.unanswered)
    return [reply for shard in shards for reply in shard]


def test_each_reply_is_in_the_shard_of_its_prompt_with_its_provenance(prompts_path, tmp_path):
    progress = RecordedProgress()
    with serving() as server:
        counts = stream(prompts_path, tmp_path / "out", server, display=Display(progress))
        again = stream(prompts_path, tmp_path / "out", server)
    assert counts == again == (100, 0, 7)
    replies = check_complete(tmp_path / "out", 100)
    assert all(reply.producer["max_new_tokens"] == "5" and reply.input_hash for reply in replies)
    assert len(server.requests) == 100
    assert progress.tasks == {"replies": [100, *range(101)]}


def test_one_of_two_servers_that_is_killed_in_the_middle_costs_no_reply_and_none_comes_twice(prompts_path, tmp_path):
    killed, running = threading.Event(), ExitStack()

    def kill(number, _body):
        if number == 30 and not killed.is_set():
            killed.set()
            threading.Thread(target=running.close).start()

    with serving(fault=kill, delay=0.002) as first:
        second = running.enter_context(serving(fault=lambda *_: Fault("drop") if killed.is_set() else None))
        counts = stream(prompts_path, tmp_path / "out", first, second, attempts=8, concurrency=8)
    assert second.answered > 0
    assert counts == (100, 0, 7)
    check_complete(tmp_path / "out", 100)


def test_a_stopped_stream_resumes_and_drops_a_torn_line(prompts_path, tmp_path):
    out = tmp_path / "out"
    wrong_key = serving(fault=lambda number, _: Fault("status", 401) if number > 40 else None)
    with wrong_key as server, pytest.raises(EngineError, match="401"):
        stream(prompts_path, out, server, concurrency=4)
    kept = [line for path in shard_paths(out, "replies") for line in path.read_text().splitlines()]
    assert 36 <= len(kept) <= 40
    last = shard_paths(out, "replies")[-1]
    last.write_text(last.read_text() + '{"prompt_id": "p')
    with serving() as server:
        assert stream(prompts_path, out, server) == (100, 0, 7)
    assert len(server.requests) == 100 - len(kept)
    check_complete(out, 100)
    lines = {line for path in shard_paths(out, "replies") for line in path.read_text().splitlines()}
    assert lines >= set(kept)


def test_more_prompts_at_the_end_are_asked_and_other_prompts_are_refused(prompts_path, tmp_path):
    out = tmp_path / "out"
    with serving() as server:
        stream(prompts_path, out, server)
        write_records(prompts_path, (prompt(i) for i in range(110)))
        assert stream(prompts_path, out, server) == (110, 0, 7)
        assert len(server.requests) == 110
        for changed, message in (
            ([prompt(i) for i in range(1, 110)], "cannot resume from 'p0': no prompt has this id"),
            ([prompt(i, "other" if i == 50 else None) for i in range(110)], "'p50': its input has changed since"),
            ([prompt(i) for i in range(96)], "replies-00006.jsonl: cannot resume: .* has no prompts for it"),
        ):
            write_records(prompts_path, changed)
            with pytest.raises(RunError, match=message):
                stream(prompts_path, out, server)
        write_records(prompts_path, (prompt(i) for i in range(110)))
        with pytest.raises(RunError, match="expected --shard-rows 16, as its shards have, got 8"):
            stream(prompts_path, out, server, rows=8)
        with writing_shards(out, ROWS), pytest.raises(RunError, match="another process writes this file"):
            stream(prompts_path, out, server)
    assert len(server.requests) == 110


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        ([prompt(1), prompt(2), prompt(1)], DataError, "expected unique ids, got 'p1' twice"),
        ([], DataError, "expected prompts, got none"),
        ([prompt(1).model_copy(update={"decoding": Decoding(banned=("no",))})], EngineError, "cannot ban tokens"),
    ],
    ids=["twice", "none", "banned"],
)
def test_prompts_that_cannot_be_asked_are_refused_before_the_first_request(prompts, error, message, tmp_path):
    path = tmp_path / "prompts.jsonl"
    write_records(path, prompts)
    with serving() as server, pytest.raises(error, match=message):
        stream(path, tmp_path / "out", server)
    assert not server.requests
    assert not (tmp_path / "out").exists()


def faulty(_number, body):
    """Filter question 3, reject question 4, and fail question 5."""
    faults = {
        "question 3": Fault("status", 400, message="content_filter"),
        "question 4": Fault("status", 400),
        "question 5": Fault("status", 500),
    }
    return faults.get(question(body))


def test_prompts_without_a_reply_are_recorded_and_one_that_failed_is_tried_once_more(prompts_path, tmp_path):
    out = tmp_path / "out"
    with serving(fault=faulty) as server:
        with pytest.raises(UnansweredError, match=r"1 of 100 prompts have no reply, first 'p5'.*same command again"):
            stream(prompts_path, out, server)
        first = len(server.requests)
        assert stream(prompts_path, out, server) == (100, 3, 7)
        assert len(server.requests) == first + 1
    replies = check_complete(out, 100)
    assert Counter(reply.unanswered for reply in replies) == {None: 97, "filtered": 1, "rejected": 1, "failed": 1}


def test_a_server_that_rejects_everything_has_the_wrong_settings(prompts_path, tmp_path):
    write_records(prompts_path, (prompt(i) for i in range(HELD + 50)))
    message = f"the first {HELD} prompts have no reply, first 'p"
    rejecting = serving(fault=lambda *_: Fault("status", 400))
    with rejecting as server, pytest.raises(UnansweredError, match=message):
        stream(prompts_path, tmp_path / "out", server)
    assert not any(path.read_text() for path in shard_paths(tmp_path / "out", "replies"))
    assert len(server.requests) < HELD + 50


def test_prompts_are_drawn_only_as_replies_are_taken():
    from derta.engines.openai import load

    drawn = []

    def prompts():
        for i in range(1000):
            drawn.append(i)
            yield prompt(i), 0

    with serving() as server:
        replies = load("m", endpoints=server.url, concurrency=2).stream(prompts(), max_new_tokens=5)
        next(replies)
        time.sleep(0.3)
        assert len(drawn) <= 1 + 4 * 2 + 2
        for _ in range(50):
            next(replies)
        assert 50 < len(drawn) <= 51 + 4 * 2 + 2
        replies.close()


def test_an_engine_without_a_stream_gets_the_prompts_in_batches():
    model = ScriptedModel(lambda one: f"About {one.id}")
    replies = list(Decoder(model, 9).replies((prompt(i), 0) for i in range(3000)))
    assert [reply.prompt_id for reply in replies] == [f"p{i}" for i in range(3000)]


def test_more_samples_keep_those_that_exist(prompts_path, tmp_path):
    settings = {"out": tmp_path / "out", "max_new_tokens": 5, "rows": ROWS}
    with serving() as server:
        config = EngineConfig(model="m", engine="api", settings={"endpoints": server.url})
        for num_samples in (1, 3):
            sampling = Sampling(temperature=0.5, num_samples=num_samples)
            counts = generate_shards(prompts_path, model=config, sampling=sampling, **settings)
            assert counts == (100 * num_samples, 0, 7)
    assert len({(question(one.body), one.body["seed"]) for one in server.requests}) == len(server.requests) == 300
    replies = [reply for path in shard_paths(tmp_path / "out", "replies") for reply in read_records(path, Reply)]
    assert sorted(reply.key for reply in replies) == sorted((f"p{i}", n) for i in range(100) for n in range(3))
    assert all(reply.seed == Sampling(temperature=0.5).reply_seed(*reply.key) for reply in replies)


CLIENT = """
import sys
from derta.cli.main import main
main()
"""


@pytest.mark.extra
def test_a_client_that_is_killed_resumes_where_it_was(tmp_path):
    path, out = tmp_path / "prompts.jsonl", tmp_path / "out"
    write_records(path, (prompt(i) for i in range(1500)))
    words = ["generate", path, "--engine", "api", "--model", "m", "--shard-rows", 100, "--max-new-tokens", 5]
    with serving() as server:
        words += ["--endpoint", server.url, "--out", out]
        outputs = (tmp_path / "stdout", tmp_path / "stderr")
        client = start_fork(CLIENT, *words, environment={}, outputs=outputs)
        while server.answered < 300:
            time.sleep(0.01)
        client.kill()
        client.join()
        assert client.exitcode == -signal.SIGKILL
        killed_at = server.answered
        client = start_fork(CLIENT, *words, environment={}, outputs=outputs)
        client.join()
        assert client.exitcode == 0
        assert killed_at < 1500
        assert 1500 <= len(server.requests) <= 1500 + 4 * 16  # those in flight at the kill are asked again
    check_complete(out, 1500, rows=100)
    assert shard_path(out, "replies", 14).exists()
