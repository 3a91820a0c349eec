"""TRL's SFTTrainer on the rows of one optimizer step at a time, for the training benchmark."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.state import GradientState
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback

from derta import DertaTrainer
from derta.data.rows import TrainRow


@contextmanager
def stock(model: PreTrainedModel) -> Iterator[None]:
    """Run the block with the model as it was loaded: its stock forward, not compiled, all gradients by autograd."""
    embedding = model.get_input_embeddings()
    in_place = embedding.__dict__.pop("forward", None)
    compiled = {module: module._compiled_call_impl for module in model.modules()}
    for module in compiled:
        module._compiled_call_impl = None
    forwards = {name: model.__dict__.pop(name, None) for name in ("forward", "_original_forward")}
    yield
    for name, forward in forwards.items():
        model.__dict__.pop(name, None)
        if forward is not None:
            model.__dict__[name] = forward
    for module, call in compiled.items():
        module._compiled_call_impl = call
    if in_place is not None:
        embedding.forward = in_place


class Stopwatch(TrainerCallback):
    """Calls `start` when a training starts and `stop` when a step ends."""

    def __init__(self, start: Callable[[], None], stop: Callable[[], None]) -> None:
        self.start, self.stop = start, stop

    def on_train_begin(self, *_, **__):
        self.start()

    def on_step_end(self, *_, **__):
        self.stop()


class SftSteps:
    """TRL's SFTTrainer on one step's rows at a time; a new trainer for each, around the same model and optimizer."""

    def __init__(self, args: argparse.Namespace, folder: str) -> None:
        import datasets
        from trl import SFTConfig

        datasets.disable_progress_bars()
        self.micro_rows = args.trl_micro_rows
        self.padding_free = args.trl_padding_free
        self.config = SFTConfig(
            folder, max_steps=1, per_device_train_batch_size=args.trl_micro_rows,
            gradient_accumulation_steps=args.rows // args.trl_micro_rows,
            lr_scheduler_type="constant", bf16=args.dtype == "bf16", gradient_checkpointing=False,
            max_length=None if self.padding_free else args.max_length, padding_free=self.padding_free,
            train_sampling_strategy="sequential", save_strategy="no", logging_strategy="no", report_to="none",
            disable_tqdm=True, seed=0, use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
        )  # fmt: skip

    def padding(self, rows: Sequence[TrainRow]) -> float:
        """Return the share of padding in its micro-batches."""
        lengths = [len(row.input_ids) for row in rows]
        size = len(lengths) if self.padding_free else self.micro_rows
        parts = [lengths[i : i + size] for i in range(0, len(lengths), size)]
        return 0.0 if self.padding_free else 1 - sum(lengths) / sum(len(part) * max(part) for part in parts)

    def step(self, trainer: DertaTrainer, rows: Sequence[TrainRow], *, stopwatch: TrainerCallback) -> None:
        """Train one step; the stopwatch runs from the start of the training to the end of the step."""
        from datasets import Dataset
        from trl import SFTTrainer

        dataset = Dataset.from_list([{"input_ids": row.input_ids, "labels": row.labels} for row in rows])
        shared = dict(GradientState._shared_state)  # one for all accelerators of a process
        model: Any = trainer.model
        with stock(model):
            sft = SFTTrainer(
                model, self.config, train_dataset=dataset, processing_class=trainer.processing_class,
                callbacks=[stopwatch], optimizers=(trainer.optimizer, None),
            )  # fmt: skip
            if len(sft.train_dataset) != len(rows):
                raise SystemExit(f"expected TRL to train on {len(rows)} rows, got {len(sft.train_dataset)}")
            sft.remove_callback(PrinterCallback)
            sft.train()
        GradientState._shared_state.clear()
        GradientState._shared_state.update(shared)
