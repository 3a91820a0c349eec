"""Training on several processes: what FSDP and ZeRO need beside their configs under recipes/accelerate."""

from __future__ import annotations

import os
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import Trainer

from derta.errors import RunError


def check_launch() -> None:
    """Refuse to shard without accelerators: accelerate would run plain DDP, or one process, without a word.

    Raises:
        RunError: the launcher's config asks for FSDP or DeepSpeed, and there is no device for it.
    """
    asked = _asked()
    if asked and not torch.accelerator.is_available():
        raise RunError(
            f"expected GPUs for {asked[0]}, found none, and accelerate would train unsharded; use "
            "recipes/accelerate/cpu.yaml, or another machine"
        )


def _asked() -> list[str]:
    return [name for name in ("FSDP", "DEEPSPEED") if os.environ.get(f"ACCELERATE_USE_{name}", "false") == "true"]


def is_sharded() -> bool:
    """Whether the launcher's config shares the weights out."""
    return bool(_asked())


def holds_weights(net: nn.Module) -> bool:
    """Whether this process holds the model's weights: they are not on the meta device, nor split up by ZeRO-3."""
    first = next(net.parameters())
    return first.device.type != "meta" and first.numel() > 0


def configure_fsdp(trainer: Trainer) -> None:
    """Let FSDP shard by the layers that are there, and compute in 16 bits without losing the loss's sums.

    A multimodal class names layers that its checkpoint may lack, which accelerate refuses. And its precision policy
    casts what goes into and comes out of the model to 16 bits, where a count above 256 is no longer exact; ours leaves
    these alone and adds gradients up in fp32.
    """
    if not trainer.is_fsdp_enabled:
        return
    net, plugin = cast("Any", trainer.model), cast("Any", trainer.accelerator.state.fsdp_plugin)
    if plugin.transformer_cls_names_to_wrap is None:
        there = {type(module).__name__ for module in net.modules()}
        plugin.transformer_cls_names_to_wrap = sorted(there & set(net._no_split_modules or ()))
    if plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=plugin.mixed_precision_policy.param_dtype,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )


def save_full_state_dict(trainer: Trainer) -> None:
    """Save a whole model from now on: checkpoints to go on from may be sharded, the model that is left is stock."""
    if trainer.is_fsdp_enabled:
        cast("Any", trainer.accelerator.state.fsdp_plugin).set_state_dict_type("FULL_STATE_DICT")
