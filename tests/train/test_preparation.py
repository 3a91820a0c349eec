from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from derta.data.rows import TERMS
from derta.errors import ModelError, RecipeError, RunError
from derta.train.config import DertaConfig
from derta.train.preparation import adds_in_place, prepare_model, prepare_process

LORA = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
REFUSALS = (3, 4)


@pytest.fixture
def config(tmp_path):
    return DertaConfig(str(tmp_path), max_length=64)


def test_a_prepared_model_returns_label_losses_and_generates_as_before(make_model, config):
    model = make_model("llama", vocab_size=96)
    net = prepare_model(model, config, refusal_ids=REFUSALS)
    assert net is model
    inputs = {
        "input_ids": torch.arange(5, 13)[None],
        "position_ids": torch.arange(8)[None],
        "label_positions": torch.tensor([2, 5]),
        "targets": torch.tensor([3, 4]),
        "terms": torch.tensor([2, 0]),
        "weights": torch.ones(2),
    }
    counts = dict(zip(TERMS, net(**inputs).counts.tolist(), strict=True))
    assert counts == {**dict.fromkeys(TERMS, 0), "helpful": 1, "rto": 1}
    assert net(input_ids=inputs["input_ids"]).logits.shape == (1, 8, 96)


def test_a_peft_config_adds_adapters_and_freezes_the_base(make_model, config):
    net = prepare_model(make_model("llama", vocab_size=96), config, refusal_ids=REFUSALS, peft_config=LORA)
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)


def test_a_vision_tower_is_frozen(make_model, config):
    model = make_model("gemma3_vision", vocab_size=512)
    net = prepare_model(model, config, refusal_ids=REFUSALS)
    by_part = {
        part: [p.requires_grad for name, p in net.named_parameters() if ("vision" in name) is (part == "vision")]
        for part in ("vision", "text")
    }
    assert by_part["vision"]
    assert not any(by_part["vision"])
    assert any(by_part["text"])


def test_a_model_with_adapters_gets_no_second_ones(make_model, config):
    adapted = get_peft_model(make_model("llama", vocab_size=96), LORA)
    with pytest.raises(RecipeError, match="peft_config: expected a model without adapters, got one with adapters"):
        prepare_model(adapted, config, refusal_ids=REFUSALS, peft_config=LORA)


def test_running_out_of_memory_while_a_model_is_loaded_is_a_model_error(config, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("derta.train.preparation.load_base", fail)
    with pytest.raises(ModelError, match="out of memory while the model was loaded"):
        prepare_model("org/name", config, refusal_ids=REFUSALS)


def test_a_process_gets_the_configs_threads_and_seed_and_no_attention_by_cudnn(tmp_path):
    before = torch.get_num_threads()
    torch.backends.cuda.enable_cudnn_sdp(True)
    try:
        draws = []
        for seed in (5, 5, 6):
            prepare_process(DertaConfig(str(tmp_path), num_threads=before + 1, seed=seed))
            assert torch.get_num_threads() == before + 1
            draws.append(float(torch.rand(())))
        assert draws[0] == draws[1] != draws[2]
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine could")
def test_a_sharded_launch_without_accelerators_is_refused_before_anything_is_loaded(config, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(RunError, match="expected GPUs for FSDP, found none"):
        prepare_process(config)


@pytest.mark.parametrize(
    ("settings", "adapted", "expected"),
    [
        ({}, False, True),
        ({"device": "cuda"}, False, False),
        ({"world_size": 2}, False, False),
        ({"fp16": True}, False, False),
        ({"optim": "galore_adamw_layerwise"}, False, False),
        ({}, True, False),
    ],
)
def test_gradients_bypass_autograd_only_if_nothing_else_needs_them(settings, adapted, expected):
    plain = {"device": "cpu", "world_size": 1, "fp16": False, "optim": "adamw_torch"}
    config = SimpleNamespace(**(plain | settings))
    config.device = torch.device(config.device)
    assert adds_in_place(config, adapted=adapted) is expected
