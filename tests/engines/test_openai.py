import logging
import threading
import time
from dataclasses import replace
from random import Random

import pytest
import torch
from openai_server import Fault, choice, in_order, model_answer, question, serving

from derta.engines.hf import load as load_hf
from derta.engines.openai import load as load_engine
from derta.errors import EngineError, ModelError
from derta.records import Message, Prompt
from derta.sampling import Sampling
from tolerances import logit_tolerance

KEY = "sk-a-secret-that-must-not-be-seen"


def chat_prompt(text, *, name=None, prefill=None):
    messages = (Message(role="user", content=text),)
    return Prompt(id=name or text, request_id="r", request=text, attack="direct", messages=messages, prefill=prefill)


def raw_prompt(text):
    return Prompt(id=f"raw {text}", request_id="r", request=text, attack="completing", mode="raw", text=text)


def many(count):
    return [chat_prompt(f"question {i}") for i in range(count)]


PROMPTS = (
    *(chat_prompt(text) for text in ("How do I bake bread?", "Tea?")),
    raw_prompt("First clean the wood, then"),
    chat_prompt("Paint a fence?", name="prefilled", prefill="Sure, here"),
)


@pytest.fixture(scope="module")
def hf(tiny_model_dir):
    return load_hf(tiny_model_dir, device="cpu")


def api(model="m", **settings):
    """The engine, with waits that suit a test."""
    engine = load_engine(model, **settings)
    return replace(engine, limits=replace(engine.limits, first_wait=0.01, longest_wait=0.05))


def replies(engine, prompts, **settings):
    results = list(engine.generate(prompts, max_new_tokens=settings.get("max_new_tokens", 12)))
    assert sorted(reply.prompt_id for reply in results) == sorted(prompt.id for prompt in prompts)
    return {reply.prompt_id: reply for reply in results}


# what is sent


def test_replies_to_token_ids_equal_those_of_the_local_engine(hf, tiny_model_dir):
    with serving(model_answer(hf)) as server:
        served = api("tiny", endpoints=server.url, tokenizer=str(tiny_model_dir))
        assert replies(served, PROMPTS) == replies(hf, PROMPTS)
    assert all(received.path == "/v1/completions" for received in server.requests)
    assert all(received.body["stop_token_ids"] and received.body["temperature"] == 0 for received in server.requests)


def test_text_is_tokenized_to_the_same_ids_with_one_bos(hf, tiny_model_dir):
    with serving(model_answer(hf)) as server:
        served = api("tiny", endpoints=server.url, tokenizer=str(tiny_model_dir), send="text")
        texts = {name: reply.text for name, reply in replies(served, PROMPTS).items()}
    local = replies(hf, PROMPTS)
    plain = {name: hf.chat.tokenizer.decode(local[name].token_ids, skip_special_tokens=True) for name in local}
    assert texts == plain
    assert not any("<s>" in question(received.body) for received in server.requests)


def test_messages_are_rendered_by_the_server_and_a_prefill_is_continued(hf):
    with serving(model_answer(hf)) as server:
        texts = {name: reply.text for name, reply in replies(api("tiny", endpoints=server.url), PROMPTS).items()}
    local = replies(hf, PROMPTS)
    plain = {name: hf.chat.tokenizer.decode(local[name].token_ids, skip_special_tokens=True) for name in local}
    assert texts == plain
    bodies = {question(received.body): received for received in server.requests}
    assert bodies["Tea?"].path == "/v1/chat/completions"
    assert bodies["First clean the wood, then"].path == "/v1/completions"
    assert bodies["Sure, here"].body["continue_final_message"] is True
    assert "continue_final_message" not in bodies["Tea?"].body


def test_body_fields_are_added_replaced_and_removed():
    with serving() as server:
        body = {"max_tokens": None, "max_completion_tokens": 7, "top_k": 1}
        replies(api(endpoints=server.url, body=body), many(1))
    [received] = server.requests
    assert (received.body["max_completion_tokens"], received.body["top_k"]) == (7, 1)
    assert "max_tokens" not in received.body


def test_an_unanswered_sample_keeps_its_number_and_the_others_are_sent_with_their_seeds():
    sampling = Sampling(temperature=0.8, num_samples=3)
    second = sampling.reply_seed("question 0", 1)

    def fails(_number, body):
        return Fault("status", 400, message="flagged by moderation") if body["seed"] == second else None

    with serving(fault=fails) as server:
        engine = api(endpoints=server.url, body={"top_p": None})
        results = {one.key: one for one in engine.generate(many(1), max_new_tokens=3, sampling=sampling)}
    assert [(results["question 0", n].unanswered, results["question 0", n].seed) for n in range(3)] == [
        ("filtered" if n == 1 else None, sampling.reply_seed("question 0", n)) for n in range(3)
    ]
    assert sorted(received.body["seed"] for received in server.requests) == [second - 1, second, second + 1]
    assert all(received.body["temperature"] == 0.8 for received in server.requests)
    assert not any({"top_p", "top_k", "min_p"} & received.body.keys() for received in server.requests)


@pytest.mark.parametrize(("reason", "expected"), [("stop", "eos"), ("length", "length"), ("content_filter", "unknown")])
def test_the_finish_reason_becomes_the_stop_reason(reason, expected):
    with serving(lambda path, _: choice(path, "Bread.", reason)) as server:
        [reply] = api(endpoints=server.url).generate(many(1), max_new_tokens=3)
    assert (reply.text, reply.stop_reason, reply.token_ids) == ("Bread.", expected, None)


def test_a_refusal_with_empty_content_is_the_reply():
    answer = {"choices": [{"message": {"content": None, "refusal": "Sorry."}, "finish_reason": "stop"}]}
    with serving(lambda *_: answer) as server:
        [reply] = api(endpoints=server.url).generate(many(1), max_new_tokens=3)
    assert reply.text == "Sorry."


def test_likelihoods_and_refusal_probabilities_equal_those_of_the_local_engine(hf, tiny_model_dir):
    continuations = ["Sure, here are the steps.", "", " boil the water", " Sorry"]
    with serving(model_answer(hf)) as server:
        ids = api("tiny", endpoints=server.url, tokenizer=str(tiny_model_dir))
        text = api("tiny", endpoints=server.url, tokenizer=str(tiny_model_dir), send="text")
        expected = hf.log_likelihood(PROMPTS, continuations)
        for results in (ids.log_likelihood(PROMPTS, continuations), text.log_likelihood(PROMPTS, continuations)):
            assert [len(row) for row in results] == [len(row) for row in expected]
            for row, other in zip(results, expected, strict=True):
                assert row == pytest.approx(other, abs=logit_tolerance(torch.tensor(other)))
        refusal = ids.refusal_probability(PROMPTS[:2], continuations[:2])
        words = ("Sorry", "Sure")  # " Sure" is three tokens
        several = replace(ids, refusal_words=words).refusal_probability(PROMPTS[:2], continuations[:2])
    expected = hf.refusal_probability(PROMPTS[:2], continuations[:2])
    expected += replace(hf, refusal_words=words).refusal_probability(PROMPTS[:2], continuations[:2])
    for row, other in zip([*refusal, *several], expected, strict=True):
        assert row == pytest.approx(other, rel=1e-3)


def test_a_server_without_prompt_likelihoods_is_a_one_line_error(tiny_model_dir):
    with serving() as server:
        engine = api(endpoints=server.url, tokenizer=str(tiny_model_dir))
        with pytest.raises(EngineError, match="the server returned none; use a server that supports them"):
            engine.log_likelihood(PROMPTS[:1], ["Sure"])
        with pytest.raises(EngineError, match="expected a tokenizer and send=text or ids, got send=messages"):
            api(endpoints=server.url).log_likelihood(PROMPTS[:1], ["Sure"])


def test_a_continuation_of_an_empty_prompt_is_an_error(make_model_dir):
    bare = make_model_dir(tokenizer={"bos": False})
    engine = load_engine("m", endpoints="http://127.0.0.1:9/v1", tokenizer=str(bare))
    blank = raw_prompt("x").model_copy(update={"text": ""})
    with pytest.raises(ModelError, match="prompt 'raw x' has no token"):
        engine.log_likelihood([blank], ["Sure"])


def test_a_server_with_another_token_count_is_an_error(tiny_model_dir):
    with serving(lambda path, _: choice(path, "", logprobs={"token_logprobs": [None, -1.0]})) as server:
        engine = api(endpoints=server.url, tokenizer=str(tiny_model_dir))
        with pytest.raises(EngineError, match="the server counts 2; pass the tokenizer of the served model"):
            engine.log_likelihood(PROMPTS[:1], ["Sure, here"])


# faults


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", 429),
        Fault("status", 429, (("Retry-After", "0.05"),)),
        Fault("status", 500),
        Fault("status", 503, (("Retry-After", "0"),)),
        Fault("drop"),
        Fault("truncate"),
        Fault("no choices"),
        Fault("hang"),
        Fault("trickle"),
    ],
    ids=lambda fault: f"{fault.kind} {fault.status} {len(fault.headers)}",
)
def test_each_kind_of_temporary_failure_is_retried(fault):
    with serving(fault=in_order([fault, None, fault])) as server:
        engine = api(endpoints=server.url, concurrency=1, timeout=0.3)
        results = replies(engine, many(3))
    assert {name: reply.text for name, reply in results.items()} == {
        f"question {i}": f"About question {i}" for i in range(3)
    }
    assert len(server.requests) == 5


def test_retry_after_applies_to_all_requests():
    with serving(fault=in_order([Fault("status", 429, (("Retry-After", "0.4"),))])) as server:
        replies(api(endpoints=server.url, concurrency=2), many(12))
    first, *later = sorted(received.at for received in server.requests)
    # the other worker may have sent requests until the answer was read, which takes longer on a busy machine
    assert sum(at - first < 0.4 for at in later) <= 6


def test_with_many_failures_each_prompt_has_exactly_its_reply():
    rng, lock = Random(7), threading.Lock()
    kinds = [Fault("status", 429), Fault("status", 500), Fault("drop"), Fault("truncate"), Fault("no choices")]

    def storm(_number, _body):
        with lock:
            return rng.choice(kinds) if rng.random() < 0.3 else None

    with serving(fault=storm) as first, serving(fault=storm) as second:
        engine = api(endpoints=[first.url, second.url], concurrency=16)
        results = replies(engine, many(200))
    assert {name: reply.text for name, reply in results.items()} == {
        f"question {i}": f"About question {i}" for i in range(200)
    }
    assert first.answered + second.answered == 200


def test_missing_replies_are_an_error_after_all_other_replies():
    def fault(_number, body):
        return {"question 1": Fault("status", 400, message="too long"), "question 3": Fault("status", 500)}.get(
            question(body)
        )

    results = []
    with serving(fault=fault) as server:
        stream = api(endpoints=server.url, attempts=3).generate(many(5), max_new_tokens=3)
        with pytest.raises(EngineError, match=r"1 of 5 prompts have no reply, first 'question 3': .*500") as error:
            results.extend(stream)  # replies before the error are not lost
    assert sorted(reply.prompt_id for reply in results) == [f"question {i}" for i in (0, 1, 2, 4)]
    [unanswered] = [reply for reply in results if reply.unanswered]
    assert (unanswered.prompt_id, unanswered.unanswered, unanswered.text) == ("question 1", "rejected", "")
    assert "too long" in unanswered.reason
    assert "run the same command again" in str(error.value)
    received = [question(one.body) for one in server.requests]
    assert (received.count("question 1"), received.count("question 3")) == (1, 3)


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        (Fault("status", 401, message=f"no such key {KEY}"), "does not accept the key (401)"),
        (Fault("status", 404, message="no such model"), "no such model"),
        (Fault("status", 429, (("Retry-After", "90000"),)), "requests a wait of 90000 s"),
    ],
)
def test_a_permanent_error_stops_the_run_at_once(fault, part):
    with serving(fault=lambda *_: fault) as server:
        with pytest.raises(EngineError) as error:
            list(api(endpoints=server.url, concurrency=4).generate(many(100), max_new_tokens=3))
        assert part in str(error.value)
    assert len(server.requests) <= 4


def test_an_unreachable_server_is_an_error_within_seconds():
    with serving() as server:
        gone = server.url
    with pytest.raises(EngineError, match="cannot be reached; check that the server runs"):
        list(api(endpoints=gone).generate(many(3), max_new_tokens=3))


def test_with_one_unreachable_endpoint_of_two_no_reply_is_missing():
    with serving() as server:
        dead = server.url
    with serving() as server:
        engine = api(endpoints=[dead, server.url], concurrency=4)
        assert len(replies(engine, many(30))) == 30


# load


@pytest.mark.extra
def test_a_thousand_prompts_64_in_flight_shared_by_two_endpoints():
    with serving(delay=0.02) as first, serving(delay=0.02) as second:
        both, peak = (first, second), []
        engine = api(endpoints=[first.url, second.url], concurrency=64)
        results = {}
        for reply in engine.generate(many(1000), max_new_tokens=3):
            results[reply.prompt_id] = reply.text
            peak.append(sum(server.in_flight for server in both))
    assert results == {f"question {i}": f"About question {i}" for i in range(1000)}
    assert len(first.requests) + len(second.requests) == 1000
    assert min(len(first.requests), len(second.requests)) >= 400
    assert 8 < first.peak <= 32
    assert 8 < second.peak <= 32
    assert max(peak) <= 64


def test_closing_the_iterator_stops_the_requests():
    with serving(delay=0.02) as server:
        stream = api(endpoints=server.url, concurrency=4).generate(many(1000), max_new_tokens=3)
        next(stream)
        stream.close()
        received = len(server.requests)
        time.sleep(0.15)
        assert len(server.requests) <= received + 4 < 100  # those that were on their way


def test_requests_per_minute_limit_all_endpoints_together():
    with serving() as first, serving() as second:
        engine = api(endpoints=[first.url, second.url], requests_per_minute=1200)
        replies(engine, many(8))
    times = sorted(received.at for server in (first, second) for received in server.requests)
    assert times[-1] - times[0] >= 7 * 60 / 1200 - 0.05


# the key


def test_the_key_is_sent_and_appears_nowhere_else(monkeypatch, caplog, capfd):
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    faults = [Fault("status", 500, message=f"the key {KEY} is fine"), None, Fault("status", 400, message=f"bad {KEY}")]
    faults.append(faults[0])
    with serving(fault=in_order(faults)) as server:
        engine = api(endpoints=server.url, api_key_env="MY_KEY", concurrency=1)
        rejected = list(engine.generate(many(2), max_new_tokens=3))[-1]
        with pytest.raises(EngineError) as error:
            list(replace(engine, limits=replace(engine.limits, attempts=1)).generate(many(1), max_new_tokens=3))
    assert "bad …" in rejected.reason
    assert {received.headers["authorization"] for received in server.requests} == {f"Bearer {KEY}"}
    texts = [rejected.model_dump_json(), str(error.value), repr(error.value)]
    outputs = [*texts, repr(engine), caplog.text, *capfd.readouterr()]
    assert not any(KEY in text for text in outputs)


def test_without_a_key_none_is_sent(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving() as server:
        replies(api(endpoints=server.url), many(1))
    assert server.requests[0].headers["authorization"] == "Bearer none"


# settings


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"endpoints": "127.0.0.1:8000"}, "expected an address such as http://127.0.0.1:8000/v1"),
        ({"endpoints": []}, "at least one address"),
        ({"endpoints": f"http://me:{KEY}@127.0.0.1/v1"}, "store the key in an environment variable"),
        ({"send": "ids"}, "expected the served model's tokenizer"),
        ({"send": "tokens"}, "expected one of messages, text, ids, got 'tokens'"),
        ({"template": "paper"}, "template: expected a tokenizer to render with"),
        ({"concurrency": 0}, "concurrency: expected a number above 0, got 0"),
        ({"api_key_env": "NOT_SET_ANYWHERE"}, "expected a key in the environment variable 'NOT_SET_ANYWHERE'"),
    ],
)
def test_invalid_settings_are_errors_before_any_request(settings, part):
    with pytest.raises(EngineError) as error:
        load_engine("m", **settings)
    assert part in str(error.value)
    assert KEY not in str(error.value)


def test_a_tokenizer_with_messages_is_an_error(tiny_model_dir):
    with pytest.raises(EngineError, match="expected no tokenizer, as the server renders them"):
        load_engine("m", tokenizer=str(tiny_model_dir), send="messages")


def test_a_missing_package_is_a_one_line_error_with_the_install_command(monkeypatch):
    monkeypatch.setattr("derta.engines.openai.find_spec", lambda _name: None)
    with pytest.raises(EngineError, match=r"run `pip install -c constraints.txt -e '\.\[api\]'`"):
        load_engine("m")


def test_duplicate_prompt_ids_and_no_new_tokens_are_refused(tiny_model_dir):
    engine = load_engine("m", endpoints="http://127.0.0.1:9/v1")
    with pytest.raises(ModelError, match="'question 0' twice"):
        engine.generate([*many(2), *many(1)], max_new_tokens=3)
    with pytest.raises(ModelError, match="at least 1, got 0"):
        engine.generate(many(2), max_new_tokens=0)
    assert list(engine.generate([], max_new_tokens=3)) == []
