"""Training on each device: packed rows and trees against the stock model on each row alone, in each precision."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from one_step import FAMILIES, REFUSALS, gradients, on_device, our_step, stock_step
from peft import LoraConfig, get_peft_model
from tiny_training import config_of
from transformers.utils import is_flash_attn_2_available

from cuda_device import CUDA
from derta.config import LoraSection
from derta.data.rows import IGNORE, TrainRow
from derta.data.tree import tree_of
from derta.train.adapters import load_base, lora_config, with_lora
from derta.train.collator import collate
from derta.train.loss import label_loss, model_inputs, use_label_loss
from derta.train.tree_attention import check_trees
from tolerances import step_tolerance

pytestmark = pytest.mark.equality

PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
ROUNDING = {"bf16": 8e-2, "fp16": 1e-2}
"""Differences of 16-bit gradients that rounding explains, relative to their norm; rows that see each other differ by
more (`test_rows_that_see_each_other_differ_by_more_than_rounding_does`)."""


def tolerance(device, precision="float32"):
    """Return the bound for losses and gradients; CUDA's kernels for attention may multiply float32 in TF32."""
    return ROUNDING.get(precision) or (step_tolerance() if device == "cpu" else 1e-3)


def autocast(device, precision):
    dtype = PRECISIONS[precision]
    return nullcontext() if dtype is None else torch.autocast(device, dtype)


def difference(ours, stock):
    """Return the norm of the differences of all gradients, relative to the norm of the stock gradients."""
    assert set(ours) == set(stock)
    apart = torch.stack([(ours[name].float() - grad.float()).norm() for name, grad in stock.items()]).norm()
    return float(apart / torch.stack([grad.float().norm() for grad in stock.values()]).norm())


def assert_step(ours, stock, *, bound):
    """Check a step's mean loss and gradients against the stock model's."""
    found, grads = ours
    assert float(found.loss / found.counts.sum()) == pytest.approx(stock[0], rel=bound)
    assert 0 <= difference(grads, stock[1]) <= bound


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_train_as_rows_alone_under_sdpa(model_of, some_rows, device, family, precision):
    with autocast(device, precision):
        stock = stock_step(model_of(family, attn_implementation="sdpa").to(device), some_rows)
        ours = our_step(model_of(family, attn_implementation="sdpa").to(device), some_rows)
    assert_step(ours, stock, bound=tolerance(device, precision))


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_rows_that_see_each_other_differ_by_more_than_rounding_does(model_of, some_rows, device, precision):
    joined = TrainRow(
        "joined",
        "helpful",
        [i for row in some_rows for i in row.input_ids],
        [i for row in some_rows for i in row.labels],
    )
    with autocast(device, precision):
        stock = stock_step(model_of("llama").to(device), some_rows)
        wrong = stock_step(model_of("llama").to(device), [joined])
    assert difference(wrong[1], stock[1]) > 3 * tolerance(device, precision)


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.skipif(not is_flash_attn_2_available(), reason="needs the package flash-attn")
def test_one_packed_sequence_trains_as_rows_alone_under_flash_attention(model_of, some_rows, device, family, precision):
    with autocast(device, precision):
        stock = stock_step(model_of(family, attn_implementation="sdpa").to(device), some_rows)
        model = model_of(family, attn_implementation="flash_attention_2").to(device)
        ours = our_step(model, some_rows, capacity=2**31)
    assert_step(ours, stock, bound=ROUNDING[precision])


# --- trees -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def branches():
    """Four rows of one trunk that leave it near its end, in its middle and near its start."""
    trunk = [5 + i * 7 % 91 for i in range(40)]
    rows = [trunk, *([*trunk[:k], *(5 + (k + i * 11) % 91 for i in range(12))] for k in (34, 20, 3))]
    return [TrainRow(f"safe:{i}", "safe", ids, [IGNORE, *ids[1:]]) for i, ids in enumerate(rows)]


def tree_step(model, rows, *, device):
    """Return the loss and gradients of one tree of all rows."""
    use_label_loss(model, refusal_ids=REFUSALS)
    found = label_loss(model, on_device(collate([tree_of(rows)], capacity=64, pad_id=0), device))
    (found.loss / found.counts.sum()).backward()
    found.loss = found.loss.detach()
    return found, gradients(model)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tree_trains_as_its_rows_alone_under_sdpa(model_of, branches, device, family, precision):
    model = model_of(family, attn_implementation="sdpa").to(device)
    check_trees(model, max_length=64)
    with autocast(device, precision):
        stock = stock_step(model_of(family, attn_implementation="sdpa").to(device), branches)
        ours = tree_step(model, branches, device=device)
    assert_step(ours, stock, bound=tolerance(device, precision))


# --- adapters --------------------------------------------------------------------------------------------------------


def adapted_step(model, rows, *, device):
    found = model(**model_inputs(on_device(collate(rows, capacity=64, pad_id=0), device)))
    (found.loss / found.counts.sum()).backward()
    found.loss = found.loss.detach()
    return found, gradients(model)


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_lora_on_packed_rows_has_the_gradients_of_rows_alone(model_of, some_rows, device, precision):
    def adapted(*, ours):
        model = model_of("llama").to(device)
        if ours:
            use_label_loss(model, refusal_ids=REFUSALS)
        torch.manual_seed(1)
        config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
        return get_peft_model(model, config)

    with autocast(device, precision):
        stock = stock_step(adapted(ours=False), some_rows)
        ours = adapted_step(adapted(ours=True), some_rows, device=device)
    assert all("lora" in name for name in stock[1])
    assert_step(ours, stock, bound=tolerance(device, precision))


def test_lora_on_a_4_bit_base_has_the_gradients_of_rows_alone(make_model_dir, some_rows, device, tmp_path):
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes")
    lora = lora_config(LoraSection(r=4, lora_alpha=8, lora_dropout=0.0))
    path = str(make_model_dir(initializer_range=0.05))

    def adapted(*, ours):
        base = load_base(path, config_of("derta", tmp_path, use_cpu=device == "cpu"), adapted=True, four_bit=True)
        if ours:
            use_label_loss(base, refusal_ids=REFUSALS)
        torch.manual_seed(1)
        return with_lora(base, lora).to(device)

    with autocast(device, "bf16"):
        stock = stock_step(adapted(ours=False), some_rows)
        ours = adapted_step(adapted(ours=True), some_rows, device=device)
    assert stock[1]
    assert all("lora" in name for name in stock[1])
    assert_step(ours, stock, bound=ROUNDING["bf16"])


# --- whole runs ------------------------------------------------------------------------------------------------------


def train(train_losses, rows, *, device, **settings):
    """Return a trainer after six steps, and its losses."""
    trainer = train_losses(rows, use_cpu=device == "cpu", max_steps=6, **settings)
    return trainer, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(
    ("device", "precision"),
    [("cpu", "bf16"), pytest.param("cuda", "bf16", marks=CUDA.marks), pytest.param("cuda", "fp16", marks=CUDA.marks)],
)
@pytest.mark.parametrize("settings", [{}, {"anchor_weight": 1.0, "rto_targets": "set", "rto_margin": 0.9}])
def test_a_run_in_16_bits_has_the_losses_of_a_run_in_float32(train_losses, small_data, device, precision, settings):
    rows = small_data("derta")
    _, expected = train(train_losses, rows, device="cpu", **settings)
    trainer, losses = train(train_losses, rows, device=device, **{precision: True}, **settings)
    assert trainer.args.device.type == device
    assert len(losses) == 6
    assert losses == pytest.approx(expected, rel=ROUNDING[precision])
    assert losses[-1] < losses[0]
    scaler = trainer.accelerator.scaler
    assert (scaler is not None and scaler.get_scale() >= 1) == (precision == "fp16")


@pytest.mark.parametrize("device", [CUDA])
def test_a_run_on_a_gpu_has_the_losses_of_a_run_on_a_cpu(train_losses, small_data, device):
    rows = small_data("derta")
    _, expected = train(train_losses, rows, device="cpu")
    _, losses = train(train_losses, rows, device=device)
    assert losses == pytest.approx(expected, rel=1e-3)


# --- flex_attention: last, for each test compiles its kernels ---------------------------------------------------------


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize(("family", "precision"), [("llama", "float32"), *((family, "bf16") for family in FAMILIES)])
def test_packed_rows_train_as_rows_alone_under_flex_attention(model_of, some_rows, device, family, precision):
    torch.compiler.reset()  # a function that was compiled for too many shapes is not compiled again
    make = partial(model_of, family, head_dim=64)
    with autocast(device, precision):
        stock = stock_step(make(attn_implementation="sdpa").to(device), some_rows)
        ours = our_step(make(attn_implementation="flex_attention").to(device), some_rows)
    assert_step(ours, stock, bound=ROUNDING.get(precision, 1e-2))  # flex_attention may multiply in TF32


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tree_trains_as_its_rows_alone_under_flex_attention_with_wide_heads_in_bf16(
    model_of, branches, device, family
):
    torch.compiler.reset()
    make = partial(model_of, family, head_dim=64)
    model = make(attn_implementation="flex_attention").to(device)
    with autocast(device, "bf16"):
        stock = stock_step(make(attn_implementation="sdpa").to(device), branches)
        ours = tree_step(model, branches, device=device)
    assert_step(ours, stock, bound=ROUNDING["bf16"])
