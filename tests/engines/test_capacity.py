from types import SimpleNamespace

import pytest
import torch
from transformers import Gemma3TextConfig, GPT2Config, LlamaConfig

from derta.engines import hf_engine, load_engine
from derta.engines.capacity import batch_tokens, cache_bytes, chunk_tokens, finished_share, max_logits

LLAMA_8B = LlamaConfig(
    vocab_size=128256, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8
)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LLAMA_8B, 2 * 32 * 8 * 128 * 2),
        (GPT2Config(n_layer=3, n_head=4, n_embd=64), 2 * 3 * 64 * 2),
        (Gemma3TextConfig(num_hidden_layers=2, num_key_value_heads=1, head_dim=256), 2 * 2 * 256 * 2),
    ],
)
def test_the_cache_of_a_token_has_the_keys_and_values_of_all_layers(config, expected):
    assert cache_bytes(config, torch.bfloat16) == expected


def on_gpu(monkeypatch, *, free, reserved=0, allocated=0):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated)
    return SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16, config=LLAMA_8B)


def test_a_batch_on_a_gpu_fills_a_quarter_of_the_free_memory_within_bounds(monkeypatch):
    for gib, expected in ((1, 16384), (10, 20480), (70, 2**17)):
        assert batch_tokens(on_gpu(monkeypatch, free=gib * 2**30), chunked=True) == expected
    unused = on_gpu(monkeypatch, free=6 * 2**30, reserved=5 * 2**30, allocated=2**30)
    assert batch_tokens(unused, chunked=True) == 20480  # what the allocator holds and no tensor uses is free
    assert batch_tokens(on_gpu(monkeypatch, free=70 * 2**30), chunked=False) == 16384


def test_on_a_cpu_batches_fit_its_caches_and_rows_leave_at_once(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80 * 2**30))
    assert batch_tokens(SimpleNamespace(device=cpu), chunked=True) == 16384
    assert [(max_logits(one), chunk_tokens(one), finished_share(one)) for one in (cpu, gpu)] == [
        (2**26, 1024, 0.0),
        (2**28, 16384, 0.25),
    ]


def test_a_small_gpu_holds_no_more_logits_than_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=24 * 2**30))
    assert max_logits(torch.device("cuda")) == 2**26


def test_an_engine_takes_the_limit_of_its_device_unless_it_has_one(make_model_dir, monkeypatch):
    limits = []
    monkeypatch.setattr(hf_engine, "batch_tokens", lambda model, *, chunked: limits.append(chunked) or 30)
    engine = load_engine(make_model_dir())
    assert list(engine._batches([10, 10, 10, 10], [None] * 4)) == [[0, 1, 2], [3]]
    assert limits == [True]
    engine = load_engine(make_model_dir(), max_batch_tokens=20)
    assert list(engine._batches([10, 10, 10, 10], [None] * 4)) == [[0, 1], [2, 3]]
    assert limits == [True]


def test_attention_of_an_engine_is_not_cudnns(make_model_dir):
    torch.backends.cuda.enable_cudnn_sdp(True)
    load_engine(make_model_dir())
    assert not torch.backends.cuda.cudnn_sdp_enabled()
