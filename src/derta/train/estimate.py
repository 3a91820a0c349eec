"""Estimates of training time and memory from a short probe run, and the cost of a finished training run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from copy import copy
from itertools import chain, count, islice
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from derta.data.rows import Instance
from derta.train.anchoring import AnchorCallback
from derta.train.checks import accumulation_steps, num_processes
from derta.train.config import DertaConfig
from derta.train.dataloaders import collator_of, training_sampler
from derta.train.dataset import MicroBatchSampler, RowDataset, StepSettings
from derta.train.inputs import dataset_from_rows, micro_batches_per_step
from derta.train.memory import peak_memory
from derta.train.trainer import DertaTrainer

Keys = list[Any]
MAX_SAMPLED = 2000
NUM_SPACED = 4
PROBE_SECONDS = 20.0
"""Seconds after which a probe measures no more steps; the first two are always measured."""


class BatchShape(NamedTuple):
    """Size of a micro-batch.

    Attributes:
        keys: Keys of its rows in the dataset: (epoch, index), or a pair's index.
        tokens: Number of tokens without padding.
        padded: Number of tokens with padding.
        labels: Number of labels.
        logit_positions: Number of positions that logits are computed for.
    """

    keys: Keys
    tokens: int
    padded: int
    labels: int
    logit_positions: int


class Plan(NamedTuple):
    """Work of a whole training run, extrapolated from the `sampled` micro-batches of its first epoch.

    Attributes:
        rows: Number of rows, over all epochs.
        steps: Number of optimizer steps.
        micro_batches: Number of micro-batches.
        tokens: Number of tokens without padding.
        labels: Number of labels.
        padding: Fraction of tokens that are padding.
        sampled: Sizes of the micro-batches of the first epoch, `MAX_SAMPLED` at most.
    """

    rows: int
    steps: int
    micro_batches: int
    tokens: int
    labels: int
    padding: float
    sampled: tuple[BatchShape, ...]


class Estimate(NamedTuple):
    """Estimated seconds of a training run, without loading the model, and its peak memory in bytes."""

    seconds: float
    peak_bytes: int


class Speed(NamedTuple):
    """Speed of a training run, measured by a probe; it serves runs of other rows with the same model and settings.

    Attributes:
        warmup: Additional seconds of the first step: compilation, and the state of the optimizer.
        per_unit: Seconds of a multiplication (see `weights`).
        update: Seconds of an optimizer update.
        weights: Numbers of weights that are used by a token in the trunk, and by a label in the head.
        peak_bytes: Peak memory.
    """

    warmup: float
    per_unit: float
    update: float
    weights: tuple[int, int]
    peak_bytes: int

    def estimate(self, planned: Plan) -> Estimate:
        """Return the estimate of a training run with this plan."""
        total = _cost(planned.sampled, self.weights) * planned.micro_batches / len(planned.sampled)
        return Estimate(self.warmup + self.per_unit * total + planned.steps * self.update, self.peak_bytes)


def plan(trainer: DertaTrainer) -> Plan:
    """Return the number of rows, tokens, labels and steps of a training run, from micro-batches of its first epoch."""
    return _plan(trainer.train_dataset, trainer.micro_batches, trainer.data_collator, trainer.args)


def plan_rows(rows: Sequence[Any], config: DertaConfig) -> Plan:
    """Return the plan of a training on rows, as `plan` does for its trainer; no model is loaded."""
    config = copy(config)
    config.gradient_accumulation_steps = accumulation_steps(config, num_processes=num_processes())
    dataset = dataset_from_rows(rows, config=config)
    if config.step_tokens is not None:
        config.gradient_accumulation_steps = micro_batches_per_step(dataset, config)
    return _plan(dataset, training_sampler(dataset, config), collator_of(config), config)


def _plan(dataset: Any, sampler: Any, collator: Any, arguments: TrainingArguments) -> Plan:
    sampler.set_epoch(0)
    sampled = [_shape(dataset, collator, keys) for keys in islice(sampler, MAX_SAMPLED)]
    return plan_from_sample(sampled, arguments, batches_per_epoch=len(sampler))


def plan_from_sample(sampled: Sequence[BatchShape], arguments: TrainingArguments, *, batches_per_epoch: int) -> Plan:
    """Extrapolate a plan from sampled micro-batches.

    Args:
        sampled: The first micro-batches of an epoch.
        arguments: Training arguments: epochs, steps, gradient accumulation.
        batches_per_epoch: Number of micro-batches of an epoch.
    """
    steps_per_epoch = ceil(batches_per_epoch / arguments.gradient_accumulation_steps)
    steps = arguments.max_steps if arguments.max_steps > 0 else ceil(arguments.num_train_epochs * steps_per_epoch)
    micro_batches = round(steps / steps_per_epoch * batches_per_epoch)
    scale = micro_batches / len(sampled)
    tokens, padded = (sum(getattr(shape, name) for shape in sampled) for name in ("tokens", "padded"))
    return Plan(
        rows=round(scale * sum(len(shape.keys) for shape in sampled)),
        steps=steps,
        micro_batches=micro_batches,
        tokens=round(scale * tokens),
        labels=round(scale * sum(shape.labels for shape in sampled)),
        padding=1 - tokens / padded,
        sampled=tuple(sampled),
    )


def _shape(dataset: Any, collator: Any, keys: Keys) -> BatchShape:
    rows = [dataset[key] for key in keys]
    batch = collator(rows)
    tokens, labels = sum(len(row.input_ids) for row in rows), len(batch["label_positions"])
    return BatchShape(keys, tokens, batch["input_ids"].numel(), labels, logit_positions=labels)


def _now() -> float:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


class _StepTimer(TrainerCallback):
    """Callback that measures the seconds of each step and of its optimizer update, and stops after `limit` seconds.

    The first two steps always count: the warmup, and the one with the largest micro-batch.
    """

    def __init__(self, limit: float = PROBE_SECONDS) -> None:
        self.steps: list[float] = []
        self.updates: list[float] = []
        self._last = self._update = 0.0
        self._limit = limit

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._last = _now()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._update = _now()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.updates.append(_now() - self._update)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        now = _now()
        self.steps.append(now - self._last)
        self._last = now
        control.should_training_stop |= len(self.steps) > 1 and sum(self.steps[1:]) > self._limit


def probe(trainer: Any, planned: Plan) -> Estimate:
    """Train on a few micro-batches, including the largest, and extrapolate. The model is unusable afterwards.

    The anchor's forward over the benign rows is measured on those of the probe.
    """
    estimated = measure(trainer, planned).estimate(planned)
    anchors = [one for one in trainer.callback_handler.callbacks if isinstance(one, AnchorCallback)]
    return estimated._replace(seconds=estimated.seconds + sum(one.seconds for one in anchors))


def measure(trainer: Any, planned: Plan) -> Speed:
    """Train on a few micro-batches, including the largest, and return the speed. The model is unusable afterwards.

    Time is assumed to grow with the multiplications: the trunk's weights times padded tokens, and the head's weights
    times the positions that logits are computed for. The first step, of a small micro-batch, also has what comes once.
    """
    accumulation = min(2, trainer.args.gradient_accumulation_steps)
    probed = _choose(planned.sampled, accumulation=accumulation)
    trainer.set_micro_batches([shape.keys for shape in probed])
    trainer.args.gradient_accumulation_steps = accumulation
    trainer.args.max_steps = len(probed) // accumulation
    timer = _StepTimer()
    trainer.add_callback(timer)
    trainer.train()
    measured = probed[accumulation : accumulation * len(timer.steps)]
    return _speed(probed[:accumulation], measured, timer=timer, weights=_weights(trainer.model))


def _speed(
    first: Sequence[BatchShape], others: Sequence[BatchShape], *, timer: _StepTimer, weights: tuple[int, int]
) -> Speed:
    """Return the speed of measured micro-batches: those of the `first` step, and the `others`."""
    update = sum(timer.updates[1:]) / len(timer.updates[1:])
    per_unit = (sum(timer.steps[1:]) - sum(timer.updates[1:])) / _cost(others, weights)
    warmup = max(0.0, timer.steps[0] - per_unit * _cost(first, weights) - update)
    return Speed(warmup, per_unit, update, weights, peak_memory())


def _cost(shapes: Sequence[BatchShape], weights: tuple[int, int]) -> float:
    trunk, head = weights
    return float(sum(trunk * shape.padded + head * shape.logit_positions for shape in shapes))


def _choose(sampled: Sequence[BatchShape], *, accumulation: int) -> list[BatchShape]:
    """Return the micro-batches of the probe: a step of the smallest, the two largest, and some spaced evenly."""
    spaced = [sampled[i * len(sampled) // NUM_SPACED] for i in range(NUM_SPACED)]
    smallest = min(sampled, key=lambda shape: shape.padded)
    largest = max(sampled, key=lambda shape: shape.padded)
    most_logits = max(sampled, key=lambda shape: shape.logit_positions)
    return [*[smallest] * accumulation, largest, most_logits, *spaced]


def _weights(net: Any) -> tuple[int, int]:
    """Return the number of weights that are used by a token in the trunk, and by a label in the head."""
    base = net.get_base_model() if hasattr(net, "get_base_model") else net  # only PEFT's wrapper has it
    head = sum(p.numel() for p in base.get_output_embeddings().parameters())
    embedding = base.get_input_embeddings().weight.numel()
    return sum(p.numel() for p in base.get_decoder().parameters()) - embedding, head


class TrainingCost(NamedTuple):
    """Cost of a training run: optimizer steps, rows and tokens read in them, and seconds since the last start."""

    steps: int
    rows: int
    tokens: int
    seconds: float


def training_cost(model: Path, *, instances: Sequence[Instance], config: DertaConfig, seed: int) -> TrainingCost:
    """Compute the cost of a saved model that one process trained in steps of `global_batch_size` rows."""
    log = json.loads((model / "train_log.json").read_text(encoding="utf-8"))
    steps = next(entry["step"] for entry in reversed(log) if "step" in entry)
    seconds = next(entry["train_runtime"] for entry in reversed(log) if "train_runtime" in entry)
    lengths = list(_lengths(instances, config=config, seed=seed, steps=steps))
    return TrainingCost(steps, len(lengths), sum(lengths), seconds)


def _lengths(instances: Sequence[Instance], *, config: DertaConfig, seed: int, steps: int) -> Iterable[int]:
    """Yield the length of every row of the first `steps` steps; an epoch's last step may have fewer micro-batches."""
    dataset = RowDataset(instances, config=config, seed=seed)
    accumulation = accumulation_steps(config, num_processes=1)
    sampler = MicroBatchSampler(
        dataset, settings=StepSettings(config.per_device_train_batch_size, accumulation), seed=seed
    )
    steps_per_epoch = -(-len(sampler) // accumulation)
    for epoch in islice(count(), -(-steps // steps_per_epoch)):
        sampler.set_epoch(epoch)
        remaining = min(steps - epoch * steps_per_epoch, steps_per_epoch)
        for key in chain.from_iterable(islice(iter(sampler), remaining * accumulation)):
            yield dataset.length(*key)
