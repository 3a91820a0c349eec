"""DPO through TRL on tiny models; what it computes is checked against the formula in plain torch."""

import errno
import json
from math import log

import pytest
import torch
from peft import PeftModel
from stopping import StopAt
from tiny_training import config_of, tune_job
from transformers.models.auto import AutoModelForCausalLM

from derta.chat import chat_format, refusal_tokens
from derta.config import LoraSection, ModelSection, TrainSection
from derta.data.preferences import EncodedPair, cut_pair, triple_pair
from derta.data.triple_encoding import encode_triple
from derta.errors import RecipeError, RunError
from derta.methods import METHODS, method_config
from derta.methods.dpo import PairTrainer, collate_pairs, dpo_arguments, pair_trainer, plan_pairs
from derta.records import Triple
from derta.train import memory
from derta.train.checkpoints import NonFiniteLossError
from derta.train.estimate import probe
from tolerances import step_tolerance, sum_tolerance

TRAIN = {
    "global_batch_size": 4, "per_device_train_batch_size": 2, "max_length": 96, "logging_steps": 1, "warmup_steps": 0,
    "learning_rate": 1e-3, "num_train_epochs": 2,
}  # fmt: skip
LORA = LoraSection(r=4, lora_alpha=8)  # as conftest's vanilla_adapter


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
    def run(*, out="model", start=vanilla, model=vanilla, tokenizer=None, lora=None, callbacks=(), **settings):
        return tune_job(
            method="dpo",
            model=str(model),
            settings=TRAIN | settings,
            tokenizer=tokenizer or make_tokenizer(),
            data=pairs,
            lora=lora,
            init_from=start,
            callbacks=callbacks,
            out=tmp_path / out,
        )

    return run


@pytest.fixture
def make_trainer(tmp_path, vanilla, make_tokenizer, pairs):
    def make(*, start=vanilla, model=vanilla, rows=pairs, lora=None, **settings):
        config = config_of("dpo", tmp_path / "checkpoints", **(TRAIN | settings))
        return pair_trainer(
            METHODS["dpo"], str(model), config=config, rows=rows, tokenizer=make_tokenizer(), lora=lora, init_from=start
        )

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


@pytest.mark.equality
@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("precompute", [False, True])
def test_the_loss_and_its_gradients_are_those_of_the_formula(make_trainer, vanilla, pairs, lora, precompute):
    trainer = make_trainer(lora=lora, beta=0.3, precompute_ref_log_probs=precompute)
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
    trainer = make_trainer(lora=LORA, start=vanilla_adapter)
    net = trainer.model.eval()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    assert trainer.compute_loss(net, batch).item() == pytest.approx(0.693147, abs=1e-6)  # log 2: nothing has moved
    nudge(net)
    reference = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(vanilla), vanilla_adapter).eval()
    ours = dpo_by_hand(net, reference, pairs[:4], beta=0.1)
    assert trainer.compute_loss(net, batch).item() == pytest.approx(
        ours.item(), abs=loss_tolerance(pairs[:4], beta=0.1)
    )


def test_a_mixture_of_experts_gets_dpos_loss_and_no_other(make_model_dir, make_trainer):
    start = make_model_dir(kind="mixtral", initializer_range=0.05)
    trainer = make_trainer(model=start, start=start)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    assert trainer.compute_loss(trainer.model.eval(), batch).item() == pytest.approx(0.693147, abs=1e-6)


def test_dropout_is_off(make_trainer):
    net = make_trainer(lora=LORA.model_copy(update={"lora_dropout": 0.5})).model
    assert {module.p for module in net.modules() if isinstance(module, torch.nn.Dropout)} <= {0.0}


def test_a_batch_pads_both_halves_on_the_right():
    pair = {"chosen_prompt_ids": [1, 2], "chosen_ids": [3], "rejected_prompt_ids": [1], "rejected_ids": [4, 5, 6]}
    batch = collate_pairs([pair | {"ref_chosen_logps": -1.0, "ref_rejected_logps": -2.0}], pad_id=0)
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert (batch["ref_chosen_logps"].tolist(), batch["ref_rejected_logps"].tolist()) == ([-1.0], [-2.0])


def test_accumulated_micro_batches_make_the_step_of_one_batch(run_dpo):
    whole = run_dpo(per_device_train_batch_size=4, out="whole")
    parts = run_dpo(per_device_train_batch_size=1, out="parts")
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-4)


def test_holes_in_memory_are_looked_for_after_every_micro_batch(run_dpo, monkeypatch):
    looks = []
    monkeypatch.setattr(memory.TrimMemoryCallback, "_trim", lambda _: looks.append(1))
    run_dpo()  # four steps of two micro-batches
    assert len(looks) == 8


# --- what is left behind ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precompute", [False, True])
def test_a_run_prefers_the_safe_response_and_leaves_a_stock_checkpoint(run_dpo, vanilla, precompute, capsys):
    before = saved(vanilla)
    out = run_dpo(precompute_ref_log_probs=precompute)
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
    kept, precomputed = run_dpo(out="kept"), run_dpo(precompute_ref_log_probs=True, out="precomputed")
    assert losses(precomputed) == pytest.approx(losses(kept), abs=1e-5)


@pytest.mark.parametrize("precompute", [False, True])
def test_an_adapter_goes_on_as_one_adapter_for_the_same_base(run_dpo, vanilla, vanilla_adapter, precompute):
    out = run_dpo(lora=LORA, precompute_ref_log_probs=precompute, start=vanilla_adapter)
    assert losses(out)[0] == pytest.approx(0.693147, abs=1e-5)
    assert losses(out)[-1] < 0.69
    assert not (out / "ref").exists()
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(vanilla), out)
    assert list(adapted.peft_config) == ["default"]
    assert saved(out, "adapter_model.safetensors") != saved(vanilla_adapter, "adapter_model.safetensors")


def test_a_fresh_adapter_has_the_initial_model_as_its_base(run_dpo, vanilla):
    out = run_dpo(lora=LORA, model="not used")
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
    run_dpo(max_steps=1)


def test_a_tokenizer_without_padding_is_left_as_it_was(run_dpo, make_tokenizer):
    tokenizer = make_tokenizer(pad=False)
    run_dpo(tokenizer=tokenizer, max_steps=1)
    assert tokenizer.pad_token is None


# --- stopped and gone on with ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lora", "precompute"), [(None, True), (LORA, False)])
def test_a_run_stopped_by_ctrl_c_ends_as_one_that_was_never_stopped(
    run_dpo, vanilla, vanilla_adapter, lora, precompute
):
    settings = {
        "lora": lora,
        "save_steps": 2,
        "precompute_ref_log_probs": precompute,
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


def test_a_full_disk_is_a_one_line_error(run_dpo, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PairTrainer, "save_model", fail)
    with pytest.raises(RunError, match=r"model: cannot write a checkpoint .*free space, then run the same command"):
        run_dpo(max_steps=1)


def test_lora_on_the_head_is_refused(make_trainer):
    with pytest.raises(RecipeError, match="expected no lm_head"):
        make_trainer(lora=LoraSection(target_modules=("q_proj", "lm_head")))


def test_a_recipes_settings_reach_trl(tmp_path):
    train = TrainSection.model_validate(
        {"lr_scheduler_type": "linear", "weight_decay": 0.5, "max_steps": 100, "save_steps": 3, "num_train_epochs": 7,
         "learning_rate": 1.0}
    )  # fmt: skip
    own = {"beta": "2e-1", "per_device_train_batch_size": 4}
    model = ModelSection(path="m")
    config = method_config(METHODS["dpo"], train, model=model, seed=3, output_dir=tmp_path, settings=own)
    arguments = dpo_arguments(config)
    assert (arguments.beta, arguments.learning_rate, arguments.num_train_epochs) == (0.2, 5e-7, 1.0)
    assert (arguments.max_steps, arguments.seed, arguments.save_steps) == (-1, 3, 3)
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (4, 32)
    assert (arguments.weight_decay, str(arguments.lr_scheduler_type.value)) == (0.5, "linear")
    assert (arguments.bf16, arguments.gradient_checkpointing, arguments.disable_dropout) == (False, False, True)
    assert arguments.loss_type == ["sigmoid"]
    assert arguments.report_to == []


# --- estimates -------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair_trainer_of(make_trainer):
    """Eleven pairs, the longest by far among them once."""
    rows = [EncodedPair(f"{i}", (5, 6), (7,) * (40 if i == 3 else 4), (5, 6), (8,) * (3 + i)) for i in range(11)]

    def make(**settings):
        sizes = {"global_batch_size": 8, "per_device_train_batch_size": 4, "max_length": 128}
        return make_trainer(start=None, rows=rows, **(sizes | settings))

    return make


def seen_by(trainer):
    """The batches that the trainer's collator will have made."""
    seen = []
    collator = trainer.data_collator

    def collate(pairs):
        seen.append(pairs)
        return collator(pairs)

    trainer.data_collator = collate
    return seen


@pytest.mark.parametrize("changes", [{}, {"max_steps": 4}, {"precompute_ref_log_probs": True}])
def test_a_plan_of_pairs_counts_what_dpo_then_does(pair_trainer_of, changes):
    trainer = pair_trainer_of(**changes)
    planned = plan_pairs(trainer)
    seen = seen_by(trainer)
    trainer.train()
    assert planned.steps == trainer.state.global_step
    if not changes.get("max_steps"):  # two epochs, all pairs twice
        pairs = [pair for batch in seen for pair in batch]
        assert planned.rows == len(pairs) == 22
        sides = [len(pair[f"{side}_ids"]) for pair in pairs for side in ("chosen", "rejected")]
        assert planned.labels == sum(sides)
        assert planned.tokens == sum(sides) + 2 * 2 * 22
    assert 0 < planned.padding < 0.9


@pytest.mark.parametrize("lora", [None, LoraSection(r=4, lora_alpha=8)])
def test_a_probe_of_pairs_includes_the_longest_and_trains_the_recipes_model(pair_trainer_of, lora):
    trainer = pair_trainer_of(lora=lora)
    planned = plan_pairs(trainer)
    seen = seen_by(trainer)
    estimated = probe(trainer, planned)
    assert estimated.seconds > 0
    assert estimated.peak_bytes > 10**7
    assert any(len(pair["chosen_ids"]) == 40 for batch in seen for pair in batch)
    assert trainer.state.global_step == 4
