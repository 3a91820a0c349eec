"""Tune one model with one method, resumably: from a base model's folder to a checkpoint or adapter folder."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.trainer_callback import TrainerCallback

from derta.config import LoraSection, ModelSection, TrainSection
from derta.data.rows import Instance, row_settings
from derta.errors import ModelError, RecipeError, RunError, is_out_of_memory
from derta.run_folder import finish_folder
from derta.train.adapters import adapted, base_dtype, four_bit, freeze_beside_text, settle_four_bit
from derta.train.arguments import (
    adds_in_place,
    batch_settings,
    micro_batches_of_a_step,
    one_bin,
    training_arguments,
)
from derta.train.collator import check_packing
from derta.train.label_loss import use_label_loss
from derta.train.memory import (
    keep_freed_memory,
    loading_advice,
    out_of_memory_told,
    peak_memory,
    reset_peak_memory,
    training_advice,
)
from derta.train.sharding import check_launch, gather_at_save, is_sharded, settle_fsdp
from derta.train.trainer import DertaTrainer, NonFiniteLossError
from derta.train.tree import check_trees


def fit(
    *,
    model: ModelSection,
    train: TrainSection,
    tokenizer: PreTrainedTokenizerBase,
    instances: Sequence[Instance],
    refusal_ids: Sequence[int],
    seed: int,
    out: Path,
    adapter: Path | None = None,
    callbacks: list[TrainerCallback] | None = None,
) -> Path:
    """Train, or go on training where a killed process stopped, and save to `out`.

    `out` appears only when training is complete; until then checkpoints lie in `out` + `.checkpoints`, if the recipe
    sets `save_steps`. With `lora`, training goes on from the `adapter` in a folder, or else from a fresh one.

    Returns:
        `out`: a stock checkpoint, or a PEFT adapter if the recipe has `lora`. `train_log.json` holds the loss by term.
    """
    if out.exists():
        return out
    reset_peak_memory()
    checkpoints = out.with_name(out.name + ".checkpoints")
    trainer = build_trainer(
        model=model, train=train, tokenizer=tokenizer, instances=instances, refusal_ids=refusal_ids, seed=seed,
        checkpoints=checkpoints, adapter=adapter, callbacks=callbacks,
    )  # fmt: skip
    return train_and_save(trainer, train=train, checkpoints=checkpoints, out=out)


def train_and_save(
    trainer: Trainer,
    *,
    train: TrainSection,
    checkpoints: Path,
    out: Path,
    before_save: Callable[[], None] = lambda: None,
) -> Path:
    """Train from the last whole checkpoint, if there is one, save to `out`, and take the checkpoints away."""
    net: Any = trainer.model
    with full_disk_told(out), out_of_memory_told(partial(training_advice, train, net)):
        trainer.train(resume_from_checkpoint=last_whole_checkpoint(checkpoints))
        before_save()
        check_weights(net)
        save(trainer, out)
    if trainer.is_world_process_zero():
        shutil.rmtree(checkpoints, ignore_errors=True)
    return out


def check_weights(net: nn.Module) -> None:
    """Fail if the last update left a weight that is no finite number.

    Raises:
        NonFiniteLossError: it did; there is nothing to save.
    """
    for name, weight in net.named_parameters():
        held: Any = weight.to_local() if isinstance(weight, DTensor) else weight
        if weight.requires_grad and not bool(torch.isfinite(held).all()):
            raise NonFiniteLossError(f"expected finite weights, got others in {name}; lower the learning rate")


@out_of_memory_told(loading_advice)
def build_trainer(
    *,
    model: ModelSection,
    train: TrainSection,
    tokenizer: PreTrainedTokenizerBase,
    instances: Sequence[Instance],
    refusal_ids: Sequence[int],
    seed: int,
    checkpoints: Path,
    adapter: Path | None = None,
    callbacks: list[TrainerCallback] | None = None,
) -> DertaTrainer:
    """Load the model, check that it can be trained as the recipe says, and put the Trainer around it."""
    if train.attention == "flex_attention" and not torch.cuda.is_available():
        raise RecipeError("train.attention: expected a GPU for flex_attention, found none; use sdpa")
    if train.num_threads:
        torch.set_num_threads(train.num_threads)
    keep_freed_memory()
    torch.manual_seed(seed)
    check_launch()
    steps = micro_batches_of_a_step(train, instances, seed=seed, num_processes=int(os.environ.get("WORLD_SIZE", "1")))
    # first, because it joins the other processes: loading asks who shards and which device is this one's
    arguments = training_arguments(train, seed=seed, folder=checkpoints, accumulation=steps)
    net = load_model(model, dtype=base_dtype(train), lora=train.lora, attention=train.attention)
    if not is_sharded() and not (train.lora and train.lora.load_in_4bit):
        nn.Module.to(net, arguments.device)  # before it is checked: kernels of flash and flex run nowhere else
    flash = train.attention == "flash_attention_2"  # which knows 16 bits alone
    with torch.autocast(arguments.device.type, torch.float16 if train.fp16 else torch.bfloat16, enabled=flash):
        if train.pack_tokens and not train.reference:
            check_packing(net, bins=1 if one_bin(train) else 2)
        if train.tree_rows:
            check_trees(net, max_length=train.max_length)
        use_label_loss(net, refusal_ids=refusal_ids, in_place=adds_in_place(train, arguments))
    if train.compile:
        compile_layers(net)
    trainer = DertaTrainer(
        model=adapted(net, train.lora, adapter=adapter),
        args=arguments,
        instances=instances,
        tokenizer=tokenizer,
        row_settings=row_settings(train),
        callbacks=callbacks,
        **batch_settings(train),
    )
    settle_fsdp(trainer)
    return trainer


def compile_layers(net: PreTrainedModel) -> None:
    """Compile each of the model's repeated layers, in place: they share one compiled code for all batch shapes."""
    layers = set(net._no_split_modules or ())  # pyright: ignore[reportPrivateUsage]
    for module in net.modules():
        if type(module).__name__ in layers:
            module.compile(dynamic=True)


def save(trainer: Trainer, out: Path) -> None:
    """Write the model and its log as `out`; one process of all does it, and the others wait."""
    partial = out.with_name(out.name + ".partial")
    if trainer.is_world_process_zero():
        shutil.rmtree(partial, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    gather_at_save(trainer)
    trainer.save_model(str(partial))
    if trainer.is_world_process_zero():
        peak = {"step": trainer.state.global_step, "peak_memory_gib": round(peak_memory() / 2**30, 3)}
        history = json.dumps([*trainer.state.log_history, peak], indent=1)
        (partial / "train_log.json").write_text(history + "\n", encoding="utf-8")
        finish_folder(partial, out)
    trainer.accelerator.wait_for_everyone()


@contextmanager
def full_disk_told(out: Path) -> Generator[None]:
    """Tell a full disk as a user's mistake; torch and safetensors each have their own error for it."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
        if full or isinstance(error, SafetensorError) or "inline_container" in str(error):
            raise RunError(
                f"{out}: cannot write a checkpoint ({error}); free space, then run again to go on"
            ) from error
        raise


def load_model(
    model: ModelSection, *, dtype: torch.dtype, lora: LoraSection | None = None, attention: str = "sdpa"
) -> PreTrainedModel:
    """Load a causal LM for training, in 4 bits if `lora` says so; safetensors only.

    Raises:
        ModelError: the folder or hub id holds no causal LM.
    """
    try:
        net = AutoModelForCausalLM.from_pretrained(
            model.path,
            dtype=dtype,
            quantization_config=four_bit(lora),
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=model.trust_remote_code,
        )
    except ImportError as error:
        told = " ".join(str(error).split())[:200]
        raise RecipeError(f"train.attention: {told}; install it, or use sdpa") from error
    except (OSError, ValueError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        first = str(error).strip().splitlines()[0]
        raise ModelError(
            f"model {model.path!r}: expected a folder or hub id of a causal LM in safetensors; {first[:200]}"
        ) from error
    if lora is not None and lora.load_in_4bit:
        settle_four_bit(net)
    freeze_beside_text(net)
    return net


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; a torn one is left out."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next((str(path) for path in found if _is_whole(path)), None)


def _is_whole(checkpoint: Path) -> bool:
    """The Trainer writes `trainer_state.json` last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # ValueError: not JSON, or not UTF-8
        return False
    return True
