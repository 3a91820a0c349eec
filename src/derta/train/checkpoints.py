"""Training to a finished folder: resume from the last complete checkpoint, and save the model atomically."""

from __future__ import annotations

import errno
import json
import logging
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from huggingface_hub import HfApi
from safetensors import SafetensorError
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils.hub import PushInProgress

from derta.errors import DertaError, RunError, is_out_of_memory
from derta.run_folder import clean_up_training, finish_folder
from derta.train.checkpoint_files import FILE_LIST, find_fault, step_of
from derta.train.config import DertaConfig
from derta.train.distributed import is_sharded, save_full_state_dict
from derta.train.memory import out_of_memory_as_model_error, peak_memory, training_advice
from derta.train.saving import save_format

_STATE_FILES = (
    "optimizer.*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*",
    "trainer_state.json",
    "global_step*/*",
    "latest",
    FILE_LIST,
)
_FULL_DISK = ("No space left", "Disk quota exceeded", "inline_container.cc")
"""Parts of the messages of torch and safetensors when they cannot write a file."""

logger = logging.getLogger(__name__)


class NonFiniteLossError(DertaError):
    """Error for a loss, a gradient norm or a weight that is NaN or infinite; for a loss, the message names the rows."""


def train_and_save(trainer: Trainer, *, config: DertaConfig, out: Path) -> Path:
    """Train, resuming from the last complete checkpoint if there is one, save to `out`, and delete the checkpoints.

    `train_log.json` holds the logged values; its last entries (time, mean loss) are of the time since the last start.
    TensorBoard's files are copied to `out` + `.runs`.

    Returns:
        `out`.
    """
    net: Any = trainer.model
    with disk_full_as_run_error(out), out_of_memory_as_model_error(partial(training_advice, config, net)):
        resume_from = _checkpoint_of_all_processes(trainer)
        if resume_from is None:
            try_saving(trainer, out)
        trainer.train(resume_from_checkpoint=resume_from or False)
        check_weights(net, dtype=vars(trainer).get("save_dtype"))
        save(trainer, out)
    if trainer.is_world_process_zero():
        clean_up_training(out)
    return out


def _checkpoint_of_all_processes(trainer: Trainer) -> str | None:
    """Return the checkpoint to resume from, which the main process validates."""
    folder = Path(str(trainer.args.output_dir))
    paths = [last_complete_checkpoint(folder) if trainer.is_world_process_zero() else None]
    return broadcast_object_list(paths)[0]


def try_saving(trainer: Trainer, out: Path) -> None:
    """Save the model as after training and delete it again, so that what cannot be saved is not trained.

    Sharded weights are left out, because the shards can be gathered only after training has started.

    Raises:
        RunError: it cannot be saved.
    """
    folder: Path = _partial_folder(out)
    save_model: Any = trainer.save_model
    try:
        if is_sharded():
            net: Any = trainer.model
            net.config.save_pretrained(str(folder))
            save_format(trainer, folder, chat=vars(trainer).get("chat"))
        else:
            save_model(str(folder), _internal_call=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RuntimeError) as error:
        if is_out_of_memory(error) or _is_full_disk(error):
            raise
        message = " ".join(str(error).split())[:300]
        with suppress(OSError):  # the Trainer has created it; it may hold checkpoints that cannot be resumed
            Path(str(trainer.args.output_dir)).rmdir()
        raise RunError(
            f"{out}: expected a model that can be saved, got {type(error).__name__} ({message}); nothing was trained. "
            "Fix the model's folder, or choose another --out"
        ) from error
    finally:
        trainer.accelerator.wait_for_everyone()  # sharded processes all write into the folder
        if trainer.is_world_process_zero():
            shutil.rmtree(folder, ignore_errors=True)


def _partial_folder(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def check_weights(net: nn.Module, *, dtype: torch.dtype | None = None) -> None:
    """Validate that the last update left every trained weight finite, also in the dtype that it is saved in.

    Raises:
        NonFiniteLossError: a weight is NaN or infinite, so the model is not saved.
    """
    for name, weight in net.named_parameters():
        local: Any = weight.to_local() if isinstance(weight, DTensor) else weight
        if not weight.requires_grad or bool(torch.isfinite(local.to(dtype or local.dtype)).all()):
            continue
        if bool(torch.isfinite(local).all()):
            raise NonFiniteLossError(
                f"expected weights within the range of {dtype}, got a larger one in {name}; set `save_dtype: float32`"
            )
        raise NonFiniteLossError(f"expected finite weights, got NaN or infinity in {name}; lower the learning rate")


def save(trainer: Trainer, out: Path) -> None:
    """Save the model and its log to `out`. The main process writes, and the others wait."""
    partial = _partial_folder(out)
    if trainer.is_world_process_zero():
        shutil.rmtree(partial, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    save_full_state_dict(trainer)
    trainer.save_model(str(partial))
    if trainer.is_world_process_zero():
        peak = {"step": trainer.state.global_step, "peak_memory_gib": round(peak_memory() / 2**30, 3)}
        history = json.dumps([*trainer.state.log_history, peak], indent=1, sort_keys=True)  # as in checkpoints
        (partial / "train_log.json").write_text(history + "\n", encoding="utf-8")
        finish_folder(partial, out)
    trainer.accelerator.wait_for_everyone()


@contextmanager
def disk_full_as_run_error(out: Path) -> Generator[None]:
    """Convert the errors of a full disk to a `RunError`; torch and safetensors each raise a different one.

    Raises:
        RunError: the block raised one of them.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if _is_full_disk(error):
            raise RunError(
                f"{out}: cannot write a checkpoint ({error}); free space, then run the same command to resume"
            ) from error
        raise


def _is_full_disk(error: Exception) -> bool:
    """Return whether an error means that the disk is full. An error of reading a damaged file does not."""
    if isinstance(error, OSError):
        return error.errno in {errno.ENOSPC, errno.EDQUOT}
    return any(part in str(error) for part in _FULL_DISK)


def last_complete_checkpoint(folder: Path) -> str | None:
    """Return the path of the newest complete checkpoint, or None; a warning names each newer one that is skipped."""
    for path in sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True):
        fault = find_fault(path)
        if fault is None:
            return str(path)
        logger.warning("%s: this checkpoint %s; resuming from an earlier one, or from the start", path, fault)
    return None


def push_checkpoint(trainer: Trainer, checkpoint: Path) -> None:
    """Upload a checkpoint during training as `hub_strategy` says, with the optimizer state only if it includes that."""
    args: Any = trainer.args
    previous: Any = trainer.push_in_progress
    busy = previous is not None and not previous.is_done() and not args.hub_always_push
    if not trainer.is_world_process_zero() or args.hub_strategy == HubStrategy.END or busy:
        return
    trainer.callback_handler.on_push_begin(args, trainer.state, trainer.control)
    hub: Any = HfApi()
    upload = partial(
        hub.upload_folder,
        repo_id=trainer.hub_model_id,
        folder_path=checkpoint,
        commit_message=f"Training in progress, step {trainer.state.global_step}",
        token=args.hub_token,
        revision=args.hub_revision,
        run_as_future=True,
    )
    jobs: Any = [upload(ignore_patterns=list(_STATE_FILES))]
    if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        only_last = args.hub_strategy == HubStrategy.CHECKPOINT
        jobs.append(upload(path_in_repo="last-checkpoint" if only_last else checkpoint.name))
    pending: Any = [] if previous is None or previous.is_done() else previous.jobs
    trainer.push_in_progress = PushInProgress(pending + jobs)
