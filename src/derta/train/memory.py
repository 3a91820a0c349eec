"""Memory: a training's peak, pages kept for the next step, and a clear word when there is not enough."""

from __future__ import annotations

import ctypes
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
from derta.recipe import TrainSection

STEPS_BETWEEN_TRIMS = 4
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGEST_KEPT = 2**25  # the most that glibc takes as a threshold
_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


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


class GiveBackHoles(TrainerCallback):
    """Every few steps, give the kernel the free pages between those in use (glibc only).

    Batches of many shapes leave holes that none fills, and a heap of kept memory would grow on (LOG.md, 20).
    """

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Trim every STEPS_BETWEEN_TRIMS steps."""
        del args, control
        if state.global_step % STEPS_BETWEEN_TRIMS == 0 and platform.libc_ver()[0] == "glibc":
            ctypes.CDLL(None).malloc_trim(0)


def reset_peak_memory() -> None:
    """Begin to measure anew; where the system cannot (macOS), the peak stays that of the whole process."""
    if torch.cuda.is_available():
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


def static_bytes(net: nn.Module) -> int:
    """Bytes of weights, gradients and AdamW's two moments: what training takes before its first token.

    >>> static_bytes(nn.Linear(10, 10, bias=False))  # 100 weights in fp32, four copies
    1600
    """
    weights = sum(p.numel() * p.element_size() for p in net.parameters())
    return weights + 3 * sum(p.numel() * p.element_size() for p in net.parameters() if p.requires_grad)


@contextmanager
def out_of_memory_told(advice: Callable[[], str]) -> Generator[None]:
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


def training_advice(train: TrainSection, net: nn.Module) -> str:
    """What training takes, and the knobs to turn."""
    return (
        f"in training: weights, gradients and optimizer take {static_bytes(net) / 2**30:.1f} GiB, and the rest grows "
        f"with the micro-batch ({train.micro_batch_size} rows of up to {train.max_length} tokens); lower "
        "`train.micro_batch_size` (the step stays `batch_size`), then set `train.gradient_checkpointing: true`, "
        "`train.lora: {}` or a sharded `--launch`; `derta run RECIPE --dry-run` estimates the peak"
    )


def loading_advice() -> str:
    """What a model takes before any training, and the knobs to turn."""
    return (
        "while the model was loaded, before any training: its weights take 4 bytes a parameter, 2 with `train.lora` "
        "and `train.bf16`, about half a byte with `train.lora.load_in_4bit`; set these, use sharding by `--launch`, or "
        "take a smaller model"
    )
