"""Settings of the engine for Hugging Face models, checked and loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from derta.chat import chat_format
from derta.config import RowConfig
from derta.engines.hf_engine import HfEngine
from derta.engines.threshold import refusal_forcing
from derta.errors import EngineError, ModelError
from derta.loading import (
    check_model_path,
    keep_attention_off_cudnn,
    load_adapter,
    load_model,
    load_tokenizer,
)
from derta.records import REFUSAL_WORDS


def load(
    model: str | Path | nn.Module,
    *,
    tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
    adapter: str | Path | None = None,
    template: str = "auto",
    template_kwargs: Mapping[str, Any] | None = None,
    template_date: str = RowConfig.template_date,
    thinking: bool = True,
    dtype: str = "auto",
    device: str = "auto",
    max_batch_tokens: int | None = None,
    refusal_words: Sequence[str] = REFUSAL_WORDS,
    refusal_threshold: float | str | Path | None = None,
    threads: int | None = None,
    trust_remote_code: bool = False,
) -> HfEngine:
    """Load a model into an engine from a folder or a hub id, optionally with a PEFT adapter, or use a model in memory.

    Args:
        model: Folder written by `save_pretrained`, hub id `org/name` (safetensors only), or loaded model.
        tokenizer: Folder, hub id, or loaded tokenizer; by default that of the adapter, which has the template that it
            was trained with, or that of the model. Required for a model in memory.
        adapter: Folder or hub id of a PEFT adapter. It is not merged: merging would round it in bfloat16.
        template: `auto`, `paper`, `paper_eval` or a Jinja file, as for `chat_format`.
        template_kwargs: Additional variables of the template, such as `enable_thinking: false`.
        template_date: The date of a template that writes today's, as YYYY-MM-DD.
        thinking: Whether replies of a model that thinks begin with its thought, or after an empty one.
        dtype: `auto` (as saved), `float32`, `bfloat16` or `float16`.
        device: `auto` (all accelerators if there are any, else the CPU), `cpu`, `cuda:1`, and so on.
        max_batch_tokens: Maximum of rows times tokens in a batch. None: 16,384 on a CPU, up to 131,072 on a GPU, as
            its free memory allows.
        refusal_words: Words that `refusal_probability` counts as the start of a refusal.
        refusal_threshold: Probability of the refusal words' first tokens from which on one of them is forced, or a
            file of `derta threshold`.
        threads: CPU threads of the whole process; None keeps torch's default.
        trust_remote_code: Run code that the model contains.

    Raises:
        ModelError: The folder or hub id has no model or no tokenizer, or the chat template is not usable.
        EngineError: A model in memory without a tokenizer, or with options for loading.
    """
    if threads is not None:
        if threads < 1:
            raise ModelError(f"threads: expected at least 1, got {threads}")
        torch.set_num_threads(threads)
    keep_attention_off_cudnn()
    name = str(model) if isinstance(model, str | Path) else type(model).__name__
    if not isinstance(model, str | Path):
        _check_in_memory(name, adapter=adapter, dtype=dtype, device=device)
    if isinstance(model, str | Path) and adapter is not None:
        check_model_path(str(adapter), needs="adapter_model.safetensors")
    loaded = _load_tokenizer(model, tokenizer, adapter=adapter, trust_remote_code=trust_remote_code)
    chat = chat_format(
        loaded, template=template, template_kwargs=template_kwargs, date=template_date, thinking=thinking
    )
    net: Any = model
    if isinstance(model, str | Path):
        net = load_model(name, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        net = net if adapter is None else load_adapter(net, str(adapter))
    rows = net.get_input_embeddings().num_embeddings
    if loaded.vocab_size > rows:  # without added tokens, such as a padding token, which prompts may never hold
        raise ModelError(
            f"{name}: the tokenizer has {loaded.vocab_size} tokens, the model embeds {rows}; pass the tokenizer "
            "that the model was trained with"
        )
    forcing = None
    if refusal_threshold is not None:
        path = model if isinstance(model, str | Path) else None
        forcing = refusal_forcing(refusal_threshold, chat=chat, words=refusal_words, model=path, adapter=adapter)
    return HfEngine(net, chat, refusal_words=tuple(refusal_words), max_batch_tokens=max_batch_tokens, forcing=forcing)


def _load_tokenizer(
    model: str | Path | nn.Module,
    tokenizer: str | Path | PreTrainedTokenizerBase | None,
    *,
    adapter: str | Path | None,
    trust_remote_code: bool,
) -> PreTrainedTokenizerBase:
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return tokenizer
    source = model if tokenizer is None else tokenizer
    if isinstance(source, nn.Module):
        name = type(source).__name__
        raise EngineError(f"engine hf: expected `tokenizer` with a {name} in memory, got none; pass its tokenizer")
    adapted = None if adapter is None or tokenizer is not None else str(adapter)
    return load_tokenizer(str(source), adapter=adapted, trust_remote_code=trust_remote_code)


def _check_in_memory(name: str, *, adapter: object, dtype: str, device: str) -> None:
    for setting, is_set in (("adapter", adapter is not None), ("dtype", dtype != "auto"), ("device", device != "auto")):
        if is_set:
            raise EngineError(f"engine hf: expected no `{setting}` for a {name} in memory, got one; remove the setting")
