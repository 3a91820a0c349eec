"""Sizes of batches by device: a CPU's caches limit them there, the free memory on a GPU."""

from __future__ import annotations

from typing import Any

import torch

BATCH_TOKENS = 16384
"""Rows times tokens of a batch on a CPU, and the least on other devices."""

MAX_BATCH_TOKENS = 2**17
"""Rows times tokens of a batch on a GPU with enough free memory."""

CACHE_SHARE = 0.25
"""Share of a GPU's free memory that the KV cache of a batch may fill; the rest is for logits, masks and copies."""

LARGE_GPU = 40 * 2**30
"""Bytes of a GPU that has room for more logits."""


def batch_tokens(model: Any, *, chunked: bool) -> int:
    """Return how many rows times tokens of a model's KV cache fit in a batch.

    On a GPU a step's time is that of launching its kernels until it has hundreds of rows, so batches are as large as
    the free memory allows.

    Args:
        model: Causal language model.
        chunked: Whether prompts are computed in chunks; otherwise a prefill's memory grows with the batch.
    """
    if model.device.type != "cuda" or not chunked:
        return BATCH_TOKENS
    free = torch.cuda.mem_get_info(model.device)[0]
    unused = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    fitting = int(CACHE_SHARE * (free + unused)) // cache_bytes(model.config, model.dtype)
    return min(max(fitting, BATCH_TOKENS), MAX_BATCH_TOKENS)


def cache_bytes(config: Any, dtype: torch.dtype) -> int:
    """Return the bytes of a token's keys and values in all layers.

    >>> from transformers import LlamaConfig
    >>> shape = {"num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 2048}
    >>> cache_bytes(LlamaConfig(**shape), torch.bfloat16)
    32768
    """
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * width * dtype.itemsize


def max_logits(device: torch.device) -> int:
    """Return the maximum number of logits in memory: 1 GB in float32 on a GPU of 40 GiB or more, elsewhere 0.25 GB.

    >>> max_logits(torch.device("cpu")) // 262_144  # positions of Gemma's vocabulary
    256
    """
    large = device.type == "cuda" and torch.cuda.get_device_properties(device).total_memory >= LARGE_GPU
    return 2**28 if large else 2**26


def chunk_tokens(device: torch.device) -> int:
    """Return the maximum prompt tokens of a prefill chunk: on a CPU, more overflow its caches."""
    return 1024 if device.type == "cpu" else 16384


def finished_share(device: torch.device) -> float:
    """Return the share of finished rows above which they leave a batch.

    On a CPU a row costs time, so it leaves at once. On other devices a few rows cost none, but removing them copies the
    whole cache.
    """
    return 0.0 if device.type == "cpu" else 0.25
