"""Files of a saved model: weights in the dtype of the base model, and the format that the model was trained in."""

from __future__ import annotations

import re
from collections.abc import Generator, MutableMapping
from contextlib import contextmanager
from copy import copy, deepcopy
from pathlib import Path
from typing import Any, Literal, cast

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GenerationConfig, Trainer
from transformers.utils import GENERATION_CONFIG_NAME

from derta.chat import ChatFormat, saved_template
from derta.errors import RecipeError
from derta.loading import load_config, load_model
from derta.train.config import DertaConfig, write_arguments

DTYPES: dict[torch.dtype, Literal["float32", "bfloat16", "float16"]] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
"""Dtypes that weights are saved in, with their names in `save_dtype`."""


def dtype_to_save(model: Any, config: DertaConfig) -> torch.dtype:
    """Return the dtype that the weights of a trained model are saved in: `save_dtype`, or the base model's.

    Args:
        model: The model that training is initialised from: name, folder, or a loaded model, which is saved in the dtype
            that it has.
        config: Training configuration.

    Raises:
        RecipeError: `auto`, and the base model has weights of another dtype than 32 or 16 bits.
    """
    if config.save_dtype != "auto":
        return next(dtype for dtype, name in DTYPES.items() if name == config.save_dtype)
    if isinstance(model, str | Path):
        dtype = _dtype_of_files(str(model), trust_remote_code=config.trust_remote_code)
    else:
        dtype = _base_of(model).dtype
    if dtype not in DTYPES:
        raise RecipeError(
            f"save_dtype: expected a base model in {', '.join(DTYPES.values())}, got {dtype}; set save_dtype to one"
        )
    return dtype


def _base_of(net: Any) -> Any:
    return net.get_base_model() if isinstance(net, PeftModel) else net


def _dtype_of_files(path: str, *, trust_remote_code: bool) -> torch.dtype:
    """Return the dtype that a model is loaded in with `dtype: auto`: its config's, or that of its first weight."""
    dtype: torch.dtype | None = load_config(path, trust_remote_code=trust_remote_code).dtype
    if dtype is None:  # on the meta device, no weights are read
        dtype = load_model(path, device="meta", trust_remote_code=trust_remote_code).dtype
    return dtype


def save_without_pickle(
    trainer: Trainer,
    folder: Path,
    state_dict: dict[str, Any] | None = None,
    *,
    chat: ChatFormat,
    dtype: torch.dtype | None,
) -> None:
    """Save the model, its format and the training arguments, as `training_args.json` instead of a pickle.

    Args:
        trainer: The trainer.
        folder: The folder to save to.
        state_dict: The gathered weights of a sharded model, which are cast in place.
        chat: The format that the model is trained in.
        dtype: The dtype of the saved weights; None saves them as they are in memory.
    """
    if not trainer.args.should_save:
        return
    folder.mkdir(parents=True, exist_ok=True)
    net = _unwrapped(trainer)
    _drop_padding_without_embedding(net)
    if isinstance(net, PeftModel):
        net.save_pretrained(str(folder), state_dict=state_dict)
        if dtype is not None:
            _cast_adapters(folder, dtype)
    else:
        with _without_generation_config(net):
            net.save_pretrained(str(folder), state_dict=cast_weights(net, state_dict, dtype))
        if dtype is not None:
            _write_config(net, folder, dtype)
    save_format(trainer, folder, chat=chat)


def _unwrapped(trainer: Trainer) -> Any:
    return trainer.accelerator.unwrap_model(cast("nn.Module", trainer.model), keep_torch_compile=False)


def cast_weights(
    net: Any, state_dict: MutableMapping[str, Tensor] | None, dtype: torch.dtype | None
) -> MutableMapping[str, Tensor] | None:
    """Return a model's weights in a dtype, on the CPU, except those that transformers always loads in fp32.

    Buffers are left as they are. Tied weights are cast once, so that they are saved once.
    """
    if dtype is None or (state_dict is None and all(weight.dtype == dtype for weight in net.parameters())):
        return state_dict
    weights: MutableMapping[str, Tensor] = net.state_dict() if state_dict is None else state_dict
    buffers = {name for name, _ in net.named_buffers()}
    kept = [pattern.replace("*", ".*") for pattern in net._get_dtype_plan(dtype)]  # as transformers matches them
    done: dict[tuple[Any, ...], Tensor] = {}
    for name, weight in weights.items():
        if not weight.is_floating_point() or name in buffers or any(re.search(pattern, name) for pattern in kept):
            continue
        key = (weight.data_ptr(), weight.shape, weight.stride())
        done[key] = weights[name] = done[key] if key in done else weight.to("cpu", dtype)
    return weights


def _cast_adapters(folder: Path, dtype: torch.dtype) -> None:
    """Cast the saved weights of adapters, and of modules that PEFT saves with them."""
    for path in folder.rglob("adapter_model.safetensors"):
        weights = load_file(path)
        floating = {name: weight for name, weight in weights.items() if weight.is_floating_point()}
        if any(weight.dtype != dtype for weight in floating.values()):
            weights |= {name: weight.to(dtype) for name, weight in floating.items()}
            save_file(weights, path, metadata={"format": "pt"})


def _write_config(net: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write the config with the dtype of the saved weights; `save_pretrained` writes that of the weights in memory."""
    config = deepcopy(net.config)
    for part in (config, *(getattr(config, name) for name in config.sub_configs)):
        if part is not None:
            part.dtype = dtype
    config.save_pretrained(str(folder))


def _drop_padding_without_embedding(net: Any) -> None:
    """Remove a padding token beyond the embeddings, which the Trainer copies from the tokenizer to the configs.

    Transformers refuses to load a model with one.
    """
    base = _base_of(net)
    for config in (base.config.get_text_config(), base.generation_config):
        pad_id = getattr(config, "pad_token_id", None)
        if pad_id is not None and pad_id >= base.get_input_embeddings().num_embeddings:
            config.pad_token_id = None


def save_format(trainer: Trainer, folder: Path, *, chat: ChatFormat | None) -> None:
    """Save what a model is used with: tokenizer, chat template, generation config; and the training arguments.

    Args:
        trainer: The trainer.
        folder: The folder of the model or adapter.
        chat: The format that the model is trained in; None saves the trainer's tokenizer as it is.
    """
    base = _base_of(_unwrapped(trainer))
    tokenizer: Any = trainer.processing_class
    if chat is not None:
        tokenizer = copy(chat.tokenizer)
        tokenizer.chat_template = saved_template(chat)
    if base.can_generate():
        generation = deepcopy(base.generation_config)
        if chat is not None:
            generation.eos_token_id = stop_tokens(generation, chat)
        generation.to_json_file(str(folder / GENERATION_CONFIG_NAME), keys_to_pop=["compile_config"])
    tokenizer.save_pretrained(str(folder))
    write_arguments(trainer.args, folder)


def stop_tokens(generation: GenerationConfig, chat: ChatFormat) -> int | list[int]:
    """Return the token ids that end a reply: EOS, the base model's, and those of the template that was trained."""
    configured: Any = generation.eos_token_id
    base_ids = configured if isinstance(configured, list) else [] if configured is None else [configured]
    ids = list(dict.fromkeys([int(str(chat.tokenizer.eos_token_id)), *base_ids, *sorted(chat.stop_ids)]))
    return ids[0] if len(ids) == 1 else ids


@contextmanager
def _without_generation_config(net: Any) -> Generator[None]:
    """Give a model a default generation config in this block.

    `save_pretrained` refuses a config with a `temperature` and no `do_sample`, which published models have, once the
    Trainer has set its special tokens. `save_format` writes the values as they are.
    """
    original = net.generation_config
    net.generation_config = GenerationConfig()
    try:
        yield
    finally:
        net.generation_config = original
