"""Output and errors of a command that torchrun or Accelerate starts in several processes."""

from __future__ import annotations

import os
import time
import warnings

GRACE_SECONDS = 3.0


def is_main_process() -> bool:
    """Return whether this is the main process, by the `RANK` that torchrun and Accelerate set."""
    return os.environ.get("RANK", "0") == "0"


def is_launched() -> bool:
    """Return whether a launcher started this process; the launcher then reports how it ended."""
    return "RANK" in os.environ


def silence_other_processes() -> None:
    """Hide warnings and progress bars outside the main process; call it before importing transformers."""
    if not is_main_process():
        silence_libraries()


def silence_libraries() -> None:
    """Hide warnings and progress bars of libraries; call it before importing transformers."""
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    warnings.simplefilter("ignore")


def wait_for_main_process_error() -> None:
    """Wait outside the main process, so that an error common to all processes is printed once.

    The main process prints it and exits; its launcher then terminates the waiting processes.
    """
    if not is_main_process():
        time.sleep(GRACE_SECONDS)
