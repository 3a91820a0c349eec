"""Training to a finished folder: resume from the last complete checkpoint, and save the model atomically."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import HfApi
from safetensors import SafetensorError
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils.hub import PushInProgress

from derta.errors import DertaError, RunError
from derta.run_folder import finish_folder
from derta.train.config import DertaConfig, write_arguments
from derta.train.distributed import save_full_state_dict
from derta.train.memory import out_of_memory_as_model_error, peak_memory, training_advice

_STATE_FILES = (
    "optimizer.*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*",
    "trainer_state.json",
    "global_step*/*",
    "latest",
)

_LOGS = "runs"  # Hugging Face's name of the folder for TensorBoard files


class NonFiniteLossError(DertaError):
    """Error for a loss, a gradient norm or a weight that is NaN or infinite; for a loss, the message names the rows."""


def train_and_save(trainer: Trainer, *, config: DertaConfig, out: Path) -> Path:
    """Train, resuming from the last complete checkpoint if there is one, save to `out`, and delete the checkpoints.

    `train_log.json` holds the logged values. TensorBoard's files are copied to `out` + `.runs`.

    Returns:
        `out`.
    """
    checkpoints = Path(str(trainer.args.output_dir))
    net: Any = trainer.model
    with disk_full_as_run_error(out), out_of_memory_as_model_error(partial(training_advice, config, net)):
        trainer.train(resume_from_checkpoint=last_complete_checkpoint(checkpoints))
        check_weights(net)
        save(trainer, out)
    if trainer.is_world_process_zero():
        if (checkpoints / _LOGS).is_dir():
            shutil.copytree(checkpoints / _LOGS, out.with_name(f"{out.name}.{_LOGS}"), dirs_exist_ok=True)
        shutil.rmtree(checkpoints, ignore_errors=True)
    return out


def check_weights(net: nn.Module) -> None:
    """Validate that the last update left every trained weight finite.

    Raises:
        NonFiniteLossError: a weight is NaN or infinite, so the model is not saved.
    """
    for name, weight in net.named_parameters():
        local: Any = weight.to_local() if isinstance(weight, DTensor) else weight
        if weight.requires_grad and not bool(torch.isfinite(local).all()):
            raise NonFiniteLossError(f"expected finite weights, got NaN or infinity in {name}; lower the learning rate")


def save(trainer: Trainer, out: Path) -> None:
    """Save the model and its log to `out`. The main process writes, and the others wait."""
    partial = out.with_name(out.name + ".partial")
    if trainer.is_world_process_zero():
        shutil.rmtree(partial, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    save_full_state_dict(trainer)
    trainer.save_model(str(partial))
    if trainer.is_world_process_zero():
        peak = {"step": trainer.state.global_step, "peak_memory_gib": round(peak_memory() / 2**30, 3)}
        history = json.dumps([*trainer.state.log_history, peak], indent=1)
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
        full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
        if full or isinstance(error, SafetensorError) or "inline_container" in str(error):
            raise RunError(
                f"{out}: cannot write a checkpoint ({error}); free space, then run the same command to resume"
            ) from error
        raise


def last_complete_checkpoint(folder: Path) -> str | None:
    """Return the path of the newest complete checkpoint, or None; partially written ones are skipped."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next((str(path) for path in checkpoints if _is_complete(path)), None)


def _is_complete(checkpoint: Path) -> bool:
    """Return whether a checkpoint is complete: the Trainer writes `trainer_state.json` last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # ValueError: not JSON, or not UTF-8
        return False
    return True


def save_without_pickle(trainer: Trainer, folder: Path, state_dict: dict[str, Any] | None = None) -> None:
    """Save the model, the tokenizer and the training arguments, as `training_args.json` instead of a pickle."""
    if not trainer.args.should_save:
        return
    folder.mkdir(parents=True, exist_ok=True)
    net: Any = trainer.accelerator.unwrap_model(cast("nn.Module", trainer.model), keep_torch_compile=False)
    net.save_pretrained(str(folder), state_dict=state_dict)
    tokenizer: Any = trainer.processing_class
    tokenizer.save_pretrained(str(folder))
    write_arguments(trainer.args, folder)


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
