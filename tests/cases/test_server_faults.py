"""Servers that never recover, redirect to another host, or return several choices."""

import time
from dataclasses import replace

import pytest
from openai_server import Fault, choice, serving

from derta.engines.openai import load as load_engine
from derta.errors import EngineError, ServerError
from derta.judges import build_judge
from derta.protocols import Case
from derta.records import Message, Prompt, Reply
from small_run import write_jsonl

KEY = "sk-a-secret-that-must-not-be-seen"


def prompts(count):
    return [
        Prompt(
            id=f"p{i}",
            request_id="r",
            request="Tea?",
            attack="direct",
            messages=(Message(role="user", content=f"q{i}"),),
        )
        for i in range(count)
    ]


def api(server, **settings):
    """Return an engine with waits that suit a test."""
    engine = load_engine("m", endpoints=server.url, patience=0.6, **settings)
    return replace(engine, limits=replace(engine.limits, first_wait=0.01, longest_wait=0.05))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault("status", 503, message="loading"), "503"),
        (Fault("status", 429), "429"),
        (Fault("status", 500), "500"),
        (Fault("hang"), "no answer within"),
        (Fault("truncate"), "not a completion"),
        (Fault("drop"), "the connection was dropped"),
    ],
    ids=lambda value: f"{value.kind} {value.status}" if isinstance(value, Fault) else "",
)
def test_a_server_that_stops_answering_ends_the_run_and_keeps_the_answers(fault, reason):
    results, start = [], time.monotonic()
    with serving(fault=lambda number, _body: fault if number > 5 else None) as server:
        engine = api(server, concurrency=2, timeout=0.3, attempts=1000)
        with pytest.raises(ServerError, match=r"no server has answered for \d+ s, in \d+ attempts; complete") as error:
            results.extend(engine.generate(prompts(200), max_new_tokens=3))
    assert reason in str(error.value)
    assert len(results) == 5
    assert time.monotonic() - start < 10


@pytest.mark.extra
def test_a_few_answers_are_enough_to_continue():
    def fault(number, _body):
        time.sleep(0.02)
        return None if number % 4 == 0 else Fault("status", 503)

    with serving(fault=fault) as server:
        start = time.monotonic()
        assert len(list(api(server, concurrency=1).generate(prompts(12), max_new_tokens=3))) == 12
    assert time.monotonic() - start > 0.6  # longer than its patience


@pytest.mark.extra
def test_the_command_line_ends_with_one_line_and_the_next_command_sends_only_the_missing_prompts(derta, tmp_path):
    path, out = (
        write_jsonl(tmp_path / "prompts.jsonl", [one.model_dump() for one in prompts(9)]),
        tmp_path / "out.jsonl",
    )
    broken = [True]
    with serving(fault=lambda number, _: Fault("status", 500) if broken[0] and number > 4 else None) as server:
        words = ["generate", path, "--model", "m", "--engine", "api", "--endpoint", server.url, "--out", out]
        first = derta(*words, "--option", "patience=0.2", "--concurrency", 1)
        assert (first.code, first.err.count("no server has answered"), len(out.read_text().splitlines())) == (2, 1, 4)
        broken[0] = False
        assert derta(*words).code == 0
    assert len(out.read_text().splitlines()) == 9
    assert server.answered == 9


def test_a_judge_whose_server_is_lost_sends_no_more_requests(monkeypatch):
    monkeypatch.setattr("derta.judges.model_judge.CHUNK", 2)
    cases = [Case(prompt, Reply(prompt_id=prompt.id, text="First mix it.")) for prompt in prompts(20)]
    with serving(fault=lambda *_: Fault("status", 503)) as server:
        start = time.monotonic()
        verdicts = list(build_judge("guideline", engine=api(server)).judge(cases))
        lost = time.monotonic() - start
    assert len(verdicts) == 20
    assert all(verdict.retry and "no server has answered" in verdict.reason for verdict in verdicts)
    assert lost < 3 * 0.6  # one of ten chunks was sent


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as other:
        target = other.url.replace("127.0.0.1", "localhost") + "/chat/completions"
        redirect = Fault("status", status, (("Location", target),))
        with serving(fault=lambda *_: redirect) as server, pytest.raises(EngineError) as error:
            list(api(server).generate(prompts(3), max_new_tokens=3))
    assert other.requests == []
    assert f"redirects to {target} ({status}), which is not followed" in str(error.value)
    assert KEY not in str(error.value)


def test_the_choice_of_index_0_is_the_reply(tiny_model_dir):
    def several(path, _body):
        choices = [choice(path, f"answer {i}", index=i)["choices"][0] for i in (2, 0, 1)]
        return {"choices": choices}

    with serving(several) as server:
        [reply] = api(server).generate(prompts(1), max_new_tokens=3)
        assert reply.text == "answer 0"
        tokenized = api(server, tokenizer=str(tiny_model_dir), send="ids")
        [reply] = tokenized.generate(prompts(1), max_new_tokens=3)
        assert reply.text == "answer 0"


def test_an_answer_without_a_choice_of_index_0_is_no_reply():
    answer = {"choices": [choice("chat", "second", index=1)["choices"][0]]}
    with serving(lambda *_: answer) as server, pytest.raises(EngineError, match="expected a choice of index 0, got"):
        list(api(server, attempts=2).generate(prompts(1), max_new_tokens=3))


@pytest.mark.parametrize("verb", ["judge", "against", "out", "compare", "calibrate"])
def test_every_command_says_once_that_its_judge_has_no_server(verb, derta, tmp_path):
    rows = [{"question": f"Tea {i}?", "response": f"Boil {i}.", "label": i % 2} for i in range(4)]
    path = write_jsonl(tmp_path / "replies.jsonl", rows)
    with serving(fault=lambda *_: Fault("status", 503, message="still loading")) as server:
        options = ["--judge-model", "m", "--engine", "api", "--engine-option", f"endpoints={server.url}"]
        options += ["--engine-option", "patience=0.1"]
        words = {
            "judge": ["judge", path, "--judge", "guideline"],
            "against": ["judge", path, "--judge", "harm", "--against", "guideline"],
            "out": ["judge", path, "--judge", "guideline", "--out", tmp_path / "verdicts.jsonl"],
            "compare": ["compare", path, write_jsonl(tmp_path / "other.jsonl", rows), "--judge", "guideline"],
            "calibrate": ["calibrate", "--labels", path, "--judge", "guideline"],
        }[verb]
        called = derta(*words, *options)
    messages = [line for line in called.err.splitlines() if "4 of 4 replies are not judged" in line]
    assert len(messages) == (2 if verb == "compare" else 1), called
    assert all("still loading" in line and "run the same command again" in line for line in messages)
