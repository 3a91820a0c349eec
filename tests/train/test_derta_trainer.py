"""`DertaTrainer` as a user's code has it: from names and triples to a saved and resumed model."""

import json
import pickle
from collections import Counter

import pytest
import torch
from peft import LoraConfig
from stopping import StopAt
from trainer_cases import EXAMPLES, READY, SETTINGS, TRIPLES
from transformers import TrainerCallback
from transformers.models.auto import AutoModelForCausalLM

from derta.methods import METHODS, Method
from derta.train.config import DertaConfig
from derta.train.trainer import DertaTrainer
from forks import distributed, run_forks


class Count(TrainerCallback):
    def __init__(self, taken):
        self.taken = taken

    def on_step_end(self, args, state, control, **_):
        self.taken["steps"] += 1


def test_balanced_trains_on_completion_and_counter_rows_and_logs_their_losses(trainer_of):
    given = {"method": "balanced", "eval_triples": TRIPLES[:2], "num_train_epochs": 1, "global_batch_size": 64}
    trainer = trainer_of(counter_examples=EXAMPLES[:2], per_device_train_batch_size=64, **given)
    assert Counter(trainer.train_dataset[0, i].term for i in range(len(trainer.train_dataset))) == {
        "helpful": 6, "safe": 6, "rto": 6, "completion": 15, "counter": 12,
    }  # fmt: skip
    trainer.train()
    assert {"loss_completion", "loss_counter", "refusal_probability"} <= trainer.state.log_history[0].keys()
    metrics = trainer.evaluate()
    assert "eval_loss_rto" in metrics
    assert not {"eval_loss_completion", "eval_loss_counter"} & metrics.keys()
    examples = {"eval_examples": EXAMPLES[:2], "eval_counter_examples": EXAMPLES[2:4]}
    metrics = trainer_of(counter_examples=EXAMPLES[:2], out="other", **given, **examples).evaluate()
    assert {"eval_loss_completion", "eval_loss_counter"} <= metrics.keys()


def test_a_name_and_triples_are_all_it_needs(trainer_of, tmp_path, base):
    trainer = trainer_of()
    trainer.train()
    assert {"loss_helpful", "loss_safe", "loss_rto", "refusal_probability"} <= set(trainer.state.log_history[0])
    trainer.save_model(tmp_path / "model")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert not torch.equal(saved.lm_head.weight, AutoModelForCausalLM.from_pretrained(base).lm_head.weight)
    assert (tmp_path / "model/tokenizer.json").exists()


def test_a_loaded_model_trains_as_its_folder_does_and_may_be_trained_again(trainer_of, base, make_tokenizer):
    loaded = AutoModelForCausalLM.from_pretrained(base)
    by_name, by_model = trainer_of(), trainer_of(loaded, processing_class=make_tokenizer(), out="other")
    for trainer in (by_name, by_model):
        trainer.train()
    losses = [[e["loss"] for e in t.state.log_history if "loss" in e] for t in (by_name, by_model)]
    assert losses[0] == losses[1]
    trainer_of(loaded, out="third").train()  # its tokenizer is that of the folder that it came from
    with torch.no_grad():
        assert loaded(input_ids=torch.tensor([[5, 6, 7]])).logits.shape[:2] == (1, 3)  # and is a stock model still


def test_adapters_are_trained_in_place_of_the_model(trainer_of, tmp_path):
    trainer = trainer_of(peft_config=LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    trainer.train()
    trainer.save_model(tmp_path / "adapter")
    assert (tmp_path / "adapter/adapter_model.safetensors").exists()
    assert not (tmp_path / "adapter/model.safetensors").exists()


def test_a_stopped_training_resumes_and_ends_as_one_that_was_not(trainer_of):
    whole = trainer_of(save_steps=2, out="whole")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        trainer_of(save_steps=2, callbacks=[StopAt(3)]).train()
    resumed = trainer_of(save_steps=2)
    resumed.train(resume_from_checkpoint=True)
    for mine, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_custom_method_may_return_a_users_plain_rows(trainer_of):
    custom = Method(name="custom", dataset=lambda data, **_: READY * len(data.triples))
    trainer = trainer_of(method=custom, num_train_epochs=1)
    trainer.train()
    assert len(trainer.train_dataset) == 2 * len(TRIPLES)
    assert "loss_rto" in trainer.state.log_history[0]


@pytest.mark.parametrize(("call", "steps"), [({}, 2), ({"resume_from_checkpoint": False}, 6)])
def test_a_checkpoint_named_in_the_config_is_resumed_unless_the_call_says_no(trainer_of, tmp_path, call, steps):
    trainer_of(save_steps=2, max_steps=4).train()
    taken = Counter()
    trainer = trainer_of(resume_from_checkpoint=str(tmp_path / "out/checkpoint-4"), callbacks=[Count(taken)])
    trainer.train(**call)
    assert taken["steps"] == steps


def test_a_config_serves_several_trainers_and_is_left_as_it_was(base, tmp_path):
    config = DertaConfig(str(tmp_path), **SETTINGS, step_tokens=100)
    before = config.to_dict()
    trained = [DertaTrainer(base, config, triples=TRIPLES, examples=iter(EXAMPLES)) for _ in range(2)]
    for trainer in trained:
        trainer.train()
    assert config.to_dict() == before
    first, second = ([entry.get("loss") for entry in trainer.state.log_history] for trainer in trained)
    assert first == second
    assert any("loss_helpful" in entry for entry in trained[0].state.log_history)  # data that is read once is kept


def test_ready_rows_are_trained_on_and_their_term_decides_where_they_count(trainer_of):
    trainer = trainer_of(data=False, train_dataset=READY * 4, num_train_epochs=1)
    trainer.train()
    logged = trainer.state.log_history[0]
    assert {"loss_helpful", "loss_rto"} <= set(logged)
    assert "loss_safe" not in logged
    without = trainer_of(data=False, train_dataset=READY * 4, num_train_epochs=1, rto_weight=0.0)
    without.train()
    assert without.state.log_history[0]["loss"] < logged["loss"]


# --- arguments of Hugging Face's -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"optim": "sgd", "optim_args": "momentum=0.5"},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-5}},
        {"include_num_input_tokens_seen": "all"},
        {"include_num_input_tokens_seen": "non_padding"},
        {"torch_empty_cache_steps": 1},
        {"full_determinism": True},
        {"data_seed": 7},
        {"report_to": "tensorboard", "method": METHODS["derta"]},
        {"skip_memory_metrics": False},
        {"debug": "underflow_overflow"},
        {"save_strategy": "epoch", "save_only_model": True},
        {"logging_strategy": "epoch"},
        {"logging_first_step": True},
        {"activation_checkpointing": True},
        {"enable_jit_checkpoint": True},
        {"max_grad_norm": 0.1, "adam_beta1": 0.5, "adam_beta2": 0.9, "adam_epsilon": 1e-6},
        {"eval_on_start": True, "eval_strategy": "epoch", "eval_delay": 1, "eval_triples": TRIPLES[:1]},
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_arguments_of_the_trainer_are_respected(trainer_of, settings):
    trainer = trainer_of(max_steps=2, **settings)
    trainer.train()
    assert trainer.state.global_step == 2
    if "include_num_input_tokens_seen" in settings:
        assert trainer.state.num_input_tokens_seen > 0
    if "data_seed" in settings:
        plain = trainer_of(max_steps=2, out="plain")
        plain.train()
        assert plain.state.log_history[0]["loss"] != trainer.state.log_history[0]["loss"]


@pytest.mark.parametrize("settings", [{"pack_tokens": 0}, {"pack_tokens": 128}, {"tree_rows": True}])
def test_tokens_seen_are_those_of_the_rows_and_none_of_the_padding(trainer_of, make_tokenizer, settings):
    rows = READY * 4 if "tree_rows" not in settings else None
    trainer = trainer_of(
        data=rows is None, train_dataset=rows, num_train_epochs=1, include_num_input_tokens_seen="non_padding",
        processing_class=make_tokenizer(pad=False), **settings,
    )  # fmt: skip
    trainer.train()
    lengths = [len(trainer.train_dataset[0, index].input_ids) for index in range(len(trainer.train_dataset))]
    assert trainer.state.num_input_tokens_seen == sum(lengths)


PROGRAM = """
import json, pickle, sys
from pathlib import Path
from derta.train.config import DertaConfig
from derta.train.trainer import DertaTrainer
given = pickle.load(open(sys.argv[1], "rb"))
trainer = DertaTrainer(given["model"], DertaConfig(given["out"], **given["settings"]), triples=given["triples"],
                       examples=given["examples"], eval_triples=given["triples"][:3])
trainer.train()
found = trainer.evaluate()
trainer.save_model()
if trainer.is_world_process_zero():
    losses = [e["loss"] for e in trainer.state.log_history if "loss" in e]
    (Path(given["out"]) / "found.json").write_text(json.dumps([losses, found["eval_loss"]]))
"""


def test_under_a_launcher_it_trains_and_evaluates_as_one_process_does(trainer_of, tmp_path, base):
    settings = SETTINGS | {"bf16": False, "per_device_train_batch_size": 2}
    job = {"model": base, "out": str(tmp_path / "both"), "settings": settings, "triples": TRIPLES, "examples": EXAMPLES}
    (tmp_path / "job.pickle").write_bytes(pickle.dumps(job))
    ended = run_forks(PROGRAM, tmp_path / "job.pickle", folder=tmp_path, environments=distributed(2))
    assert [one.returncode for one in ended] == [0, 0], ended
    alone = trainer_of(bf16=False, eval_triples=TRIPLES[:3])
    alone.train()
    losses = [entry["loss"] for entry in alone.state.log_history if "loss" in entry]
    both, loss = json.loads((tmp_path / "both/found.json").read_text())
    assert both == pytest.approx(losses, abs=2e-4)
    assert loss == pytest.approx(alone.evaluate()["eval_loss"], abs=2e-4)
    assert (tmp_path / "both/model.safetensors").exists()
