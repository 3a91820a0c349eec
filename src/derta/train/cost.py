"""What a finished training took, from its log and its own rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import chain, count, islice
from pathlib import Path
from typing import NamedTuple

from derta.config import TrainSection
from derta.data.rows import Instance, row_settings
from derta.train.arguments import accumulation_steps
from derta.train.dataset import MicroBatchSampler, RowDataset, StepSettings


class TrainingCost(NamedTuple):
    """Optimizer steps, the rows and tokens that were read in them, and seconds since the last start."""

    steps: int
    rows: int
    tokens: int
    seconds: float


def training_cost(model: Path, *, instances: Sequence[Instance], train: TrainSection, seed: int) -> TrainingCost:
    """What the model of a folder cost, trained by one process in steps of `batch_size` rows."""
    log = json.loads((model / "train_log.json").read_text(encoding="utf-8"))
    steps = next(entry["step"] for entry in reversed(log) if "step" in entry)
    seconds = next(entry["train_runtime"] for entry in reversed(log) if "train_runtime" in entry)
    lengths = list(_lengths(instances, train=train, seed=seed, steps=steps))
    return TrainingCost(steps, len(lengths), sum(lengths), seconds)


def _lengths(instances: Sequence[Instance], *, train: TrainSection, seed: int, steps: int) -> Iterable[int]:
    """The length of every row of the first steps; the last step of an epoch may have fewer micro-batches."""
    dataset = RowDataset(instances, settings=row_settings(train), seed=seed)
    accumulated = accumulation_steps(train, num_processes=1)
    sampler = MicroBatchSampler(dataset, settings=StepSettings(train.micro_batch_size, accumulated), seed=seed)
    an_epoch = -(-len(sampler) // accumulated)
    for epoch in islice(count(), -(-steps // an_epoch)):
        sampler.set_epoch(epoch)
        left = min(steps - epoch * an_epoch, an_epoch)
        for key in chain.from_iterable(islice(iter(sampler), left * accumulated)):
            yield dataset.length(*key)
