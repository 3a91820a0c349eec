"""What a training will take, from its own batches and a few of them run for real; and what one took."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from itertools import chain, count, islice
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from derta.data.rows import Instance
from derta.train.checks import accumulation_steps
from derta.train.config import DertaConfig
from derta.train.dataset import MicroBatchSampler, RowDataset, StepSettings
from derta.train.memory import peak_memory
from derta.train.trainer import DertaTrainer

Keys = list[Any]
MAX_SAMPLED = 2000
NUM_PROBED = 4


class BatchShape(NamedTuple):
    """A micro-batch: its rows' keys, their tokens, the tokens it has with padding, its labels, and what meets the head.

    A row's key is the epoch and its index; a pair's is its index.
    """

    keys: Keys
    tokens: int
    padded: int
    labels: int
    logit_positions: int


class Plan(NamedTuple):
    """Work of a whole training run, extrapolated from the `sampled` micro-batches of its first epoch."""

    rows: int
    steps: int
    micro_batches: int
    tokens: int
    labels: int
    padding: float
    sampled: tuple[BatchShape, ...]


class Estimate(NamedTuple):
    """What a training will take: seconds without loading the model, and bytes at the peak."""

    seconds: float
    peak_bytes: int


def plan(trainer: DertaTrainer) -> Plan:
    """Count rows, tokens, labels and steps by drawing the first epoch's micro-batches, or the first of very many."""
    sampler: Any = trainer.micro_batches
    sampler.set_epoch(0)
    sampled = [_shape(trainer, keys) for keys in islice(sampler, MAX_SAMPLED)]
    return plan_from_sample(sampled, trainer.args, batches_per_epoch=len(sampler))


def plan_from_sample(sampled: Sequence[BatchShape], arguments: TrainingArguments, *, batches_per_epoch: int) -> Plan:
    """A plan from the micro-batches sampled, of which an epoch has `batches_per_epoch`."""
    steps_an_epoch = ceil(batches_per_epoch / arguments.gradient_accumulation_steps)
    steps = arguments.max_steps if arguments.max_steps > 0 else ceil(arguments.num_train_epochs * steps_an_epoch)
    micro_batches = round(steps / steps_an_epoch * batches_per_epoch)
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


def _shape(trainer: DertaTrainer, keys: Keys) -> BatchShape:
    dataset: Any = trainer.train_dataset
    rows = [dataset[key] for key in keys]
    batch = trainer.data_collator(rows)
    tokens, labels = sum(len(row.input_ids) for row in rows), len(batch["label_positions"])
    return BatchShape(keys, tokens, batch["input_ids"].numel(), labels, logit_positions=labels)


def _now() -> float:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


class _StepTimer(TrainerCallback):
    """Times each step, and its optimizer's part."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.updates: list[float] = []
        self._last = self._update = 0.0

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


def probe(trainer: Any, planned: Plan) -> Estimate:
    """Train on a few micro-batches (the largest among them) and scale up; the model is of no use afterwards.

    Time is taken to grow with the multiplications: trunk weights by padded tokens, head weights by what meets the head.
    What the first step takes beyond that (compiling, the optimizer's state) is taken to come once.
    """
    chosen, together = _choose(planned.sampled), min(2, trainer.args.gradient_accumulation_steps)
    trainer.set_micro_batches([shape.keys for shape in chosen])
    trainer.args.gradient_accumulation_steps = together
    trainer.args.max_steps = len(chosen) // together
    watch = _StepTimer()
    trainer.add_callback(watch)
    trainer.train()
    seconds = _seconds(planned, chosen[:together], chosen[together:], watch=watch, weights=_weights(trainer.model))
    return Estimate(seconds, peak_memory())


def _seconds(
    planned: Plan,
    first: Sequence[BatchShape],
    others: Sequence[BatchShape],
    *,
    watch: _StepTimer,
    weights: tuple[int, int],
) -> float:
    """What all takes, from what the `first` step's micro-batches and the `others`' took."""
    trunk, head = weights

    def cost(shapes: Sequence[BatchShape]) -> float:
        return float(sum(trunk * shape.padded + head * shape.logit_positions for shape in shapes))

    update = sum(watch.updates[1:]) / len(watch.updates[1:])
    pace = (sum(watch.steps[1:]) - sum(watch.updates[1:])) / cost(others)
    warm_up = max(0.0, watch.steps[0] - pace * cost(first) - update)
    whole = cost(planned.sampled) * planned.micro_batches / len(planned.sampled)
    return warm_up + pace * whole + planned.steps * update


def _choose(sampled: Sequence[BatchShape]) -> list[BatchShape]:
    """Micro-batches to run: two to warm up, the two largest, and some that lie evenly among all."""
    evenly = [sampled[i * len(sampled) // NUM_PROBED] for i in range(NUM_PROBED)]
    largest = max(sampled, key=lambda shape: shape.padded)
    most_logits = max(sampled, key=lambda shape: shape.logit_positions)
    return [evenly[0], evenly[-1], largest, most_logits, *evenly]


def _weights(net: Any) -> tuple[int, int]:
    """Weights that a token meets in the trunk, and a label in the head."""
    base = net.get_base_model() if hasattr(net, "get_base_model") else net  # PEFT's wrapper has it, a plain model not
    head = sum(p.numel() for p in base.get_output_embeddings().parameters())
    embedding = base.get_input_embeddings().weight.numel()
    return sum(p.numel() for p in base.get_decoder().parameters()) - embedding, head


class TrainingCost(NamedTuple):
    """Optimizer steps, the rows and tokens that were read in them, and seconds since the last start."""

    steps: int
    rows: int
    tokens: int
    seconds: float


def training_cost(model: Path, *, instances: Sequence[Instance], config: DertaConfig, seed: int) -> TrainingCost:
    """What the model of a folder cost, trained by one process in steps of `global_batch_size` rows."""
    log = json.loads((model / "train_log.json").read_text(encoding="utf-8"))
    steps = next(entry["step"] for entry in reversed(log) if "step" in entry)
    seconds = next(entry["train_runtime"] for entry in reversed(log) if "train_runtime" in entry)
    lengths = list(_lengths(instances, config=config, seed=seed, steps=steps))
    return TrainingCost(steps, len(lengths), sum(lengths), seconds)


def _lengths(instances: Sequence[Instance], *, config: DertaConfig, seed: int, steps: int) -> Iterable[int]:
    """The length of every row of the first steps; the last step of an epoch may have fewer micro-batches."""
    dataset = RowDataset(instances, config=config, seed=seed)
    accumulated = accumulation_steps(config, num_processes=1)
    sampler = MicroBatchSampler(
        dataset, settings=StepSettings(config.per_device_train_batch_size, accumulated), seed=seed
    )
    batches_per_epoch = -(-len(sampler) // accumulated)
    for epoch in islice(count(), -(-steps // batches_per_epoch)):
        sampler.set_epoch(epoch)
        left = min(steps - epoch * batches_per_epoch, batches_per_epoch)
        for key in chain.from_iterable(islice(iter(sampler), left * accumulated)):
            yield dataset.length(*key)
