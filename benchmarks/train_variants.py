"""Variants of a training step for the training benchmark: that of `DertaTrainer` and the same rows in other ways."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from contextlib import nullcontext
from math import ceil

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback
from trl_steps import SftSteps, Stopwatch, stock

from derta import DertaTrainer
from derta.data.rows import IGNORE, TrainRow
from derta.train.memory import peak_memory, reset_peak_memory

MEMORY_STEP = 1
"""The step in which memory is measured."""


def now() -> float:
    """Return the time in seconds, after all queued GPU work is finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def relabel(row: TrainRow, rng: random.Random, padded_length: int) -> list[int]:
    """Return a row's labels as the released loop computes them in Python: every twentieth position of an RTO row."""
    if row.term != "rto":
        return row.labels
    labelled = set(rng.sample(range(padded_length), ceil(padded_length / 20)))
    filled = [label if label != IGNORE else None for label in row.labels]
    word = next(label for label in filled if label is not None)
    start = next(i for i, label in enumerate(filled) if label is not None)
    return [word if i in labelled and i >= start else IGNORE for i in range(len(row.labels))]


class Variants(TrainerCallback):
    """Timer of each step of the Trainer and of the same rows in the other variants."""

    def __init__(self, args: argparse.Namespace, model: PreTrainedModel, sft: SftSteps | None) -> None:
        self.args, self.model, self.sft = args, model, sft
        self.rng = random.Random(0)  # noqa: S311
        self.seconds: dict[str, list[float]] = {}
        self.cpu_seconds: dict[str, list[float]] = {}
        self.peaks: dict[str, float] = {}
        self.tokens: list[int] = []
        self.labelled: list[int] = []
        self.padding: dict[str, list[float]] = {}
        self.step = 0
        self.micro_batches: list[tuple[dict, list]] = []  # collated and not yet trained on
        self.batches: list[dict] = []
        self.rows: list[TrainRow] = []
        self.after_step: Callable[[], None] = lambda: None

    def record(self, trainer: DertaTrainer) -> None:
        """Record the Trainer's micro-batches without changing its training."""
        self.trainer = trainer
        collate = trainer.data_collator

        def recording(rows):
            batch = collate(rows)
            self.micro_batches.append((batch, rows))
            return batch

        trainer.data_collator = recording

    def on_train_begin(self, *_, **__):
        self.start()

    def start(self):
        """Start the timer; to measure memory, first free the memory of the previous variant.

        The next variant must then allocate its pages again, so the time of such a step is not counted.
        """
        if self.step == MEMORY_STEP:
            reset_peak_memory()
        self.started, self.started_cpu = now(), time.process_time()

    def on_step_end(self, args, state, control, **_):
        self.stop("derta")
        count = self.trainer.args.gradient_accumulation_steps  # the loader is one micro-batch ahead
        self.batches = [batch for batch, _ in self.micro_batches[:count]]
        self.rows = [row for _, rows in self.micro_batches[:count] for row in rows]
        del self.micro_batches[:count]
        self.tokens.append(sum(len(row.input_ids) for row in self.rows))
        self.labelled.append(sum(len(batch["label_positions"]) for batch in self.batches))
        self.padding.setdefault("derta", []).append(
            1 - self.tokens[-1] / sum(batch["input_ids"].numel() for batch in self.batches)
        )
        if "floor" not in self.args.skip:
            self.time("floor", self.floor_step)
        if "reference" in self.args.against:
            self.time("reference", self.reference_step)
        if self.sft is not None:
            stopwatch = Stopwatch(self.start, lambda: self.stop("trl"))
            self.sft.step(self.trainer, self.rows, stopwatch=stopwatch)
            self.padding.setdefault("trl", []).append(self.sft.padding(self.rows))
        self.step += 1
        self.after_step()
        self.start()

    def time(self, name, step):
        self.start()
        step()
        self.stop(name)

    def stop(self, name):
        self.seconds.setdefault(name, []).append(now() - self.started)
        self.cpu_seconds.setdefault(name, []).append(time.process_time() - self.started_cpu)
        if self.step == MEMORY_STEP:
            self.peaks[name] = peak_memory()

    def autocast(self):
        device = self.trainer.args.device.type
        return torch.autocast(device, torch.bfloat16) if self.args.dtype == "bf16" else nullcontext()

    def reference_step(self):
        """Train one step like the released loop: not compiled, all gradients by autograd; the first is a warm-up."""
        with stock(self.model):
            self.reference_micro_batches()

    def reference_micro_batches(self):
        device = self.trainer.args.device
        rows = self.rng.sample(self.rows, len(self.rows))
        size = self.args.reference_micro_rows
        micro = [rows[i : i + size] for i in range(0, len(rows), size)][: None if self.step else 1]
        padded, tokens = 0, sum(len(row.input_ids) for batch in micro for row in batch)
        for batch in micro:
            width = -(-max(len(row.input_ids) for row in batch) // 8) * 8
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
            for i, row in enumerate(batch):
                length = len(row.input_ids)
                ids[i, :length], mask[i, :length] = torch.tensor(row.input_ids), 1
                labels[i, :length] = torch.tensor(relabel(row, self.rng, width))
            padded += ids.numel()
            with self.autocast():
                output = self.model(input_ids=ids.to(device), attention_mask=mask.to(device), labels=labels.to(device))
            (output.loss.nan_to_num() / len(micro)).backward()
        self.padding.setdefault("reference", []).append(1 - tokens / padded)
        self.update()

    def floor_step(self):
        device = self.trainer.args.device
        for batch in self.batches:
            with self.autocast():
                trunk = self.model.get_decoder()(
                    input_ids=batch["input_ids"].to(device), position_ids=batch["position_ids"].to(device),
                    use_cache=False,
                )  # fmt: skip
                hidden = trunk.last_hidden_state.flatten(0, 1)[batch["label_positions"].to(device)]
            Projection.apply(hidden, self.model.get_output_embeddings().weight, self.args.dtype).backward()
        self.model.zero_grad()

    def update(self):
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.trainer.optimizer.step()
        self.model.zero_grad()


class Projection(torch.autograd.Function):
    """Projection of the labelled positions with its two gradients, with a constant output gradient."""

    @staticmethod
    def forward(ctx, hidden, weight, dtype):
        compute = torch.bfloat16 if dtype == "bf16" else torch.float32
        states, matrix = hidden.to(compute), weight.to(compute)
        grad_hidden, grad_weight = torch.empty_like(states), torch.zeros_like(weight)
        for part in torch.arange(len(states)).split(512):
            logits = states[part] @ matrix.T
            grad_hidden[part] = logits @ matrix
            grad_weight += logits.T @ states[part]
        ctx.save_for_backward(grad_hidden.to(hidden.dtype), grad_weight)
        return hidden.sum() * 0

    @staticmethod
    def backward(ctx, grad):
        return *ctx.saved_tensors, None


def matmul_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Return the FLOP/s of a large square product, the best of several."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        start = now()
        a @ b
        best = min(best, now() - start)
    return 2 * size**3 / best
