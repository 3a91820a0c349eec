"""Memory: measure the peak, keep freed memory for reuse, trim the heap, and report out-of-memory errors with advice."""

from __future__ import annotations

import ctypes
import gc
import platform
import resource
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from derta.errors import ModelError, is_out_of_memory
from derta.train.config import DertaConfig

MAX_FRAGMENTED = 2**29
"""Growth of the resident memory in bytes after which the heap is trimmed."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_MAX_MMAP_THRESHOLD = 2**25  # glibc's maximum
_CLEAR_REFS, _STATUS, _STATM = (Path("/proc/self") / name for name in ("clear_refs", "status", "statm"))


def keep_freed_memory() -> None:
    """Configure glibc to keep the memory that this process frees, for reuse in the next step. No effect without glibc.

    By default, large tensors are mapped from the kernel and unmapped when freed, and new pages cost more than what is
    computed on them (measured in LOG.md, 8). Only tensors below 32 MB are kept: larger ones fragment the heap, which
    grew to twice the size that training needs (LOG.md, 16).
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, -1)


def _trim_heap() -> None:
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


class TrimMemoryCallback(TrainerCallback):
    """Callback that returns free memory to the kernel after a micro-batch if the heap has grown (glibc only).

    Batches of many shapes fragment the heap, which would otherwise keep growing (LOG.md, 22).
    """

    def __init__(self) -> None:
        self._needed = resident_memory()

    def _trim(self) -> None:
        current = resident_memory()
        if current > self._needed + MAX_FRAGMENTED:
            _trim_heap()
            self._needed = current = resident_memory()
        self._needed = min(self._needed, current)

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Trim the heap after a micro-batch."""
        del args, state, control
        self._trim()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Trim the heap after the last micro-batch of a step."""
        del args, state, control
        self._trim()


def reset_peak_memory() -> None:
    """Free unused memory (of earlier models), and reset the measured peak.

    If the system does not support that (macOS), the peak remains that of the whole process.
    """
    gc.collect()
    _trim_heap()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5", encoding="ascii")


def peak_memory() -> int:
    """Return the peak memory since the reset in bytes: of tensors on the GPU if there is one, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if _STATUS.exists():
        return 1024 * int(_STATUS.read_text(encoding="ascii").split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def resident_memory() -> int:
    """Return the resident memory of this process in bytes; 0 if the system does not report it."""
    if not _STATM.exists():
        return 0
    return int(_STATM.read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def static_bytes(net: nn.Module) -> int:
    """Return the bytes of weights, gradients and AdamW's two moments: the memory of training without activations.

    >>> static_bytes(nn.Linear(10, 10, bias=False))  # 100 weights in fp32, four copies
    1600
    """
    weights = sum(p.numel() * p.element_size() for p in net.parameters())
    return weights + 3 * sum(p.numel() * p.element_size() for p in net.parameters() if p.requires_grad)


@contextmanager
def out_of_memory_as_model_error(advice: Callable[[], str]) -> Generator[None]:
    """Convert an out-of-memory error to a `ModelError` with advice.

    Args:
        advice: Returns the advice; called only after an error.

    Raises:
        ModelError: an allocation failed inside the block.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(f"out of memory {advice()}") from error


def training_advice(config: DertaConfig, net: nn.Module) -> str:
    """Return the memory that training needs, and the options that reduce it."""
    return (
        f"in training: weights, gradients and optimizer need {static_bytes(net) / 2**30:.1f} GiB, and activations grow "
        f"with the micro-batch ({config.per_device_train_batch_size} rows of up to {config.max_length} tokens); "
        "reduce `per_device_train_batch_size` (the step stays `global_batch_size`), then set "
        "`activation_checkpointing`, LoRA or a sharded launch; `derta run RECIPE --dry-run` estimates the peak"
    )


def loading_advice() -> str:
    """Return the memory that loading a model needs, and the options that reduce it."""
    return (
        "while the model was loaded, before training: its weights need 4 bytes per parameter, 2 with LoRA "
        "and `bf16`, about half a byte with `lora.load_in_4bit`; set these, shard it over more devices, or use a "
        "smaller model"
    )
