"""Memory: a training's peak, pages kept for the next step, and a clear word when there is not enough."""

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
"""Bytes that may come to be resident before the free ones among them are given back."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGEST_KEPT = 2**25  # the most that glibc takes as a threshold
_CLEAR_REFS, _STATUS, _STATM = (Path("/proc/self") / name for name in ("clear_refs", "status", "statm"))


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for the next step will want it again (glibc only).

    By default every tensor of some size is mapped from the kernel and given back, and new pages cost more than what is
    computed on them (measured in LOG.md, 8). Only those below 32 MB are kept: larger ones among them leave a heap full
    of holes, which grew to twice what training needs (LOG.md, 16).
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_M_TRIM_THRESHOLD, -1)


def _trim_heap() -> None:
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


class TrimMemoryCallback(TrainerCallback):
    """After a micro-batch, give the kernel free pages between those in use, once they may be many (glibc only).

    Batches of many shapes leave holes that none fills, and a heap of kept memory would grow on (LOG.md, 22).
    """

    def __init__(self) -> None:
        self._needed = resident_memory()

    def _trim(self) -> None:
        now = resident_memory()
        if now > self._needed + MAX_FRAGMENTED:
            _trim_heap()
            self._needed = now = resident_memory()
        self._needed = min(self._needed, now)

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A micro-batch of a step is done."""
        del args, state, control
        self._trim()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The last of a step's is."""
        del args, state, control
        self._trim()


def reset_peak_memory() -> None:
    """Let go of what nothing uses any more (models before), and begin to measure anew.

    Where the system cannot (macOS), the peak stays that of the whole process.
    """
    gc.collect()
    _trim_heap()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5", encoding="ascii")


def peak_memory() -> int:
    """Bytes held at most since the reset: by the GPU's tensors if there is one, else resident in this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if _STATUS.exists():
        return 1024 * int(_STATUS.read_text(encoding="ascii").split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def resident_memory() -> int:
    """Bytes of this process in memory now; 0 where the system does not tell."""
    if not _STATM.exists():
        return 0
    return int(_STATM.read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def static_bytes(net: nn.Module) -> int:
    """Bytes of weights, gradients and AdamW's two moments: what training takes before its first token.

    >>> static_bytes(nn.Linear(10, 10, bias=False))  # 100 weights in fp32, four copies
    1600
    """
    weights = sum(p.numel() * p.element_size() for p in net.parameters())
    return weights + 3 * sum(p.numel() * p.element_size() for p in net.parameters() if p.requires_grad)


@contextmanager
def out_of_memory_as_model_error(advice: Callable[[], str]) -> Generator[None]:
    """Tell running out of memory as a user's mistake, with advice that is worked out only then.

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
    """What training takes, and the knobs to turn."""
    return (
        f"in training: weights, gradients and optimizer take {static_bytes(net) / 2**30:.1f} GiB, and the rest grows "
        f"with the micro-batch ({config.per_device_train_batch_size} rows of up to {config.max_length} tokens); "
        "lower `per_device_train_batch_size` (the step stays `global_batch_size`), then set "
        "`activation_checkpointing`, LoRA or a sharded launch; `derta run RECIPE --dry-run` estimates the peak"
    )


def loading_advice() -> str:
    """What a model takes before any training, and the knobs to turn."""
    return (
        "while the model was loaded, before any training: its weights take 4 bytes a parameter, 2 with LoRA "
        "and `bf16`, about half a byte with `lora.load_in_4bit`; set these, shard it over more devices, or take a "
        "smaller model"
    )
