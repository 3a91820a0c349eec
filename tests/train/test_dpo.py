"""DPO through TRL on tiny models; what it computes is checked against the formula in plain torch."""

import errno
import json
from math import log

import pytest
import torch
from peft import PeftModel
from transformers import TrainerCallback
from transformers.models.auto import AutoModelForCausalLM

from derta.chat import chat_format, refusal_tokens
from derta.config import DpoSection, LoraSection, ModelSection, TrainSection
from derta.data.encoding import encode_triple
from derta.data.preferences import cut_pair, triple_pair
from derta.errors import RunError
from derta.records import Triple
from derta.train import memory
from derta.train.dpo import PairTrainer, collate_pairs, dpo_arguments, fit_dpo, pair_trainer
from derta.train.trainer import NonFiniteLossError
from tolerances import step_tolerance, sum_tolerance

TRAIN = TrainSection(batch_size=4, micro_batch_size=2, max_length=96, logging_steps=1, warmup=0)
DPO = DpoSection(learning_rate=1e-3, epochs=2)
LORA = LoraSection(r=4, lora_alpha=8)  # as conftest's vanilla_adapter


class StopAt(TrainerCallback):
    """Ctrl-C after a step, as a user's."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def changed(section, **settings):
    return section.model_copy(update=settings)


@pytest.fixture(scope="module")
def pairs(make_tokenizer):
    chat = chat_format(make_tokenizer())
    refusals = refusal_tokens(chat)
    triples = [
        Triple(
            query=f"How do I paint {thing}?",
            safe=f"Sorry, I cannot help with {thing}.",
            harmful=f"Sure, here are the steps for {thing}. Step 1: boil the water." + " Wait." * i,
        )
        for i, thing in enumerate(("bread", "tea", "a kite", "a fence", "a boat", "a story", "a river", "a cat"))
    ]
    return [triple_pair(encode_triple(chat, triple, refusals=refusals)) for triple in triples]


@pytest.fixture
def run_dpo(tmp_path, vanilla, make_tokenizer, pairs):
    def run(*, train=TRAIN, dpo=DPO, out="model", start=vanilla, **settings):
        plain = {"model": ModelSection(path=str(vanilla)), "tokenizer": make_tokenizer(), "pairs": pairs, "seed": 0}
        return fit_dpo(**(plain | settings), train=train, dpo=dpo, start=start, out=tmp_path / out)

    return run


@pytest.fixture
def make_trainer(tmp_path, vanilla, make_tokenizer, pairs):
    def make(*, train=TRAIN, dpo=DPO, start=vanilla):
        return pair_trainer(
            model=ModelSection(path=str(vanilla)), train=train, dpo=dpo, tokenizer=make_tokenizer(), pairs=pairs,
            start=start, arguments=dpo_arguments(train, dpo, seed=0, folder=tmp_path / "checkpoints"),
        )  # fmt: skip

    return make


def read_log(folder):
    return [entry for entry in json.loads((folder / "train_log.json").read_text()) if "loss" in entry]


def losses(folder):
    return [entry["loss"] for entry in read_log(folder)]


def saved(folder, name="model.safetensors"):
    return (folder / name).read_bytes()


def log_likelihood(model, prompt_ids, response_ids):
    """log P(response | prompt), by hand: one row, no padding, no mask."""
    ids = torch.tensor([[*prompt_ids, *response_ids]])
    log_probs = model(input_ids=ids).logits[0, :-1].log_softmax(dim=-1)
    return log_probs.gather(1, ids[0, 1:, None])[len(prompt_ids) - 1 :].sum()


def dpo_by_hand(policy, reference, pairs, *, beta):
    """The mean of -log sigmoid(beta * (chosen - rejected)), each less its reference: arXiv 2305.18290, Eq. 7."""
    total = 0.0
    for pair in pairs:
        sides = (pair.chosen_prompt_ids, pair.chosen_ids), (pair.rejected_prompt_ids, pair.rejected_ids)
        with torch.no_grad():
            before = [log_likelihood(reference, *side) for side in sides]
        chosen, rejected = (log_likelihood(policy, *side) - was for side, was in zip(sides, before, strict=True))
        total = total - torch.nn.functional.logsigmoid(beta * (chosen - rejected))
    return total / len(pairs)


def nudge(net):
    """Move every trained weight, so that policy and reference differ."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)


def loss_tolerance(pairs, *, beta):
    """The bound for `beta` times a sum of log-probabilities, one a token of the response, of about log 512 each."""
    tokens = max(len(ids) for pair in pairs for ids in (pair.chosen_ids, pair.rejected_ids))
    return sum_tolerance(torch.float32, tokens, beta * tokens * log(512))


# --- the loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("precompute", [False, True])
def test_the_loss_and_its_gradients_are_those_of_the_formula(make_trainer, vanilla, pairs, lora, precompute):
    trainer = make_trainer(train=changed(TRAIN, lora=lora), dpo=changed(DPO, beta=0.3, precompute_reference=precompute))
    net = trainer.model.eval()
    nudge(net)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    theirs = trainer.compute_loss(net, batch)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(theirs, trained)
    reference = AutoModelForCausalLM.from_pretrained(vanilla)
    ours = dpo_by_hand(net, reference, [cut_pair(pair, max_length=96) for pair in pairs[:4]], beta=0.3)
    assert theirs.item() == pytest.approx(ours.item(), abs=loss_tolerance(pairs[:4], beta=0.3))
    assert abs(ours.item() - 0.6931) > 0.01
    tolerance = step_tolerance(scale=max(float(gradient.abs().max()) for gradient in gradients))
    for mine, found in zip(torch.autograd.grad(ours, trained), gradients, strict=True):
        assert torch.allclose(mine, found, rtol=0, atol=tolerance)


def test_an_adapter_is_measured_against_itself_as_it_was_and_not_against_its_base(
    make_trainer, vanilla, vanilla_adapter, pairs
):
    trainer = make_trainer(train=changed(TRAIN, lora=LORA), start=vanilla_adapter)
    net = trainer.model.eval()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    assert trainer.compute_loss(net, batch).item() == pytest.approx(0.693147, abs=1e-6)  # log 2: nothing has moved
    nudge(net)
    reference = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(vanilla), vanilla_adapter).eval()
    ours = dpo_by_hand(net, reference, pairs[:4], beta=0.1)
    assert trainer.compute_loss(net, batch).item() == pytest.approx(
        ours.item(), abs=loss_tolerance(pairs[:4], beta=0.1)
    )


def test_a_mixture_of_experts_gets_dpos_loss_and_no_other(tmp_path, make_model_dir, make_tokenizer, pairs):
    start = make_model_dir(kind="mixtral", initializer_range=0.05)
    trainer = pair_trainer(
        model=ModelSection(path=str(start)), train=TRAIN, dpo=DPO, tokenizer=make_tokenizer(), pairs=pairs,
        start=start, arguments=dpo_arguments(TRAIN, DPO, seed=0, folder=tmp_path),
    )  # fmt: skip
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    assert trainer.compute_loss(trainer.model.eval(), batch).item() == pytest.approx(0.693147, abs=1e-6)


def test_dropout_is_off(make_trainer):
    net = make_trainer(train=changed(TRAIN, lora=changed(LORA, lora_dropout=0.5))).model
    assert {module.p for module in net.modules() if isinstance(module, torch.nn.Dropout)} <= {0.0}


def test_a_batch_pads_both_halves_on_the_right():
    pair = {"chosen_prompt_ids": [1, 2], "chosen_ids": [3], "rejected_prompt_ids": [1], "rejected_ids": [4, 5, 6]}
    batch = collate_pairs([pair | {"ref_chosen_logps": -1.0, "ref_rejected_logps": -2.0}], pad_id=0)
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert (batch["ref_chosen_logps"].tolist(), batch["ref_rejected_logps"].tolist()) == ([-1.0], [-2.0])


def test_accumulated_micro_batches_make_the_step_of_one_batch(run_dpo):
    whole = run_dpo(train=changed(TRAIN, micro_batch_size=4), out="whole")
    parts = run_dpo(train=changed(TRAIN, micro_batch_size=1), out="parts")
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-4)


def test_holes_in_memory_are_looked_for_after_every_micro_batch(run_dpo, monkeypatch):
    looks = []
    monkeypatch.setattr(memory.GiveBackHoles, "_give_back", lambda _: looks.append(1))
    run_dpo()  # four steps of two micro-batches
    assert len(looks) == 8


# --- what is left behind ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precompute", [False, True])
def test_a_run_prefers_the_safe_response_and_leaves_a_stock_checkpoint(run_dpo, vanilla, precompute, capsys):
    before = saved(vanilla)
    out = run_dpo(dpo=changed(DPO, precompute_reference=precompute))
    log = read_log(out)
    assert [entry["step"] for entry in log] == [1, 2, 3, 4]
    assert log[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert log[-1]["rewards/margins"] > 1
    assert AutoModelForCausalLM.from_pretrained(out).config.model_type == "llama"
    assert saved(out) != saved(vanilla) == before
    assert {"tokenizer.json", "chat_template.jinja", "train_log.json"} <= {path.name for path in out.iterdir()}
    assert [path.name for path in out.parent.iterdir()] == ["model"]
    assert capsys.readouterr().out == ""  # standard output is the command's


def test_precomputing_the_reference_changes_no_step(run_dpo):
    kept, precomputed = run_dpo(out="kept"), run_dpo(dpo=changed(DPO, precompute_reference=True), out="precomputed")
    assert losses(precomputed) == pytest.approx(losses(kept), abs=1e-5)


@pytest.mark.parametrize("precompute", [False, True])
def test_an_adapter_goes_on_as_one_adapter_for_the_same_base(run_dpo, vanilla, vanilla_adapter, precompute):
    dpo = changed(DPO, precompute_reference=precompute)
    out = run_dpo(train=changed(TRAIN, lora=LORA), dpo=dpo, start=vanilla_adapter)
    assert losses(out)[0] == pytest.approx(0.693147, abs=1e-5)
    assert losses(out)[-1] < 0.69
    assert not (out / "ref").exists()
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(vanilla), out)
    assert list(adapted.peft_config) == ["default"]
    assert saved(out, "adapter_model.safetensors") != saved(vanilla_adapter, "adapter_model.safetensors")


def test_a_fresh_adapter_stands_on_the_model_it_started_from(run_dpo, vanilla):
    out = run_dpo(train=changed(TRAIN, lora=LORA), model=ModelSection(path="not used"))
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(vanilla)
    assert not (out / "ref").exists()


def test_what_is_finished_is_not_trained_again(run_dpo):
    out = run_dpo()
    before = saved(out)
    assert run_dpo(start=out / "nowhere") == out
    assert saved(out) == before


def test_nothing_is_sent_to_anyone(run_dpo, monkeypatch):
    def send(*_, **__):
        raise AssertionError("telemetry was sent")

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", send)
    run_dpo(dpo=changed(DPO, max_steps=1))


def test_a_tokenizer_without_padding_is_left_as_it_was(run_dpo, make_tokenizer):
    tokenizer = make_tokenizer(pad=False)
    run_dpo(tokenizer=tokenizer, dpo=changed(DPO, max_steps=1))
    assert tokenizer.pad_token is None


# --- stopped and gone on with ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lora", "precompute"), [(None, True), (LORA, False)])
def test_a_run_stopped_by_ctrl_c_ends_as_one_that_was_never_stopped(
    run_dpo, vanilla, vanilla_adapter, lora, precompute
):
    settings = {
        "train": changed(TRAIN, lora=lora, save_steps=2),
        "dpo": changed(DPO, precompute_reference=precompute),
        "start": vanilla_adapter if lora else vanilla,
    }
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    whole = run_dpo(out="whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        run_dpo(out="stopped", callbacks=[StopAt(3)], **settings)
    assert not (whole.parent / "stopped").exists()
    stopped = run_dpo(out="stopped", **settings)
    assert saved(stopped, name) == saved(whole, name)
    assert losses(stopped) == losses(whole)
    assert sorted(path.name for path in whole.parent.iterdir()) == ["stopped", "whole"]


# --- what a user can do wrong ----------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_names_its_pairs_and_the_step(make_trainer, pairs):
    trainer = make_trainer()
    with torch.no_grad():
        next(trainer.model.parameters())[:] = float("nan")
    batch = trainer.data_collator([trainer.train_dataset[i] for i in (2, 5)])
    with pytest.raises(NonFiniteLossError, match=f"step 0: .* on pairs {pairs[2].id}, {pairs[5].id}; lower"):
        trainer.compute_loss(trainer.model, batch)


def test_a_full_disk_is_told_in_one_line(run_dpo, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PairTrainer, "save_model", fail)
    with pytest.raises(RunError, match=r"model: cannot write a checkpoint .*free space, then run again"):
        run_dpo(dpo=changed(DPO, max_steps=1))


def test_a_recipes_settings_reach_trl(tmp_path):
    train = TrainSection(schedule="linear", weight_decay=0.5, max_steps=100, save_steps=3, epochs=7)
    arguments = dpo_arguments(train, DpoSection(beta=0.2, micro_batch_size=4), seed=3, folder=tmp_path)
    assert (arguments.beta, arguments.learning_rate, arguments.num_train_epochs) == (0.2, 5e-7, 1.0)
    assert (arguments.max_steps, arguments.seed, arguments.save_steps) == (-1, 3, 3)
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (4, 32)
    assert (arguments.weight_decay, str(arguments.lr_scheduler_type.value)) == (0.5, "linear")
    assert (arguments.bf16, arguments.gradient_checkpointing, arguments.disable_dropout) == (False, False, True)
    assert arguments.loss_type == ["sigmoid"]
    assert arguments.report_to == []
