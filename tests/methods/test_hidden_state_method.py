"""A method with a loss over hidden states is one object: this file is all that it takes, beside its own test."""

import json

import pytest
import torch
from accelerate.utils import extract_model_from_parallel
from peft import LoraConfig
from safetensors.torch import load_file
from tiny_training import tune_job

from derta.config import LoraSection, load_recipe
from derta.data.rows import TERMS
from derta.methods import Method, estimate, row_method
from derta.pipeline.run import run
from derta.train.config import DertaConfig
from derta.train.loss import LabelLoss
from derta.train.trainer import DertaTrainer

RTO = TERMS.index("rto")


def hidden_states(model, batch):
    """Float["position hidden"] where the labels are, of the last layer."""
    found = model(
        input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False, output_hidden_states=True
    )
    return found.hidden_states[-1].flatten(0, 1)[batch["label_positions"]]


def rerouting_loss(model, batch):
    """Turn the states on harmful text away from what they were, and keep all others: the base is its own reference.

    Source: Zou et al., Improving Alignment and Robustness with Circuit Breakers, arXiv 2406.04313, algorithm 1, without
    its schedule of coefficients.
    """
    with torch.no_grad(), extract_model_from_parallel(model).disable_adapter():
        reference = hidden_states(model, batch).detach()
    states = hidden_states(model, batch)
    alike = torch.cosine_similarity(states, reference, dim=-1).relu()
    distance = (states - reference).norm(dim=-1)
    harmful = batch["terms"] == RTO
    losses = torch.where(harmful, alike, distance)
    sums = torch.zeros(len(TERMS), device=losses.device).index_add(0, batch["terms"], losses.detach())
    counts = torch.zeros(len(TERMS), device=losses.device).index_add(0, batch["terms"], torch.ones_like(losses))
    return LabelLoss(loss=(losses * batch["weights"]).sum(), loss_sums=sums, counts=counts)


REROUTING = Method(name="rerouting", dataset=row_method("rto", rto=True).dataset, loss=rerouting_loss, version="1")
LORA = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
SETTINGS = {
    "global_batch_size": 8, "per_device_train_batch_size": 4, "max_steps": 12, "learning_rate": 3e-2,
    "lr_scheduler_type": "constant", "warmup_steps": 0, "max_length": 128, "sorry_dropout": 0.0, "logging_steps": 1,
}  # fmt: skip


def losses(log, name):
    return [entry[name] for entry in log if name in entry]


def test_it_trains_through_the_trainer(tmp_path, vanilla, small_data, make_tokenizer):
    config = DertaConfig(str(tmp_path / "out"), method=REROUTING, seed=0, disable_tqdm=True, **SETTINGS)
    trainer = DertaTrainer(
        str(vanilla), config, train_dataset=small_data("rto"), processing_class=make_tokenizer(), peft_config=LORA
    )
    trainer.train()
    harmful, helpful = (losses(trainer.state.log_history, f"loss_{term}") for term in ("rto", "helpful"))
    assert harmful[0] == pytest.approx(1.0, abs=1e-4)  # a fresh adapter changes no state
    assert helpful[0] == pytest.approx(0.0, abs=1e-4)
    assert harmful[-1] < 0.9
    assert not losses(trainer.state.log_history, "refusal_probability")  # which this loss does not measure


def test_a_split_batch_makes_the_same_step(tmp_path, vanilla, small_data, make_tokenizer):
    def trained(per_device):
        torch.manual_seed(0)
        settings = SETTINGS | {"per_device_train_batch_size": per_device, "max_steps": 4, "pack_tokens": 0}
        config = DertaConfig(str(tmp_path / "out"), method=REROUTING, seed=0, disable_tqdm=True, **settings)
        trainer = DertaTrainer(
            str(vanilla), config, train_dataset=small_data("rto"), processing_class=make_tokenizer(), peft_config=LORA
        )
        trainer.train()
        return losses(trainer.state.log_history, "loss")

    assert trained(8) == pytest.approx(trained(2), abs=2e-3)


def test_it_trains_as_a_run_trains(tmp_path, vanilla, small_data, make_tokenizer):
    given = {"model": str(vanilla), "data": small_data("rto"), "tokenizer": make_tokenizer()}
    lora = LoraSection(r=4, target_modules=("q_proj", "v_proj"))
    out = tune_job(method=REROUTING, settings=SETTINGS, lora=lora, out=tmp_path / "model", **given)
    assert load_file(out / "adapter_model.safetensors")
    assert losses(json.loads((out / "train_log.json").read_text()), "loss_rto")
    config = DertaConfig(str(tmp_path / "probe"), method=REROUTING, disable_tqdm=True, **SETTINGS)
    planned = estimate(REROUTING, config=config, lora=lora, **given).plan
    assert planned.steps == 12


def test_a_recipe_names_it_beside_ours(recipe, tmp_path):
    changes = {
        "methods": ["rerouting"], "train.max_steps": 1, "train.lora": {"r": 4}, "evaluate": [], "profile_answers": 0,
    }  # fmt: skip
    run(load_recipe(recipe, overrides=changes), out=tmp_path / "run", methods={"rerouting": REROUTING})
    assert (tmp_path / "run/rerouting-seed0/model/adapter_model.safetensors").exists()
    assert "rerouting 1" in (tmp_path / "run/manifest.json").read_text()
