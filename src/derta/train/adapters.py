"""Loading a model for full fine-tuning or with LoRA adapters, on a base in 32, 16 or 4 bits."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from derta.config import LoraSection
from derta.errors import ModelError, RecipeError, install_advice
from derta.loading import is_adapter, load_adapter, load_model, without_false_warnings
from derta.train.config import DertaConfig


def base_dtype(*, bf16: bool, adapted: bool) -> torch.dtype:
    """Return the dtype to load a model in: fp32 if its weights are trained, bf16 if they are frozen and `bf16` is set.

    >>> base_dtype(bf16=True, adapted=False), base_dtype(bf16=True, adapted=True)
    (torch.float32, torch.bfloat16)
    """
    return torch.bfloat16 if bf16 and adapted else torch.float32


def quantization(*, four_bit: bool) -> BitsAndBytesConfig | None:
    """Return the bitsandbytes config of a QLoRA base: NF4, double quantization, compute in bf16. None without 4 bits.

    The packed weights are stored as bf16, not as bytes, because FSDP shards only floating-point parameters.

    Raises:
        RecipeError: 4 bits are configured, and bitsandbytes is missing or does not support this machine's devices.

    Source: Dettmers et al., QLoRA, arXiv 2305.14314, section 3.
    """
    if not four_bit:
        return None
    if find_spec("bitsandbytes") is None:
        raise RecipeError(
            f"train.lora.load_in_4bit: bitsandbytes is not installed; {install_advice('quant')}, or remove the key"
        )
    from transformers.integrations.bitsandbytes import validate_bnb_backend_availability

    try:
        validate_bnb_backend_availability(raise_exception=True)
    except RuntimeError as error:
        raise RecipeError(f"train.lora.load_in_4bit: {error}; remove the key, or use another machine") from error
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_quant_storage=torch.bfloat16,
    )


def freeze_unused_by_text(net: PreTrainedModel) -> None:
    """Freeze parameters that text does not use (a vision tower). They get no gradient, and DDP would wait for one."""
    head: Any = net.get_output_embeddings()
    used = {id(parameter) for module in (net.get_decoder(), head) for parameter in module.parameters()}
    for parameter in net.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in used)


def configure_4bit(net: PreTrainedModel) -> None:
    """Validate a model loaded in 4 bits, and configure it so that gradients can pass through it.

    In eval mode, bitsandbytes repacks 4-bit weights at the first forward on CPUs with AVX512-BF16. The checks before
    training run in eval mode, and the kernel of that format has no backward, so the repacking is disabled.

    Raises:
        ModelError: the model's experts are fused parameters, which bitsandbytes leaves unquantized.
    """
    from bitsandbytes.nn.modules import Linear4bit

    fused = next((name for name, parameter in net.named_parameters() if parameter.ndim == 3), None)
    if fused is not None:
        raise ModelError(
            f"train.lora.load_in_4bit: expected linear layers, but {type(net).__name__} holds fused experts ({fused}) "
            "that bitsandbytes cannot quantize; remove the key, and shard the model over more devices"
        )
    for module in net.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def lora_config(lora: LoraSection) -> LoraConfig:
    """Convert a recipe's `lora` section to a PEFT config.

    `w1`, `w2` and `w3` are Mixtral's expert projections. transformers fuses them into 3-D parameters, w1 and w3 into
    one. PEFT gives that one twice the rank, so no capacity is lost.
    """
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules),
        target_parameters=list(lora.target_parameters) or None,
        task_type="CAUSAL_LM",
    )


def with_lora(net: PreTrainedModel, config: PeftConfig) -> PeftModel:
    """Wrap a model in new adapters; a label loss bound to it stays.

    Raises:
        RecipeError: the model has no such modules or parameters, or PEFT cannot adapt them with these options.
    """
    _prepare_for_adapters(net)
    try:
        with without_false_warnings():
            warnings.filterwarnings("error", r"target_parameters=.* no parameter was matched", RuntimeWarning)
            return cast("PeftModel", get_peft_model(net, config))
    except (ValueError, RuntimeWarning) as error:
        message = " ".join(str(error).split())[:300]
        hint = "; fused experts need `lora_dropout: 0`" if "lora_dropout" in message else ""
        raise RecipeError(f"lora: cannot adapt {type(net).__name__}: {message}{hint}") from error


def _prepare_for_adapters(net: PreTrainedModel) -> None:
    if is_4bit(net):
        prepare_model_for_kbit_training(net, use_gradient_checkpointing=False)  # the Trainer enables it


def is_4bit(net: nn.Module) -> bool:
    """Return whether bitsandbytes quantized the model when it was loaded."""
    return bool(getattr(net, "is_loaded_in_4bit", False))


def load_base(path: str, config: DertaConfig, *, adapted: bool = False, four_bit: bool = False) -> PreTrainedModel:
    """Load a causal LM for full fine-tuning or as the base of adapters; parameters unused by text are frozen.

    Raises:
        ModelError: the folder or hub id holds no causal LM, or the model cannot be quantized.
        RecipeError: 4 bits are configured, and bitsandbytes is missing.
    """
    net = load_model(
        path,
        dtype=base_dtype(bf16=config.bf16, adapted=adapted),
        device=None,
        attn_implementation=config.attn_implementation,
        quantization_config=quantization(four_bit=four_bit),
        trust_remote_code=config.trust_remote_code,
    )
    if four_bit:
        configure_4bit(net)
    freeze_unused_by_text(net)
    return net


def initial_path(path: str, init_from: Path | None) -> str:
    """Return the name or folder whose weights training is initialised from: `init_from`, unless it is an adapter."""
    return path if init_from is None or is_adapter(init_from) else str(init_from)


def load_initial_model(
    path: str, config: DertaConfig, *, lora: LoraSection | None = None, init_from: Path | None = None
) -> Any:
    """Load the model that training is initialised from, or adapters on it, ready for training.

    Args:
        path: Name or folder of the recipe's model.
        config: Training configuration.
        lora: Train adapters: the one in `init_from`, or a new one. None: train all weights.
        init_from: Folder of a tuned model to use instead of `path`, or of a tuned adapter on it.

    Raises:
        ModelError: no such folder, or none that holds a model in safetensors.
        RecipeError: an adapter to initialise from, and no `lora`.
    """
    adapter = init_from if init_from is not None and is_adapter(init_from) else None
    if init_from is not None and adapter is None and not (init_from / "config.json").is_file():
        raise ModelError(f"{init_from}: expected a folder with a tuned model or adapter, found none; check the path")
    if adapter is not None and lora is None:
        raise RecipeError(
            f"{adapter}: expected a full model, because there is no `train.lora`, got an adapter; add `lora`, or "
            "use a merged model"
        )
    four_bit = lora is not None and lora.load_in_4bit
    base = initial_path(path, init_from)
    net = load_base(base, config, adapted=lora is not None, four_bit=four_bit)
    if lora is None:
        return net
    if adapter is None:
        return with_lora(net, lora_config(lora))
    _prepare_for_adapters(net)
    return load_adapter(net, str(adapter), trainable=True)
