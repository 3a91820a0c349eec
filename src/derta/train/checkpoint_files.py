"""Integrity of checkpoints: the sizes and hashes of their files, recorded last and validated before training resumes.

A stopped process leaves a checkpoint without some files, and a power failure leaves files that are shorter than they
were, or full of zeros. Transformers would resume from both: without an optimizer file it starts a fresh optimizer.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from derta.errors import RunError
from derta.files import sync_folder, write_text
from derta.provenance import hash_file
from derta.train.config import write_arguments

FILE_LIST = "files.json"
"""File in a checkpoint with the size and SHA-256 hash of each other file; it is written last."""


def record_files(checkpoint: Path) -> None:
    """Write a checkpoint's files to the disk itself, and then the list of their sizes and hashes."""
    sync_folder(checkpoint)
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != FILE_LIST)
    files = {str(path.relative_to(checkpoint)): [path.stat().st_size, hash_file(path)] for path in paths}
    write_text(checkpoint / FILE_LIST, json.dumps(files, indent=1) + "\n")
    sync_folder(checkpoint.parent, recursive=False)


def find_fault(checkpoint: Path) -> str | None:
    """Return why training cannot resume from a checkpoint, or None if all of its files are as they were written."""
    try:
        files: dict[str, tuple[int, str]] = json.loads((checkpoint / FILE_LIST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "was not completely written"
    except (OSError, ValueError):  # ValueError: not JSON, or not UTF-8
        return f"{FILE_LIST} cannot be read"
    for name, (size, digest) in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} of {size} bytes"
        if hash_file(path) != digest:
            return f"{name} is damaged"
    return None


def check_checkpoint(checkpoint: Path, *, needs_optimizer: bool) -> None:
    """Validate a checkpoint that training is to resume from; one without a list of files may be of any Trainer.

    Raises:
        RunError: a file is missing or damaged, or there is no optimizer state.
    """
    fault = find_fault(checkpoint) if (checkpoint / FILE_LIST).exists() else None
    states = [*checkpoint.glob("optimizer*"), *checkpoint.glob("global_step*")]
    if fault is None and needs_optimizer and not states:
        fault = "has no optimizer state"
    if fault is not None:
        raise RunError(f"{checkpoint}: expected a complete checkpoint, but it {fault}; resume from another one")


def stop_if_trained(trainer: Trainer) -> bool:
    """Return whether all steps are trained, and stop the training then.

    `Trainer` would train one more step if it resumes from the checkpoint of the last step, within an epoch.
    """
    trained = trainer.state.global_step >= trainer.state.max_steps
    trainer.control.should_training_stop |= trained
    return trained


def save_checkpoint(trainer: Trainer, write: Callable[[], None], *, folder: Path) -> None:
    """Save a checkpoint with the list of its files; older checkpoints are deleted only after it is on the disk.

    Its weights have the precision of training, not that of the saved model.

    Args:
        trainer: The trainer.
        write: Saves the checkpoint, as `Trainer._save_checkpoint` does.
        folder: The folder of checkpoints.
    """
    args: Any = trainer.args
    saving: Any = trainer
    checkpoint = folder / f"{PREFIX_CHECKPOINT_DIR}-{trainer.state.global_step}"
    if args.should_save:
        shutil.rmtree(checkpoint, ignore_errors=True)  # incomplete, of a stopped process
    trainer.accelerator.wait_for_everyone()
    limit, args.save_total_limit = args.save_total_limit, None
    dtype, saving.save_dtype = saving.save_dtype, None
    try:
        write()
    finally:
        args.save_total_limit, saving.save_dtype = limit, dtype
    trainer.accelerator.wait_for_everyone()
    if args.should_save:
        write_arguments(args, checkpoint)  # with the limit
        record_files(checkpoint)
        delete_older(checkpoint, limit=limit, best=trainer.state.best_model_checkpoint)


def delete_older(checkpoint: Path, *, limit: int | None, best: str | None) -> None:
    """Delete all but `limit` checkpoints, of which one is the newest and one the best.

    Checkpoints of later steps are damaged, or of a training that was resumed from an earlier step: they are deleted
    first. `Trainer` would keep them where times of change are not reliable, and delete the new one.
    """
    if limit is None:
        return
    newest = step_of(checkpoint)
    others = [path for path in checkpoint.parent.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path != checkpoint]
    others = [path for path in others if best is None or path != Path(best)]
    others.sort(key=lambda path: (step_of(path) < newest, step_of(path)))
    kept = max(0, limit - 1 - (best is not None and Path(best) != checkpoint))
    for path in others[: len(others) - kept]:
        shutil.rmtree(path, ignore_errors=True)


def step_of(checkpoint: Path) -> int:
    """Return the step in the name of a checkpoint's folder."""
    return int(checkpoint.name.rpartition("-")[2])
