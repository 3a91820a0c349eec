"""Preparation of a model for training: load, validate, patch the label loss, add adapters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import nn
from transformers import PreTrainedModel

from derta.errors import ModelError, RecipeError
from derta.loading import keep_attention_off_cudnn
from derta.train.adapters import freeze_unused_by_text, is_4bit, load_base, with_lora
from derta.train.collator import check_packing
from derta.train.config import DertaConfig
from derta.train.distributed import check_launch, holds_weights, is_sharded
from derta.train.loss import use_label_loss
from derta.train.memory import keep_freed_memory, loading_advice, out_of_memory_as_model_error
from derta.train.tree_attention import check_trees


def prepare_process(config: DertaConfig) -> None:
    """Validate the launch, and configure this process: threads, memory, attention, random seed.

    Raises:
        RunError: a sharded launch without accelerators.
    """
    check_launch()
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    keep_freed_memory()
    keep_attention_off_cudnn()
    torch.manual_seed(config.seed)


@out_of_memory_as_model_error(loading_advice)
def prepare_model(
    model: str | Path | PreTrainedModel | PeftModel,
    config: DertaConfig,
    *,
    refusal_ids: Sequence[int],
    peft_config: PeftConfig | None = None,
) -> PreTrainedModel | PeftModel:
    """Load a model, validate it for the config's options, patch it with the label loss, and add adapters.

    Raises:
        ModelError: no such model, or one that does not support packing, trees or the fused head.
        RecipeError: `peft_config` is not a PEFT config, or the model already has adapters.
    """
    _check_adapters(model, peft_config)
    net: Any = model
    if isinstance(model, str | Path):
        net = load_base(str(model), config, adapted=peft_config is not None)
    base: Any = net.get_base_model() if isinstance(net, PeftModel) else net
    if base is net:
        freeze_unused_by_text(base)
    if not (is_sharded() or is_4bit(base) or getattr(base, "hf_device_map", None)):
        nn.Module.to(net, config.device)  # before the checks: flash and flex kernels need the device
    check_finite(base)
    flash = config.attn_implementation == "flash_attention_2"  # it supports only 16 bits
    with torch.autocast(config.device.type, torch.float16 if config.fp16 else torch.bfloat16, enabled=flash):
        if config.pack_tokens and not config.reference:
            check_packing(base, bins=1 if config.one_bin else 2)
        if config.tree_rows:
            check_trees(base, max_length=config.max_length)
        adapted = peft_config is not None or isinstance(net, PeftModel)
        use_label_loss(base, refusal_ids=refusal_ids, in_place=adds_in_place(config, adapted=adapted))
    if config.compile_layers:
        compile_layers(base)
    return net if peft_config is None else with_lora(base, peft_config)


def check_finite(net: nn.Module) -> None:
    """Validate that the weights that training starts from are finite; the checks of the architecture assume it.

    Raises:
        ModelError: a weight is NaN or infinite; the message names it.
    """
    if not holds_weights(net) or is_4bit(net):  # packed 4-bit weights are no numbers
        return
    for name, weight in net.named_parameters():
        if weight.device.type != "meta" and not bool(torch.isfinite(weight).all()):
            raise ModelError(
                f"expected finite weights, got NaN or infinity in {name}; load an intact copy of the model"
            )


def adds_in_place(config: DertaConfig, *, adapted: bool) -> bool:
    """Return whether embeddings' gradients may bypass autograd: no other process, scaler, adapter or hook needs them.

    Only on a CPU, where it was measured to be faster (LOG.md, 16).
    """
    single_cpu = config.world_size == 1 and config.device.type == "cpu"
    return single_cpu and not config.fp16 and not adapted and "layerwise" not in str(config.optim)


def compile_layers(net: PreTrainedModel) -> None:
    """Compile each of the model's repeated layers in place; they share one compiled function for all batch shapes."""
    layers = set(net._no_split_modules or ())  # pyright: ignore[reportPrivateUsage]
    for module in net.modules():
        if type(module).__name__ in layers:
            module.compile(dynamic=True)


def _check_adapters(model: Any, peft_config: Any) -> None:
    if peft_config is not None and not isinstance(peft_config, PeftConfig):
        raise RecipeError(
            f"peft_config: expected a PEFT config (LoraConfig), got {type(peft_config).__name__}; pass one"
        )
    if peft_config is not None and isinstance(model, PeftModel):
        raise RecipeError("peft_config: expected a model without adapters, got one with adapters; remove peft_config")
