import json
import os
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from one_step import assert_close
from peft import LoraConfig, get_peft_model

from derta.config import RowConfig
from derta.data.rows import IGNORE
from derta.train.checkpoints import NonFiniteLossError
from derta.train.collator import collate
from derta.train.dataset import MicroBatchSampler, RowDataset, StepSettings
from derta.train.loss import model_inputs

GOLDEN = Path(__file__).with_name("golden_trajectory.json")
REFERENCE = {"pack_tokens": 0, "reference": True}
SGD = {"optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "max_steps": 1}


def weights(trainer):
    return {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}


def steps_of(trainer, name="loss"):
    return [entry[name] for entry in trainer.state.log_history if "loss" in entry and name in entry]


def assert_same_weights(ours, expected, tolerance):
    assert set(ours) == set(expected)
    worst = max(float((ours[name] - expected[name]).abs().max()) for name in expected)
    assert worst <= tolerance


@pytest.fixture
def tiny_llama(make_model, make_tokenizer):
    return lambda: make_model("llama", vocab_size=len(make_tokenizer()), initializer_range=0.05)


# --- one step, worked out again in plain PyTorch -------------------------------------------------------------------


def stock_losses(model, row, labels):
    """Each labelled position's cross-entropy for one row by itself, from the model's own logits."""
    logits = model(input_ids=torch.tensor([row.input_ids]), use_cache=False).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), ignore_index=IGNORE, reduction="none")


def first_rows(given, config, count):
    dataset = RowDataset(given, config=config, seed=0)
    (keys,) = list(MicroBatchSampler(dataset, settings=StepSettings(micro_rows=len(given), micro_batches=1), seed=0))
    return [dataset[key] for key in keys[:count]]


def test_a_step_is_equation_one_averaged_over_its_labelled_tokens(small_data, train_losses, tiny_llama):
    given, settings = small_data("derta"), RowConfig(max_length=128, sorry_dropout=0.5)
    model = tiny_llama()
    trainer = train_losses(given, model=deepcopy(model), per_device_train_batch_size=2,
                           gradient_accumulation_steps=4, **SGD)  # fmt: skip
    rows = first_rows(given, settings, 8)
    assert {row.term for row in rows} == {"helpful", "safe", "rto"}
    losses = torch.cat([stock_losses(model, row, row.labels) for row in rows])
    count = sum(label != IGNORE for row in rows for label in row.labels)
    loss = losses.sum() / count
    loss.backward()
    assert steps_of(trainer) == [pytest.approx(loss.item(), abs=1e-4)]
    expected = {name: parameter.detach() - parameter.grad for name, parameter in model.named_parameters()}
    assert_same_weights(weights(trainer), expected, 1e-6)


def test_a_reference_step_is_the_mean_of_its_micro_batches_means_after_dropout_over_the_padded_rows(
    small_data, train_losses, tiny_llama
):
    given, settings = small_data("derta"), RowConfig(max_length=128, reference=True)
    model = tiny_llama()
    trainer = train_losses(given, model=deepcopy(model), per_device_train_batch_size=4,
                           gradient_accumulation_steps=2, **(REFERENCE | SGD))  # fmt: skip
    rows = first_rows(given, settings, 8)
    means = []
    for micro in (rows[:4], rows[4:]):
        batch = collate(micro, capacity=0, pad_id=0)  # its dropout is checked in test_collator
        learned = torch.full_like(batch["input_ids"], IGNORE).flatten()
        learned[batch["label_positions"] + 1] = batch["targets"]
        learned = learned.view_as(batch["input_ids"]).tolist()
        kept = {tuple(ids[: len(row.input_ids)]): labels for row in micro
                for ids, labels in zip(batch["input_ids"].tolist(), learned, strict=True)
                if ids[: len(row.input_ids)] == row.input_ids}  # fmt: skip
        losses = [stock_losses(model, row, kept[tuple(row.input_ids)][: len(row.input_ids)]) for row in micro]
        count = sum(label != IGNORE for labels in kept.values() for label in labels)
        assert len(kept) == 4
        means.append(torch.cat(losses).sum() / count)
    counts_differ = means[0].item() != means[1].item()
    assert counts_differ
    loss = (means[0] + means[1]) / 2
    loss.backward()
    assert steps_of(trainer) == [pytest.approx(loss.item(), abs=1e-4)]
    expected = {name: parameter.detach() - parameter.grad for name, parameter in model.named_parameters()}
    assert_same_weights(weights(trainer), expected, 1e-6)


@pytest.mark.parametrize("fp16", [False, True])
def test_the_steps_divisor_scales_the_weights_or_with_fp16_the_loss_and_each_gradient_once(
    small_data, train_losses, tiny_llama, fp16
):
    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules=["lm_head", "q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(tiny_llama(), config)
    trainer = train_losses(small_data("derta"), model=model, steps=False)
    (batch, *_) = trainer.get_train_dataloader()
    plain = trainer.model(**model_inputs(batch))
    plain.loss.backward()
    expected = {name: p.grad.clone() / 40 for name, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    trainer.args.fp16 = fp16
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(40))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(plain.loss.detach()) / 40, rel=1e-5)
    assert float(batch["weights"].max()) == pytest.approx(1.0 if fp16 else 1 / 40)
    assert_close({n: p.grad for n, p in trainer.model.named_parameters() if p.requires_grad}, expected)


# --- what must not matter ------------------------------------------------------------------------------------------


def test_how_a_batch_is_cut_up_never_changes_a_step(small_data, train_losses):
    given = small_data("derta", num_triples=7, num_examples=6)  # 20 rows: the last step has half a batch
    whole = train_losses(given, per_device_train_batch_size=8)
    assert len(steps_of(whole)) == 6
    for micro, accumulated in ((4, 2), (2, 4)):
        parts = train_losses(
            given, per_device_train_batch_size=micro, gradient_accumulation_steps=accumulated, pack_tokens=0
        )
        assert steps_of(parts) == pytest.approx(steps_of(whole), abs=2e-4)
        assert steps_of(parts, "loss_rto") == pytest.approx(steps_of(whole, "loss_rto"), abs=2e-4)
        assert_same_weights(weights(parts), weights(whole), 1e-5)


def test_worker_processes_draw_the_same_rows(small_data, train_losses):
    given = small_data("derta")
    alone = train_losses(given)
    helped = train_losses(given, dataloader_num_workers=2)
    assert steps_of(helped) == steps_of(alone)
    assert_same_weights(weights(helped), weights(alone), 0)


# in the first epoch, between the two, in the second
@pytest.mark.parametrize(("step", "lora"), [(4, False), (6, False), (8, False), (4, True)])
def test_resuming_equals_never_having_stopped_bit_for_bit(small_data, train_losses, tiny_llama, step, lora):
    given = small_data("derta")  # 24 rows: six steps an epoch

    def train(resume=None):
        model = tiny_llama()
        if lora:
            torch.manual_seed(5)
            config = LoraConfig(r=4, lora_dropout=0.3, target_modules="all-linear", task_type="CAUSAL_LM")
            model = get_peft_model(model, config)
        return train_losses(
            given, model=model, per_device_train_batch_size=4, save_strategy="steps", save_steps=2, resume=resume
        )

    whole = train()
    resumed = train(resume=f"{whole.args.output_dir}/checkpoint-{step}")
    assert resumed.state.global_step == whole.state.global_step == 12
    assert steps_of(resumed) == steps_of(whole)
    assert_same_weights(weights(resumed), weights(whole), 0)


def test_gradient_checkpointing_does_not_change_training(small_data, train_losses):
    given = small_data("derta", num_triples=4, num_examples=4)
    plain = train_losses(given, num_train_epochs=1)
    spared = train_losses(given, num_train_epochs=1, activation_checkpointing=True)
    assert_same_weights(weights(spared), weights(plain), 1e-6)


# --- what is seen --------------------------------------------------------------------------------------------------


def test_rto_training_raises_the_logged_probability_of_refusing_and_lowers_every_loss(small_data, train_losses):
    trainer = train_losses(small_data("derta"), num_train_epochs=8, learning_rate=1e-2, logging_steps=3)
    probability = steps_of(trainer, "refusal_probability")
    assert len(probability) == 8
    assert probability[0] < 0.2
    assert probability[-1] > 0.8
    for name in ("loss", "loss_helpful", "loss_safe", "loss_rto"):
        values = steps_of(trainer, name)
        assert len(values) == 8
        assert values[-1] < values[0] / 1.5


def test_terms_that_a_method_does_not_have_are_not_logged(small_data, train_losses):
    trainer = train_losses(small_data("vanilla"), num_train_epochs=1)
    logged = {name for entry in trainer.state.log_history for name in entry}
    assert {"loss_helpful", "loss_safe"} <= logged
    assert not {"loss_rto", "refusal_probability"} & logged


def test_a_loss_that_is_not_finite_stops_training_and_names_the_rows(small_data, train_losses):
    given = small_data("derta", num_triples=1, num_examples=1)
    trainer = train_losses(given, steps=False)
    with torch.no_grad():
        trainer.model.lm_head.weight[7] = float("inf")
    with pytest.raises(NonFiniteLossError, match=r"step 0: expected a finite loss, got (nan|inf)") as caught:
        trainer.train()
    assert all(one.source.id in str(caught.value) for one in given)
    assert "lower the learning rate" in str(caught.value)


def test_gradients_that_are_not_finite_stop_training_before_the_update(small_data, train_losses):
    trainer = train_losses(small_data("derta"), steps=False)
    before = weights(trainer)
    trainer.model.model.norm.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(NonFiniteLossError, match=r"step 0: expected a finite gradient norm, got (nan|inf)"):
        trainer.train()
    assert_same_weights(weights(trainer), before, 0)


def test_a_reference_micro_batch_without_labels_is_no_nan(small_data, train_losses):
    given = [one for one in small_data("rto") if one.term == "rto"]  # many keep no label at all
    trainer = train_losses(
        given,
        max_length=40,
        per_device_train_batch_size=1,
        num_train_epochs=4,
        **REFERENCE,
    )
    assert 0.0 in steps_of(trainer)
    assert all(torch.isfinite(tensor).all() for tensor in weights(trainer).values())


def test_overlong_prompts_and_responses_still_train(small_data, train_losses):
    trainer = train_losses(small_data("derta"), max_length=32, num_train_epochs=1)
    assert len(steps_of(trainer, "loss_rto")) == 3
    assert all(torch.isfinite(tensor).all() for tensor in weights(trainer).values())


def test_training_follows_the_recorded_trajectory(small_data, train_losses):
    """Record again: `DERTA_RECORD=1 pytest tests/train/test_trainer.py -k recorded_trajectory`."""
    trainer = train_losses(small_data("derta"))
    names = ("loss", "loss_helpful", "loss_safe", "loss_rto", "refusal_probability")
    found = {name: [round(value, 4) for value in steps_of(trainer, name)] for name in names}
    if os.environ.get("DERTA_RECORD"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    recorded = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert found == {name: pytest.approx(values, abs=2e-3) for name, values in recorded.items()}
