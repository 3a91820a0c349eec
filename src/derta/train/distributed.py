"""Distributed training: configuration of FSDP and ZeRO in addition to the files in recipes/accelerate."""

from __future__ import annotations

import os
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import Trainer

from derta.errors import RunError


def check_launch() -> None:
    """Validate that a sharded launch has accelerators; without them accelerate silently runs DDP or a single process.

    Raises:
        RunError: the launcher's config requests FSDP or DeepSpeed, and no accelerator is available.
    """
    requested = _requested_sharding()
    if requested and not torch.accelerator.is_available():
        raise RunError(
            f"expected GPUs for {requested[0]}, found none, and accelerate would train without sharding; use "
            "recipes/accelerate/cpu.yaml, or another machine"
        )


def _requested_sharding() -> list[str]:
    return [name for name in ("FSDP", "DEEPSPEED") if os.environ.get(f"ACCELERATE_USE_{name}", "false") == "true"]


def is_sharded() -> bool:
    """Return whether the launcher's config shards the weights."""
    return bool(_requested_sharding())


def holds_weights(net: nn.Module) -> bool:
    """Return whether this process holds the model's weights: not on the meta device, and not partitioned by ZeRO-3."""
    first = next(net.parameters())
    return first.device.type != "meta" and first.numel() > 0


def configure_fsdp(trainer: Trainer) -> None:
    """Configure FSDP to wrap the layers that the model has, and to keep the loss's sums in fp32.

    A multimodal class names layers that its checkpoint may lack, which accelerate refuses. Also, accelerate's precision
    policy casts the model's inputs and outputs to 16 bits, where a count above 256 is not exact; this one leaves them
    unchanged and reduces gradients in fp32.
    """
    if not trainer.is_fsdp_enabled:
        return
    net, plugin = cast("Any", trainer.model), cast("Any", trainer.accelerator.state.fsdp_plugin)
    if plugin.transformer_cls_names_to_wrap is None:
        present = {type(module).__name__ for module in net.modules()}
        plugin.transformer_cls_names_to_wrap = sorted(present & set(net._no_split_modules or ()))
    if plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=plugin.mixed_precision_policy.param_dtype,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )


def save_full_state_dict(trainer: Trainer) -> None:
    """Make FSDP save full state dicts from now on: checkpoints for resuming may be sharded, the final model is not."""
    if trainer.is_fsdp_enabled:
        cast("Any", trainer.accelerator.state.fsdp_plugin).set_state_dict_type("FULL_STATE_DICT")
