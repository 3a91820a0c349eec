"""The real `transformers serve`, on a tiny random model."""

import socket
import time
import urllib.error
import urllib.request

import pytest

from derta.engines.hf import load as load_hf
from derta.engines.openai import load as load_engine
from derta.errors import EngineError
from derta.records import Message, Prompt
from forks import start_fork

pytestmark = pytest.mark.slow


def chat_prompt(name, *, prefill=None):
    messages = (Message(role="user", content="How do I bake bread ?"),)
    return Prompt(id=name, request_id="r", request="?", attack="direct", messages=messages, prefill=prefill)


RAW = Prompt(id="raw", request_id="r", request="?", attack="completing", mode="raw", text="First clean the wood")
PROMPTS = [chat_prompt("chat"), chat_prompt("prefilled", prefill="Sure, here"), RAW]


@pytest.fixture(scope="module")
def model(make_model_dir, make_tokenizer):
    """Return a tokenizer of words, so that texts differ; the server stops at the stop tokens of the model's config."""
    tokenizer = make_tokenizer(kind="word")
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>")]
    return make_model_dir(tokenizer={"kind": "word"}, eos_token_id=ends)


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve", str(model), "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    folder = tmp_path_factory.mktemp("served")
    running = start_fork(
        "from transformers.cli.transformers import main; main()", *words, outputs=(folder / "out", folder / "err"),
        environment={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        _wait_until_healthy(port, running)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        running.kill()
        running.join()


def _wait_until_healthy(port, running):
    for _ in range(600):
        assert running.is_alive(), "transformers serve ended"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError("transformers serve did not start")


def local_texts(model, prompts):
    hf = load_hf(model, device="cpu")
    results = hf.generate(prompts, max_new_tokens=12)
    return {one.prompt_id: hf.chat.tokenizer.decode(one.token_ids, skip_special_tokens=True) for one in results}


def texts(engine, prompts):
    return {reply.prompt_id: reply.text for reply in engine.generate(prompts, max_new_tokens=12)}


def test_locally_rendered_text_has_the_local_replies(server, model):
    engine = load_engine(str(model), endpoints=server, tokenizer=str(model), send="text")
    assert texts(engine, PROMPTS) == local_texts(model, PROMPTS)


def test_messages_have_the_local_replies_to_chat_and_raw_prompts(server, model):
    prompts = [PROMPTS[0], RAW]
    assert texts(load_engine(str(model), endpoints=server), prompts) == local_texts(model, prompts)


def test_unsupported_requests_are_errors(server, model):
    prefill = load_engine(str(model), endpoints=server).generate(PROMPTS[1:2], max_new_tokens=3)
    with pytest.raises(EngineError, match=r"refused: 422 .*continue_final_message"):
        list(prefill)
    ids = load_engine(str(model), endpoints=server, tokenizer=str(model))
    with pytest.raises(EngineError, match=r"refused: 422 .*Unexpected fields"):
        list(ids.generate(PROMPTS[:1], max_new_tokens=3))
    text = load_engine(str(model), endpoints=server, tokenizer=str(model), send="text")
    with pytest.raises(EngineError, match="the server returned none; use a server that supports them"):
        text.log_likelihood(PROMPTS[:1], ["Sure"])
