"""A recipe's training settings as the Trainer, the sampler and the collator take them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import get_available_reporting_integrations

from derta.config import TrainSection
from derta.data.rows import Instance, row_settings
from derta.errors import RecipeError
from derta.train.collator import LossSettings
from derta.train.dataset import RowDataset

A = TypeVar("A", bound=TrainingArguments)
_ONE_BIN = 2**31
"""A capacity that every micro-batch fits into."""


def training_arguments(
    train: TrainSection, *, seed: int, folder: Path, accumulation: int | None = None
) -> TrainingArguments:
    """The recipe's settings as the Trainer takes them; micro-batches add up to `batch_size` unless told otherwise.

    Raises:
        RecipeError: fp16 without a GPU (accelerate would train in fp32), or a logger that is not there.
    """
    if train.fp16 and not torch.accelerator.is_available():
        raise RecipeError("train.fp16: expected a GPU, found none; use bf16, or neither")
    loggers = get_available_reporting_integrations()
    if train.report_to not in ("none", "all", *loggers):
        raise RecipeError(
            f"train.report_to: expected a logger that is installed ({', '.join(loggers) or 'none is'}), got "
            f"{train.report_to!r}; install it, or use none"
        )
    if accumulation is None:
        accumulation = accumulation_steps(train, num_processes=int(os.environ.get("WORLD_SIZE", "1")))
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=train.epochs,
        max_steps=train.max_steps or -1,
        per_device_train_batch_size=train.micro_batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.schedule,
        warmup_steps=train.warmup,
        weight_decay=train.weight_decay,
        bf16=train.bf16,
        fp16=train.fp16,
        activation_checkpointing=train.gradient_checkpointing,
        logging_steps=train.logging_steps,
        save_strategy="steps" if train.save_steps else "no",
        save_steps=train.save_steps or 500,
        save_total_limit=1,
        report_to=train.report_to,
        seed=seed,
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        logging_nan_inf_filter=False,
        average_tokens_across_devices=True,
        ddp_find_unused_parameters=False,  # what is not used is frozen
        log_level_replica="error",
    )
    return on_one_device(arguments)


def on_one_device(arguments: A) -> A:
    """Keep one process to one GPU: the Trainer would tear the batches of several apart (`nn.DataParallel`)."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # pyright: ignore[reportPrivateUsage]
    return arguments


def batch_settings(train: TrainSection) -> dict[str, Any]:
    """How `DertaTrainer` makes batches and losses of rows, by the recipe; `reference` overrides what it must."""
    weights = train.term_weights
    own_means = train.reference or train.normalization == "micro_batch"
    sharing = (
        "order" if own_means else "tokens" if train.pack_tokens else "length" if train.group_by_length else "order"
    )
    return {
        "pack_tokens": 0 if train.reference else _ONE_BIN if one_bin(train) else train.pack_tokens,
        "loss": LossSettings((weights.helpful, weights.safe, weights.rto), by_row=train.normalization == "row"),
        "sharing": sharing,
        "step_tokens": train.step_tokens,
        "mean_by_micro_batch": own_means,
    }


def one_bin(train: TrainSection) -> bool:
    """Whether a micro-batch is one sequence: transformers' flash attention tells packed rows apart in no other case."""
    return train.attention == "flash_attention_2" and train.pack_tokens > 0


def micro_batches_of_a_step(
    train: TrainSection, instances: Sequence[Instance], *, seed: int, num_processes: int
) -> int:
    """Micro-batches that each process adds up in a step, by rows or by the tokens of a step."""
    if train.step_tokens is None:
        return accumulation_steps(train, num_processes=num_processes)
    dataset = RowDataset(instances, settings=row_settings(train), seed=seed)
    mean = sum(dataset.length(0, index) for index in range(len(dataset))) / len(dataset)
    return max(1, round(train.step_tokens / mean / (train.micro_batch_size * num_processes)))


def accumulation_steps(train: TrainSection, *, num_processes: int) -> int:
    """Micro-batches that each process adds up, so that `batch_size` rows make a step on however many processes.

    >>> accumulation_steps(TrainSection(batch_size=128, micro_batch_size=8), num_processes=4)
    4

    Raises:
        RecipeError: the batch cannot be shared out evenly.
    """
    rows_at_once = train.micro_batch_size * num_processes
    if train.batch_size % rows_at_once:
        raise RecipeError(
            f"train.batch_size: expected a multiple of micro_batch_size x processes ({train.micro_batch_size} x "
            f"{num_processes}), got {train.batch_size}; change one of them"
        )
    return train.batch_size // rows_at_once


def adds_in_place(train: TrainSection, arguments: TrainingArguments) -> bool:
    """Whether embeddings' gradients may bypass autograd: no other process, scaler or adapter is to see them first.

    On a CPU alone, where it was measured to pay (LOG.md, 16); elsewhere it is not tried.
    """
    alone = arguments.world_size == 1 and arguments.device.type == "cpu"
    return alone and not train.fp16 and train.lora is None
