import os
import signal
import subprocess
import sys
import time

import pytest
from openai_server import Fault, in_order, question, serving

from derta.files import read_records, write_records
from derta.records import Message, Prompt, Reply

KEY = "sk-a-secret-that-must-not-be-seen"


@pytest.fixture
def prompts_path(tmp_path):
    """A file of 200 prompts."""
    prompts = [
        Prompt(
            id=f"p{i}",
            request_id=f"r{i}",
            request="?",
            attack="direct",
            messages=(Message(role="user", content=f"question {i}"),),
        )
        for i in range(200)
    ]
    write_records(tmp_path / "prompts.jsonl", prompts)
    return tmp_path / "prompts.jsonl"


def test_generate_queries_servers_and_fills_in_missing_replies(prompts_path, tmp_path, derta, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    out = tmp_path / "replies.jsonl"
    with serving(fault=in_order([None, Fault("status", 500, message=f"bad {KEY}")])) as first, serving() as second:
        words = ["generate", prompts_path, "--engine", "api", "--model", "m", "--out", out, "--concurrency", 8]
        words += [
            "--endpoint",
            first.url,
            "--endpoint",
            second.url,
            "--api-key-env",
            "MY_KEY",
            "--option",
            "attempts=1",
        ]
        called = derta(*words)
        assert called.code == 2, called.err
        assert [line for line in called.err.splitlines() if line.startswith("derta: ")] == called.err.splitlines()[-1:]
        assert len([one for one in read_records(out, Reply) if one.unanswered is None]) == 199
        assert derta(*words).code == 0
        assert len(first.requests) + len(second.requests) == 201
    results = {reply.prompt_id: reply.text for reply in read_records(out, Reply)}
    assert results == {f"p{i}": f"About question {i}" for i in range(200)}
    assert KEY not in called.err + called.out + out.read_text()


def test_a_rejected_prompt_is_kept_as_unanswered_and_not_sent_again(prompts_path, tmp_path, derta, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    out = tmp_path / "replies.jsonl"
    with serving(fault=in_order([None, Fault("status", 400, message=f"bad {KEY}")])) as server:
        words = ["generate", prompts_path, "--engine", "api", "--model", "m", "--out", out, "--endpoint", server.url]
        for _ in range(2):
            called = derta(*words, "--api-key-env", "MY_KEY")
            assert called.code == 0, called.err
            assert "1 of 200 prompts are unanswered" in called.err
            assert KEY not in called.err + called.out + out.read_text()
        assert len(server.requests) == 200
    assert [one.unanswered for one in read_records(out, Reply) if one.unanswered] == ["rejected"]


@pytest.mark.extra
def test_a_killed_run_resumes_and_queries_nothing_twice(prompts_path, tmp_path, derta):
    out = tmp_path / "replies.jsonl"
    with serving(delay=0.05) as server:
        words = ["generate", prompts_path, "--engine", "api", "--model", "m", "--out", out, "--endpoint", server.url]
        command = [sys.executable, "-c", "from derta.cli.main import main; main()", *map(str, words)]
        running = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603 - our own line
        while running.poll() is None and len(server.requests) < 60:
            time.sleep(0.01)
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        stored = {reply.prompt_id for reply in read_records(out, Reply)}
        before = len(server.requests)
        assert 0 < len(stored) < 200
        assert derta(*words).code == 0
        again = {question(one.body) for one in server.requests[before:]}
    assert len(server.requests) - before == len(again) == 200 - len(stored)
    replies = list(read_records(out, Reply))
    assert sorted(reply.prompt_id for reply in replies) == sorted(f"p{i}" for i in range(200))


def test_a_served_model_is_queried_without_importing_torch(prompts_path, tmp_path):
    with serving() as server:
        script = (
            "import sys\nfrom derta.cli.main import main\ntry:\n    main()\nexcept SystemExit:\n"
            "    sys.exit(str(sorted({'torch', 'transformers'} & set(sys.modules))))"
        )
        words = ["generate", prompts_path, "--engine", "api", "--model", "m", "--out", tmp_path / "r"]
        words += ["--endpoint", server.url]
        results = subprocess.run(  # noqa: S603 - our own line
            [sys.executable, "-c", script, *map(str, words)], capture_output=True, text=True, check=False
        )
    assert results.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--engine", "apy"], "unknown engine 'apy'; did you mean 'api'?"),
        (["--engine", "api", "--adapter", "x"], "engine api: unknown setting 'adapter'; known: endpoints, send"),
        (["--engine", "api", "--option", "atempts=3"], "unknown setting 'atempts'; did you mean 'attempts'?"),
        (["--engine", "api", "--option", "attempts=many"], "engine api: setting attempts"),
        (["--engine", "vllm"], "pip install -e '.[vllm]'"),
        (["--concurrency", "3"], "engine hf: unknown setting 'concurrency'"),
    ],
)
def test_unknown_engine_settings_are_errors(words, part, prompts_path, tmp_path, derta):
    called = derta("generate", prompts_path, "--model", "m", "--out", tmp_path / "r.jsonl", *words)
    assert called.code == 2
    assert part in called.err
    assert not (tmp_path / "r.jsonl").exists()
