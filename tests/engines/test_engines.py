import subprocess
import sys

import pytest
from openai_server import model_answer, serving
from vllm_stand_in import installed

from derta.engines import ENGINES, load_engine
from derta.engines.scripted import ScriptedModel
from derta.errors import EngineError
from derta.records import Message, Prompt

PROMPTS = [
    Prompt(id="chat", request_id="r", request="?", attack="a", messages=(Message(role="user", content="Tea?"),)),
    Prompt(id="raw", request_id="r", request="?", attack="a", mode="raw", text="Step 1:"),
    Prompt(
        id="prefilled",
        request_id="r",
        request="?",
        attack="a",
        messages=(Message(role="user", content="Tea?"),),
        prefill="Sure,",
    ),
]
CONTINUATIONS = ["Sure, here", "", "boil the water"]


@pytest.fixture(params=[*ENGINES, "scripted"])
def engine(request, tiny_model_dir, monkeypatch):
    if request.param == "scripted":
        yield ScriptedModel(lambda prompt: f"The answer to {prompt.id}.")
        return
    model = str(tiny_model_dir)
    local = load_engine(model)
    with serving(model_answer(local)) as server, installed(local, monkeypatch.setitem):
        settings = {"api": {"endpoints": server.url, "tokenizer": model}}.get(request.param, {})
        yield load_engine(model, engine=request.param, **settings)


def test_every_prompt_has_exactly_one_reply_no_longer_than_asked(engine):
    found = list(engine.generate(PROMPTS, max_new_tokens=3))
    assert sorted(reply.prompt_id for reply in found) == sorted(prompt.id for prompt in PROMPTS)
    for reply in found:
        assert len(reply.token_ids) == len(reply.token_starts) <= 3
        assert reply.stop_reason in ("eos", "length")


def test_the_same_prompts_have_the_same_replies(engine):
    first, second = (
        sorted(engine.generate(PROMPTS, max_new_tokens=3), key=lambda reply: reply.prompt_id) for _ in "ab"
    )
    assert first == second


def test_there_is_one_log_probability_a_token_and_one_refusal_probability_more(engine):
    log_probs = engine.log_likelihood(PROMPTS, CONTINUATIONS)
    refusals = engine.refusal_probability(PROMPTS, CONTINUATIONS)
    assert [len(own) + 1 for own in log_probs] == [len(own) for own in refusals]
    assert all(value <= 0 for own in log_probs for value in own)
    assert all(0 <= value <= 1 for own in refusals for value in own)
    assert log_probs[1] == []


def test_any_engine_is_built_from_its_name_and_settings(tiny_model_dir):
    engine = load_engine("m", engine="api", tokenizer=str(tiny_model_dir), body={"top_k": 1}, concurrency=3)
    assert (engine.send, engine.body, engine.limits.concurrency) == ("ids", {"top_k": 1}, 3)
    with pytest.raises(EngineError, match="setting concurrency"):
        load_engine("m", engine="api", concurrency="a lot")


def test_knowing_the_engines_imports_no_torch():
    code = "import sys, derta.engines, derta.engines.scripted; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - our own line
