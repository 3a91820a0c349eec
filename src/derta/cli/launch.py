"""A command that runs in several processes speaks with one voice."""

from __future__ import annotations

import os
import time
import warnings

GRACE_SECONDS = 3.0


def is_main_process() -> bool:
    """Whether this process speaks for all; `RANK` is what torchrun and accelerate set."""
    return os.environ.get("RANK", "0") == "0"


def is_launched() -> bool:
    """Whether a launcher started this process, and will tell of its end."""
    return "RANK" in os.environ


def let_main_process_speak() -> None:
    """Silence the other processes' warnings and bars; to be called before anything heavy is imported."""
    if not is_main_process():
        os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        warnings.simplefilter("ignore")


def let_main_process_fail_first() -> None:
    """Before another process tells its fault: if the main one has the same to tell, this one is ended meanwhile."""
    if not is_main_process():
        time.sleep(GRACE_SECONDS)
