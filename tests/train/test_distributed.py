import json
import pickle
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import tune_job
from torch import nn
from transformers.models.auto import AutoModelForCausalLM

from derta.config import LoraSection
from derta.errors import RunError
from derta.train.distributed import check_launch, holds_weights
from forks import distributed, launch_env, run_forks
from tolerances import assert_trained_alike

CONFIGS = Path(__file__).parents[2] / "recipes" / "accelerate"
TRAIN = {
    "num_train_epochs": 1, "global_batch_size": 8, "per_device_train_batch_size": 2, "learning_rate": 1e-3,
    "max_length": 128, "pack_tokens": 128, "sorry_dropout": 0.5, "logging_steps": 1,
}  # fmt: skip
EXPERTS = LoraSection(r=4, lora_alpha=8, lora_dropout=0, target_modules=("q_proj", "w1", "w2", "w3", "lm_head"))
# model kind, its settings, training settings, the step at which both processes are stopped once
JOBS = {
    "full, stopped": ("llama", {}, {"save_steps": 1, "anchor_weight": 1.0}, 2),
    "experts and head": (
        "mixtral",
        {},
        {"lora": EXPERTS, "activation_checkpointing": True, "anchor_weight": 1.0},
        None,
    ),
    "bf16 base": ("llama", {"dtype": "bfloat16"}, {"rto_targets": "set", "rto_margin": 0.01}, None),
    "eyes, tied": ("gemma3_vision", {}, {"activation_checkpointing": True}, None),
}


def train_log(folder):
    return [entry for entry in json.loads((folder / "train_log.json").read_text()) if "loss" in entry]


def weights(folder, *, adapter):
    """A stock checkpoint's as it loads, or an adapter's own (PEFT adds the frozen head, but not under ZeRO-3)."""
    if adapter:
        held = load_file(folder / "adapter_model.safetensors")
        return {name: tensor for name, tensor in held.items() if not name.endswith("base_layer.weight")}
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert {weight.dtype for weight in load_file(folder / "model.safetensors").values()} == {model.dtype}
    return model.state_dict()


@pytest.fixture
def jobs(make_model_dir, make_tokenizer, small_data, tmp_path):
    def make(kind):
        return {
            name: (
                {
                    "model": str(make_model_dir(kind=model, initializer_range=0.05, **settings)),
                    "settings": TRAIN | {name: value for name, value in train.items() if name != "lora"},
                    "lora": train.get("lora"),
                    "tokenizer": make_tokenizer(),
                    "data": small_data("derta"),
                    "out": tmp_path / kind / name,
                },
                stop,
            )
            for name, (model, settings, train, stop) in JOBS.items()
        }

    return make


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*save_embedding_layers.*:UserWarning")
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("fsdp2", marks=pytest.mark.extra),
        pytest.param("zero3", marks=pytest.mark.skipif(not find_spec("deepspeed"), reason="needs deepspeed")),
    ],
)
def test_two_processes_that_share_the_model_train_as_one_does(jobs, kind, tmp_path):
    alone, both = jobs("alone"), jobs(kind)
    (tmp_path / "jobs.pickle").write_bytes(pickle.dumps(list(both.values())))
    program = Path(__file__).with_name("sharded_worker.py").read_text()
    environments = [launch_env(CONFIGS / f"{kind}.yaml") | one | {"DS_ACCELERATOR": "cpu"} for one in distributed(2)]
    for ended in run_forks(program, tmp_path / "jobs.pickle", folder=tmp_path, environments=environments):
        assert ended.returncode == 0, ended.stderr[-9000:]
    for name, (job, _) in alone.items():
        single, shared = tune_job(**job), both[name][0]["out"]
        for key in ("loss", "loss_helpful", "loss_safe", "loss_rto", "loss_anchor", "refusal_probability"):
            one, two = ([entry.get(key) for entry in train_log(folder)] for folder in (single, shared))
            assert two == pytest.approx(one, abs=2e-4), (name, key)
        ours, expected = (weights(folder, adapter=job["lora"] is not None) for folder in (shared, single))
        assert all(ours[weight].dtype == expected[weight].dtype for weight in expected), name
        assert_trained_alike(ours, expected, learning_rate=TRAIN["learning_rate"], steps=3)
        assert not shared.with_name(shared.name + ".checkpoints").exists()


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine could")
def test_sharding_without_accelerators_is_refused(monkeypatch, name):
    check_launch()
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(RunError, match=f"expected GPUs for {name}, found none"):
        check_launch()


def test_a_process_knows_whether_it_holds_the_weights():
    assert holds_weights(nn.Linear(2, 2))
    assert not holds_weights(nn.Linear(2, 2, device="meta"))
    assert not holds_weights(nn.ParameterList([nn.Parameter(torch.empty(0))]))  # as ZeRO-3 leaves them
