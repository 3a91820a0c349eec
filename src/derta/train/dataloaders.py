"""Samplers, collators and dataloaders of a trainer, built from its config."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from derta.data.rows import TrainRow
from derta.data.tree import TreeRow
from derta.train.checks import invalid_settings_as_recipe_error
from derta.train.collator import Batch, collate
from derta.train.config import DertaConfig
from derta.train.dataset import MicroBatchSampler, RowDataset, StepSettings


class SetEpochCallback(TrainerCallback):
    """Callback that sets the sampler's epoch; the Trainer cannot access it under every wrapper."""

    def __init__(self, sampler: MicroBatchSampler) -> None:
        self._sampler = sampler

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Set the epoch that starts; after resuming, `state.epoch` is a fraction."""
        del args, control
        self._sampler.set_epoch(math.floor((state.epoch or 0.0) + 1e-6))


def training_sampler(rows: RowDataset, config: DertaConfig) -> MicroBatchSampler:
    """Return the sampler of this process's training micro-batches."""
    settings = StepSettings(
        micro_rows=config.per_device_train_batch_size,
        micro_batches=config.gradient_accumulation_steps,
        num_processes=config.world_size,
        step_tokens=config.step_tokens,
        grouping=config.grouping,
    )
    return MicroBatchSampler(rows, settings=settings, seed=config.rows_seed, process_index=config.process_index)


def evaluation_sampler(rows: RowDataset, config: DertaConfig) -> MicroBatchSampler:
    """Return the sampler of this process's evaluation micro-batches: every row once, as drawn in epoch 0."""
    settings = StepSettings(config.per_device_eval_batch_size, 1, config.world_size, None, config.grouping)
    return MicroBatchSampler(rows, settings=settings, seed=config.rows_seed, process_index=config.process_index)


def collator_of(config: DertaConfig) -> Callable[[Sequence[TrainRow | TreeRow]], Batch]:
    """Return the data collator with the config's packing and weights.

    Padding has id 0. It is neither attended to nor learned, and the tokenizer's may lack an embedding. On a GPU bins
    are padded to a multiple of 16 tokens: attention copies a mask of another width in every layer, and compiled layers
    are compiled once more for it.
    """
    return partial(
        collate,
        capacity=config.bin_capacity,
        pad_id=0,
        term_weights=config.term_weights,
        by_row=config.normalization == "row",
        multiple=16 if config.device.type == "cuda" else 1,
        rto_margin=config.rto_margin,
        anchor_weight=config.anchor_weight,
    )


def dataloader(
    rows: Any, micro_batches: Any, *, collator: Any, config: DertaConfig, device: torch.device
) -> DataLoader[TrainRow]:
    """Return a dataloader that puts batches on the device.

    The sampler assigns micro-batches to processes, so accelerate neither shards, pads nor repeats batches.

    Args:
        rows: Dataset of rows.
        micro_batches: Lists of keys of the dataset: a sampler, or a fixed sequence.
        collator: Data collator.
        config: Training configuration, with the dataloader's options.
        device: Device of the batches.

    Raises:
        RecipeError: torch rejects the dataloader's options.
    """
    workers = config.dataloader_num_workers
    with invalid_settings_as_recipe_error("dataloader_multiprocessing_context, dataloader_num_workers"):
        loader = DataLoader(
            rows,
            batch_sampler=micro_batches,
            collate_fn=collator,
            num_workers=workers,
            pin_memory=config.dataloader_pin_memory,
            persistent_workers=config.dataloader_persistent_workers,
            prefetch_factor=config.dataloader_prefetch_factor,
            multiprocessing_context=config.dataloader_multiprocessing_context if workers else None,
            in_order=config.dataloader_in_order,
        )
    return prepare_data_loader(loader, device=device, num_processes=1, process_index=0, put_on_device=True)
