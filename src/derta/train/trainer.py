"""The Hugging Face Trainer with DeRTa's loss: terms logged apart, rows redrawn every epoch, faults told by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, TrainerControl, TrainerState

from derta.data.rows import TERMS, Instance, RowSettings, TrainRow
from derta.errors import DertaError
from derta.train.collator import LossSettings, collate
from derta.train.dataset import MicroBatchSampler, RowDataset, Sharing, StepSettings
from derta.train.memory import GiveBackHoles


class NonFiniteLossError(DertaError):
    """The loss became NaN or infinite; the message names the rows."""


def check_norm(norm: Any, *, args: TrainingArguments, step: int) -> Any:
    """The gradients' norm, if it is finite; in fp16 the scaler passes over a step whose norm is not.

    Raises:
        NonFiniteLossError: it is not.
    """
    if norm is not None and not args.fp16 and not math.isfinite(float(norm)):
        raise NonFiniteLossError(
            f"step {step}: expected gradients of a finite norm, got {float(norm)}; lower the learning rate"
        )
    return norm


class _SetEpoch(TrainerCallback):
    """Tells the sampler which epoch begins; the Trainer does not reach it under every wrapper."""

    def __init__(self, sampler: MicroBatchSampler) -> None:
        self._sampler = sampler

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        del args, control
        self._sampler.set_epoch(math.floor((state.epoch or 0.0) + 1e-6))


class DertaTrainer(Trainer):
    """Trains on drawn rows; `log` adds `loss_helpful`, `loss_safe`, `loss_rto` and `refusal_probability`.

    A step's loss is divided by what `collate` counts in all of its micro-batches on all devices, so how a batch is cut
    up never changes a step; with `mean_by_micro_batch` each micro-batch takes its own mean instead, as the released
    code does (there a micro-batch without labels is NaN, here it is 0). Checkpoints, schedulers, mixed precision,
    `report_to` and resuming are the Trainer's own.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        model: PreTrainedModel | nn.Module,
        args: TrainingArguments,
        instances: Sequence[Instance],
        tokenizer: PreTrainedTokenizerBase,
        row_settings: RowSettings,
        pack_tokens: int,
        loss: LossSettings | None = None,
        sharing: Sharing = "order",
        step_tokens: int | None = None,
        mean_by_micro_batch: bool = False,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        dataset = RowDataset(instances, settings=row_settings, seed=args.seed)
        steps = StepSettings(
            micro_rows=args.per_device_train_batch_size,
            micro_batches=args.gradient_accumulation_steps,
            num_processes=args.world_size,
            step_tokens=step_tokens,
            sharing=sharing,
        )
        sampler = MicroBatchSampler(dataset, settings=steps, seed=args.seed, process_index=args.process_index)
        self.micro_batches: MicroBatchSampler | Sequence[list[tuple[int, int]]] = sampler
        self._mean_by_micro_batch = mean_by_micro_batch
        self._term_sums = torch.zeros(2 * len(TERMS) + 1)
        super().__init__(
            model=model,
            args=args,
            train_dataset=dataset,
            data_collator=partial(collate, capacity=pack_tokens, pad_id=int(str(pad_id)), loss=loss or LossSettings()),
            processing_class=tokenizer,
            callbacks=[*(callbacks or []), _SetEpoch(sampler), GiveBackHoles()],
        )
        self.model_accepts_loss_kwargs = True
        self.remove_callback(PrinterCallback)  # standard output is the command's

    def get_train_dataloader(self) -> DataLoader[TrainRow]:
        """The sampler shares a step out among processes itself, so nothing is sharded, padded or repeated here."""
        args = self.args
        rows: Any = self.train_dataset
        loader = DataLoader(
            rows,
            batch_sampler=self.micro_batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        return prepare_data_loader(
            loader, device=self.accelerator.device, num_processes=1, process_index=0, put_on_device=True
        )

    def read_only(self, micro_batches: Sequence[list[tuple[int, int]]]) -> None:
        """Train on these micro-batches of (epoch, row), once, in place of the sampler's."""
        self.micro_batches = micro_batches

    def _prepare_inputs(self, inputs: dict[str, Tensor | Any]) -> dict[str, Tensor | Any]:
        """The loader has put them on the device; the Trainer would round the weights to 16 bits under DeepSpeed."""
        return inputs

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Tensor | None:
        """What the step's loss is divided by, over all of its micro-batches on all devices."""
        if not batch_samples:
            return None
        items = torch.stack([batch["items"] for batch in batch_samples]).sum().to(device)
        if self.args.world_size == 1:
            return items
        gathered: Any = self.accelerator.gather(items)
        return gathered.sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The step's share of this micro-batch: its weighted losses over what the step is divided by."""
        row_ids: Any = inputs.pop("row_ids")
        items = inputs.pop("items")
        if self._mean_by_micro_batch:
            factor = 1 / (items.clamp(min=1) * self.current_gradient_accumulation_steps)
        else:
            count = torch.as_tensor(items if num_items_in_batch is None else num_items_in_batch, device=items.device)
            # the count is all devices'; DDP and FSDP will take the mean over them
            factor = self.accelerator.num_processes / count.clamp(min=1)
        if not self.args.fp16:  # which has no room for weights so small
            inputs["weights"] = inputs["weights"] * factor
        outputs = model(**inputs)
        if not torch.isfinite(outputs.loss):
            raise NonFiniteLossError(_describe_fault(outputs, inputs["input_ids"], row_ids, self.state.global_step))
        loss = outputs.loss * factor if self.args.fp16 else outputs.loss
        self._term_sums = self._term_sums.to(outputs.loss.device)
        self._term_sums += torch.cat([outputs.loss_sums, outputs.counts, outputs.refusal_sum[None]]).detach()
        return (loss, outputs) if return_outputs else loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        return check_norm(super()._clip_grad_norm(model), args=self.args, step=self.state.global_step)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the terms' own mean losses since the last log, and the probability of refusing on harmful positions."""
        if "loss" in logs:
            reduced: Any = self.accelerator.reduce(self._term_sums, reduction="sum")
            sums = reduced.tolist()
            losses, counts, refusal = sums[: len(TERMS)], sums[len(TERMS) : -1], sums[-1]
            for term, total, count in zip(TERMS, losses, counts, strict=True):
                if count:
                    logs[f"loss_{term}"] = round(total / count, 4)
            if counts[-1]:
                logs["refusal_probability"] = round(refusal / counts[-1], 4)
            self._term_sums.zero_()
        super().log(logs, start_time)


def _describe_fault(outputs: Any, input_ids: Tensor, row_ids: Sequence[str], step: int) -> str:
    got = float(outputs.loss.detach())
    by_term = {term: float(x) for term, x in zip(TERMS, outputs.loss_sums, strict=True)}
    return (
        f"step {step}: expected a finite loss, got {got} (sums by term {by_term}) on a micro-batch of "
        f"{input_ids.numel()} tokens, rows {', '.join(row_ids)}; lower the learning rate, or use bf16 instead of fp16"
    )
