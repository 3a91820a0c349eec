"""Computation of the anchor before training: one forward of the base model over the benign rows."""

from __future__ import annotations

import shutil
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from derta.data.rows import TrainRow
from derta.data.train_row import Anchor
from derta.errors import RecipeError
from derta.train.anchors import (
    FOLDER,
    AnchorPlan,
    AnchorStore,
    benign_rows,
    check_anchors,
    plan_anchors,
    write_anchors,
)
from derta.train.collator import collate
from derta.train.dataset import RowDataset
from derta.train.loss import model_inputs

if TYPE_CHECKING:
    from derta.train.trainer import DertaTrainer


class AnchorCallback(TrainerCallback):
    """Callback that computes the base model's probabilities when a training starts, and gives them to its dataset.

    A resumed training reads those of its start, because its weights are no longer the base's. With adapters, the base
    is the model with the adapters disabled.

    Raises:
        DataError: there are no benign rows.
        RecipeError: the vocabulary has fewer tokens than `anchor_top_k`.
    """

    def __init__(self, trainer: DertaTrainer) -> None:
        self._trainer = trainer
        self._folder = Path(str(trainer.args.output_dir)) / FOLDER
        self._rows = benign_rows(_dataset(trainer))
        self._seconds_per_token = 0.0
        net: Any = trainer.model
        vocab = int(net.config.get_text_config().vocab_size)
        if trainer.args.anchor_top_k > vocab:
            raise RecipeError(
                f"expected at most the vocabulary ({vocab}), got {trainer.args.anchor_top_k}", key="anchor_top_k"
            )

    @property
    def seconds(self) -> float:
        """Estimated seconds for all benign rows, from those computed."""
        return self._seconds_per_token * sum(_dataset(self._trainer).length(0, index) for index in self._rows)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Compute the files, or validate those of a stopped training."""
        del args, control
        trainer, dataset = self._trainer, _dataset(self._trainer)
        dataset.anchors = None
        rows, start = self._used_rows(), time.perf_counter()
        plan = plan_anchors(dataset, rows)
        if state.global_step:
            check_anchors(self._folder, plan, top_k=trainer.args.anchor_top_k)
        else:
            compute_anchors(trainer, plan, folder=self._folder)
        dataset.anchors = AnchorStore(self._folder, plan)
        tokens = sum(dataset.length(0, index) for index in rows)
        self._seconds_per_token = (time.perf_counter() - start) / tokens

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Delete the files if there are no checkpoints to resume from."""
        del state, control
        if args.save_strategy == "no":
            _dataset(self._trainer).anchors = None
            if self._trainer.is_world_process_zero():
                shutil.rmtree(self._folder, ignore_errors=True)

    def _used_rows(self) -> list[int]:
        """Return the indices of the rows to compute: all, or those of fixed micro-batches (a probe)."""
        fixed = self._trainer.micro_batches
        if not isinstance(fixed, list):
            return self._rows
        used = {index for keys in fixed for _, index in keys}
        return [index for index in self._rows if index in used] or self._rows[:1]


def _dataset(trainer: DertaTrainer) -> RowDataset:
    dataset: Any = trainer.train_dataset
    return dataset


def compute_anchors(trainer: DertaTrainer, plan: AnchorPlan, *, folder: Path) -> None:
    """Compute the files of a plan; processes share the work, and do the same number of forwards."""
    args = trainer.args
    if trainer.is_world_process_zero():
        shutil.rmtree(folder, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    rounds = _rounds(plan, rows=args.per_device_train_batch_size, processes=args.world_size)
    was_training = trainer.model.training  # pyright: ignore[reportOptionalMemberAccess]
    net: Any = trainer.model_wrapped
    net.eval()
    with torch.no_grad(), trainer.compute_loss_context_manager(), without_adapters(net):
        done = 0
        for number in range(args.process_index, len(plan.files), args.world_size):
            parts = []
            for rows in _batches(trainer, plan.files[number].rows):
                parts.append(_top_tokens(trainer, net, rows))
                done += 1
            whole = Anchor(*(torch.cat(columns).cpu() for columns in zip(*parts, strict=True)))
            write_anchors(folder, number, whole, digest=plan.files[number].digest)
        for _ in range(rounds - done):
            _top_tokens(trainer, net, [])
    net.train(was_training)
    trainer.accelerator.wait_for_everyone()
    check_anchors(folder, plan, top_k=args.anchor_top_k)


def _rounds(plan: AnchorPlan, *, rows: int, processes: int) -> int:
    """Return the forwards of the process with the most work."""
    counts = [-(-len(file.rows) // rows) for file in plan.files]
    return max(sum(counts[process::processes]) for process in range(processes))


def _batches(trainer: DertaTrainer, indices: Sequence[int]) -> Generator[list[TrainRow]]:
    dataset: Any = _dataset(trainer)
    size = trainer.args.per_device_train_batch_size
    for start in range(0, len(indices), size):
        yield [dataset[0, index] for index in indices[start : start + size]]


def _top_tokens(trainer: DertaTrainer, net: nn.Module, rows: Sequence[TrainRow]) -> Anchor:
    """Return the most probable tokens at all labels of some rows, which are sorted by length, longest first."""
    batch = collate(rows, capacity=0, pad_id=0)  # a bin per row, in this order
    inputs = model_inputs(batch)
    names = ("input_ids", "position_ids", "label_positions")
    on_device = {name: inputs[name].to(trainer.accelerator.device) for name in names}
    return net(**on_device, top_k=trainer.args.anchor_top_k)


@contextmanager
def without_adapters(net: nn.Module) -> Generator[None]:
    """Disable all adapters of a model in this block, also of a wrapped one.

    Unlike PEFT's `disable_adapter` it leaves `requires_grad` as it is, which FSDP reads at the first forward.
    """
    layers: list[Any] = [one for one in net.modules() if isinstance(one, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
