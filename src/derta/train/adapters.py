"""Which weights are trained: all that text passes through, or LoRA adapters beside a base in 32, 16 or 4 bits."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from safetensors import SafetensorError
from transformers import BitsAndBytesConfig, PreTrainedModel

from derta.config import LoraSection, TrainSection
from derta.errors import ModelError, RecipeError
from derta.loading import without_false_warnings


def base_dtype(train: TrainSection) -> torch.dtype:
    """The dtype that a model is loaded in: fp32 where its weights are trained, bf16 where they are frozen and may be.

    >>> base_dtype(TrainSection(bf16=True)), base_dtype(TrainSection(bf16=True, lora=LoraSection()))
    (torch.float32, torch.bfloat16)
    """
    return torch.bfloat16 if train.bf16 and train.lora is not None else torch.float32


def four_bit(lora: LoraSection | None) -> BitsAndBytesConfig | None:
    """How bitsandbytes quantizes the base (QLoRA): NF4, constants quantized too, arithmetic in bf16.

    The packed weights are stored as bf16, not as bytes, because FSDP shards floating point only.

    Raises:
        RecipeError: the recipe wants 4 bits, and bitsandbytes is missing or does not know this machine's devices.

    Source: Dettmers et al., QLoRA, arXiv 2305.14314, section 3.
    """
    if lora is None or not lora.load_in_4bit:
        return None
    if find_spec("bitsandbytes") is None:
        raise RecipeError(
            "train.lora.load_in_4bit: expected bitsandbytes, found none; pip install 'derta[quant]', or leave it out"
        )
    from transformers.integrations.bitsandbytes import validate_bnb_backend_availability

    try:
        validate_bnb_backend_availability(raise_exception=True)
    except RuntimeError as error:
        raise RecipeError(f"train.lora.load_in_4bit: {error}; leave it out, or use another machine") from error
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_quant_storage=torch.bfloat16,
    )


def freeze_beside_text(net: PreTrainedModel) -> None:
    """Freeze what text does not pass through (a vision tower): it gets no gradient, and DDP would wait for one."""
    head: Any = net.get_output_embeddings()
    used = {id(parameter) for part in (net.get_decoder(), head) for parameter in part.parameters()}
    for parameter in net.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in used)


def settle_four_bit(net: PreTrainedModel) -> None:
    """Make sure that a model just loaded in 4 bits is small, and that gradients will pass through it.

    bitsandbytes repacks 4-bit weights for CPUs with AVX512-BF16 at the first forward in eval mode, as the checks before
    training are, and its kernel for that format has no backward; so this is turned off.

    Raises:
        ModelError: the model's experts are fused parameters, which bitsandbytes leaves as large as they were.
    """
    from bitsandbytes.nn.modules import Linear4bit

    fused = next((name for name, parameter in net.named_parameters() if parameter.ndim == 3), None)
    if fused is not None:
        raise ModelError(
            f"train.lora.load_in_4bit: expected linear layers, but {type(net).__name__} holds fused experts ({fused}) "
            "that bitsandbytes cannot quantize; leave it out, and shard the model over more devices"
        )
    for module in net.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def with_lora(net: PreTrainedModel, lora: LoraSection) -> Any:
    """Wrap a model in LoRA adapters; the label loss bound to it stays.

    `w1`, `w2` and `w3` name Mixtral's expert projections. transformers fuses them into 3-D parameters, w1 and w3 into
    one, which PEFT gives twice the rank, so nothing is lost.

    Raises:
        RecipeError: the model has no such modules or parameters, or PEFT cannot adapt them so.
    """
    if lora.load_in_4bit:
        prepare_model_for_kbit_training(net, use_gradient_checkpointing=False)  # the Trainer turns that on
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules),
        target_parameters=list(lora.target_parameters) or None,
        task_type="CAUSAL_LM",
    )
    try:
        with without_false_warnings():
            warnings.filterwarnings("error", r"target_parameters=.* no parameter was matched", RuntimeWarning)
            return get_peft_model(net, config)
    except (ValueError, RuntimeWarning) as error:
        told = " ".join(str(error).split())[:300]
        hint = "; fused experts need `train.lora.lora_dropout: 0`" if "lora_dropout" in told else ""
        raise RecipeError(f"train.lora: cannot adapt {type(net).__name__}: {told}{hint}") from error


def load_adapter(net: PreTrainedModel, folder: Path, *, four_bit: bool) -> PeftModel:
    """Put a trained adapter on a model, to train it on; the label loss bound to the model stays.

    Raises:
        ModelError: the folder holds no adapter, or one for another model.
    """
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(f"{folder}: expected adapter_model.safetensors, found none; check the path")
    if four_bit:
        prepare_model_for_kbit_training(net, use_gradient_checkpointing=False)  # the Trainer turns that on
    try:
        with without_false_warnings():
            return PeftModel.from_pretrained(net, str(folder), is_trainable=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        told = " ".join(str(error).split())[:200]
        raise ModelError(f"{folder}: expected an adapter for the recipe's model; {told}") from error


def adapted(net: PreTrainedModel, lora: LoraSection | None, *, adapter: Path | None) -> Any:
    """The model as it is trained: itself, or under an adapter, a fresh one or the one of a folder.

    Raises:
        RecipeError: an adapter for a recipe without `lora`.
    """
    if adapter is None:
        return net if lora is None else with_lora(net, lora)
    if lora is None:
        raise RecipeError(
            f"{adapter}: expected a whole model, because the recipe has no `train.lora`, got an adapter; add `lora`, "
            "or start from a merged model"
        )
    return load_adapter(net, adapter, four_bit=lora.load_in_4bit)
