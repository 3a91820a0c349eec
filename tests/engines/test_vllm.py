"""vLLM needs an accelerator and is not run here: a strict stand-in accepts only documented arguments."""

import json
from dataclasses import replace

import pytest
from vllm_stand_in import LLM, Logprob, installed

from derta.engines.hf import load as load_hf
from derta.engines.vllm import VllmEngine, lora_rank
from derta.engines.vllm import load as load_engine
from derta.errors import EngineError, ModelError
from derta.records import Message, Prompt

PROMPTS = [
    *(
        Prompt(id=text, request_id="r", request=text, attack="a", messages=(Message(role="user", content=text),))
        for text in ("How do I bake bread?", "Tea?", "Paint a fence.")
    ),
    Prompt(id="raw", request_id="r", request="?", attack="a", mode="raw", text="First clean the wood, then"),
]
CONTINUATIONS = ["Sure, here", "", " boil", "Sorry"]


@pytest.fixture(scope="module")
def hf(tiny_model_dir):
    return load_hf(tiny_model_dir, device="cpu")


@pytest.fixture
def vllm(hf, monkeypatch):
    with installed(hf, monkeypatch.setitem) as llm:
        yield llm


def test_replies_equal_those_of_the_local_engine(vllm, hf, tiny_model_dir):
    engine = load_engine(str(tiny_model_dir))
    results = list(engine.generate(PROMPTS, max_new_tokens=20))
    assert {reply.prompt_id: reply for reply in results} == {
        reply.prompt_id: reply for reply in hf.generate(PROMPTS, max_new_tokens=20)
    }
    [(_, params, lora)] = engine.llm.calls
    assert (params.max_tokens, set(params.stop_token_ids), lora) == (20, set(hf.chat.stop_ids), None)


def test_scores_equal_those_of_the_local_engine(vllm, hf, tiny_model_dir):
    engine = load_engine(str(tiny_model_dir))
    for name in ("log_likelihood", "refusal_probability"):
        results, expected = getattr(engine, name)(PROMPTS, CONTINUATIONS), getattr(hf, name)(PROMPTS, CONTINUATIONS)
        for row, other in zip(results, expected, strict=True):
            assert row == pytest.approx(other, rel=1e-3, abs=1e-6)


def test_a_refusal_word_of_several_tokens_scores_as_in_the_local_engine(vllm, hf, tiny_model_dir):
    words = ("Sorry", "Sure")
    engine = load_engine(str(tiny_model_dir), refusal_words=words)
    expected = replace(hf, refusal_words=words).refusal_probability(PROMPTS, CONTINUATIONS)
    for row, other in zip(engine.refusal_probability(PROMPTS, CONTINUATIONS), expected, strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-6)


def test_a_model_with_nan_logits_gives_no_score(vllm, tiny_model_dir, monkeypatch):
    engine = load_engine(str(tiny_model_dir))
    token = engine.chat.tokenizer.encode("Sorry", add_special_tokens=False)[-1]

    def log_probs(self, token_ids, params):
        return [None, *({one: Logprob(float("nan") if one == token else -1.0)} for one in token_ids[1:])]

    monkeypatch.setattr(LLM, "_log_probs", log_probs)
    assert engine.log_likelihood(PROMPTS[:1], CONTINUATIONS[2:3])[0][0] == -1.0
    with pytest.raises(EngineError, match="vLLM returned NaN or none for 1 of 1"):
        engine.log_likelihood(PROMPTS, CONTINUATIONS)


def test_prompts_are_sent_in_chunks_and_replies_yielded_early(vllm, tiny_model_dir):
    engine = load_engine(str(tiny_model_dir))
    chunked = VllmEngine(engine.llm, engine.chat, chunk=3)
    stream = chunked.generate(PROMPTS, max_new_tokens=3)
    next(stream)
    assert [call[0] for call in engine.llm.calls] == [3]
    assert len(list(stream)) == 3
    assert [call[0] for call in engine.llm.calls] == [3, 1]


def test_an_adapter_is_requested_with_a_rank_that_fits(vllm, tiny_model_dir, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 96}))
    (tmp_path / "adapter_model.safetensors").touch()
    engine = load_engine(str(tiny_model_dir), adapter=str(tmp_path), settings={"quantization": "fp8"})
    list(engine.generate(PROMPTS[:1], max_new_tokens=2))
    [settings] = vllm.created
    assert (settings["enable_lora"], settings["max_lora_rank"], settings["quantization"]) == (True, 128, "fp8")
    assert engine.llm.calls[0][2] == ("adapter", 1, str(tmp_path))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 1024}))
    with pytest.raises(ModelError, match="LoRA rank of 512 at most, got 1024"):
        lora_rank(str(tmp_path))


def test_prompts_too_long_or_empty_are_errors_before_the_first_reply(vllm, tiny_model_dir):
    engine = load_engine(str(tiny_model_dir), max_model_len=32)
    with pytest.raises(ModelError, match=r"'raw': \d+ tokens and 30 after them are more than vLLM's limit of 32"):
        engine.generate(PROMPTS[3:], max_new_tokens=30)
    with pytest.raises(ModelError, match="limit of 32"):
        engine.log_likelihood(PROMPTS[:1], ["Sure, " * 30])
    assert engine.llm.calls == []


def test_a_model_that_vllm_cannot_load_is_a_one_line_error(vllm, tiny_model_dir):
    with pytest.raises(ModelError, match=r"vLLM cannot load it \(no such quantization\); check the settings$"):
        load_engine(str(tiny_model_dir), settings={"quantization": "impossible"})
    with pytest.raises(ModelError, match="expected one of auto, float32"):
        load_engine(str(tiny_model_dir), dtype="int4")


def test_a_missing_package_is_a_one_line_error_with_the_install_command(monkeypatch):
    monkeypatch.setattr("derta.engines.vllm.find_spec", lambda _name: None)
    with pytest.raises(EngineError, match=r"run `pip install -e '\.\[vllm\]'`"):
        load_engine("anything")
