"""`DertaTrainer`: the Hugging Face Trainer with a method's rows and loss; terms are logged apart, faults by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from derta.chat import refusal_tokens
from derta.data.mixture import TrainingSet
from derta.data.rows import TERMS, TrainRow
from derta.errors import RecipeError
from derta.methods import find_method
from derta.records import Example, Triple
from derta.train.checkpoints import NonFiniteLossError, push_checkpoint, save_without_pickle
from derta.train.collator import Batch, collate
from derta.train.config import DertaConfig
from derta.train.dataset import MicroBatchSampler, RowDataset, StepSettings, ready_rows
from derta.train.distributed import check_launch, configure_fsdp
from derta.train.loss import label_loss
from derta.train.memory import TrimMemoryCallback, keep_freed_memory
from derta.train.preparation import Rows, chat_of, encode_rows, micro_batches_of_a_step, prepare_model, tokenizer_of


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
    """Trains a model with one of derta's methods, or your own; all of it is set up here.

    `log` adds `loss_helpful`, `loss_safe`, `loss_rto` and `refusal_probability`, `evaluate` the same of the evaluation
    set. A step's loss is divided by what `collate` counts in all of its micro-batches on all devices, so how a batch is
    cut up never changes a step; with `normalization="micro_batch"` each micro-batch takes its own mean instead, as the
    released code does (there a micro-batch without labels is NaN, here it is 0). Checkpoints, schedulers, mixed
    precision, `report_to`, resuming and pushing are the Trainer's own. Training arguments are saved as JSON without
    secrets; a checkpoint's `optimizer.pt`, `scheduler.pt` and `rng_state.pth` are torch's files, which are read back
    with `weights_only`, and the folder of a finished model has none.

    >>> from tempfile import mkdtemp
    >>> from derta.demo import corpus, model, world
    >>> crafts = world.build_world(seed=0)
    >>> tokenizer = model.build_tokenizer(crafts)
    >>> trainer = DertaTrainer(
    ...     model.build_model(len(tokenizer), seed=0),
    ...     DertaConfig(mkdtemp(), method="derta", max_length=128, max_steps=1),
    ...     triples=corpus.triples(crafts)[:4],
    ...     examples=corpus.helpful_examples(crafts)[:8],
    ...     processing_class=tokenizer,
    ... )
    >>> len(trainer.train_dataset)  # two rows of each triple, one of each example; then trainer.train()
    16

    Args:
        model: A name or folder, or a loaded causal LM, with adapters or without.
        args: The settings.
        triples: What a safe and a harmful response are learned from. They are taken as they are: `derta.prepare` cleans
            and mixes.
        examples: Helpful conversations.
        train_dataset: Ready rows in their place: `input_ids`, `labels` (-100: not learned), `term` (one of `TERMS`), or
            instances of `data.rows`.
        eval_dataset: Ready rows to evaluate on.
        eval_triples: Triples to evaluate on.
        eval_examples: Examples to evaluate on.
        processing_class: The model's tokenizer; it is loaded with a model that is given by name.
        peft_config: Train adapters in place of the model.
        callbacks: As in `Trainer`.
        optimizers: As in `Trainer`.

    Raises:
        DataError: nothing to train on, or a triple whose safe response opens with no refusal word.
        ModelError: no such model, or one that cannot be trained so (packing, trees, another head).
        RecipeError: settings that do not fit the method or this machine.
    """

    loss_is_scaled_for_ga = True
    args: DertaConfig

    def __init__(
        self,
        model: str | Path | PreTrainedModel | PeftModel,
        args: DertaConfig,
        *,
        triples: Sequence[Triple] = (),
        examples: Sequence[Example] = (),
        train_dataset: Rows | None = None,
        eval_dataset: Rows | None = None,
        eval_triples: Sequence[Triple] = (),
        eval_examples: Sequence[Example] = (),
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
    ) -> None:
        method = find_method(args.method)
        if method.trainer is not None:
            raise RecipeError(f"method: {method.name} has a trainer of its own; use derta.methods.tune")
        check_launch()
        if args.num_threads:
            torch.set_num_threads(args.num_threads)
        keep_freed_memory()
        torch.manual_seed(args.seed)
        tokenizer = processing_class or tokenizer_of(model, args)
        encode = partial(encode_rows, method=method, tokenizer=tokenizer, config=args)
        rows = encode(TrainingSet(triples, examples), ready=train_dataset, what="triples=, examples= or train_dataset=")
        self._evaluated = bool(eval_dataset is not None or eval_triples or eval_examples)
        held = TrainingSet(eval_triples, eval_examples)
        eval_rows = encode(held, ready=eval_dataset, what="eval_triples=") if self._evaluated else None
        if args.step_tokens is not None:
            args.gradient_accumulation_steps = micro_batches_of_a_step(rows, args)
        self._loss = method.loss or label_loss
        self._sums = torch.zeros(2 * len(TERMS) + 1)
        self._eval_sums: Tensor | None = None
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        refusal_ids = refusal_tokens(chat_of(tokenizer, args), args.refusal_words).ids
        sampler = MicroBatchSampler(
            rows,
            settings=StepSettings(
                micro_rows=args.per_device_train_batch_size,
                micro_batches=args.gradient_accumulation_steps,
                num_processes=args.world_size,
                step_tokens=args.step_tokens,
                sharing=args.sharing,
            ),
            seed=args.rows_seed,
            process_index=args.process_index,
        )
        collator: Any = partial(
            collate,
            capacity=args.bin_capacity,
            pad_id=int(str(pad_id)),
            term_weights=args.term_weights,
            by_row=args.normalization == "row",
        )
        self.micro_batches: MicroBatchSampler | Sequence[list[tuple[int, int]]] = sampler
        super().__init__(
            model=prepare_model(model, args, refusal_ids=refusal_ids, peft_config=peft_config),
            args=args,
            train_dataset=rows,
            eval_dataset=eval_rows,
            data_collator=collator,
            processing_class=tokenizer,
            callbacks=[*(callbacks or []), _SetEpoch(sampler), TrimMemoryCallback()],
            optimizers=optimizers,
        )
        self.model_accepts_loss_kwargs = True
        configure_fsdp(self)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`; a checkpoint may also be named in the config."""
        return super().train(resume_from_checkpoint or self.args.resume_from_checkpoint, *args, **kwargs)

    def get_train_dataloader(self) -> DataLoader[TrainRow]:
        """The sampler shares a step out among processes itself, so nothing is sharded, padded or repeated here."""
        return self._loader(self.train_dataset, self.micro_batches)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[TrainRow]:
        """All rows of the evaluation set once, as the first epoch draws them, shared out among the processes."""
        chosen: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(chosen, str):
            chosen = self.eval_dataset[chosen]  # type: ignore[index]
        args = self.args
        rows = chosen if isinstance(chosen, RowDataset) else RowDataset(ready_rows(chosen), config=args, seed=args.seed)
        sampler = MicroBatchSampler(
            rows,
            settings=StepSettings(args.per_device_eval_batch_size, 1, args.world_size, None, args.sharing),
            seed=args.rows_seed,
            process_index=args.process_index,
        )
        return self._loader(rows, sampler)

    def _loader(self, rows: Any, batches: Any) -> DataLoader[TrainRow]:
        args = self.args
        loader = DataLoader(
            rows,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context if args.dataloader_num_workers else None,
            in_order=args.dataloader_in_order,
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

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> Tensor | None:
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
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The step's share of this micro-batch: its weighted losses over what the step is divided by."""
        items = inputs["items"]
        if self.args.mean_by_micro_batch:
            factor = 1 / (items.clamp(min=1) * self.current_gradient_accumulation_steps)
        else:
            count = torch.as_tensor(items if num_items_in_batch is None else num_items_in_batch, device=items.device)
            # the count is all devices'; DDP and FSDP will take the mean over them
            factor = self.accelerator.num_processes / count.clamp(min=1)
        if not self.args.fp16:  # which has no room for weights so small
            inputs["weights"] = inputs["weights"] * factor
        outputs: Any = self._loss(model, inputs)
        if not torch.isfinite(outputs.loss):
            raise NonFiniteLossError(_describe_fault(outputs, inputs, self.state.global_step))
        loss = outputs.loss * factor if self.args.fp16 else outputs.loss
        self._sums = self._sums.to(outputs.loss.device)
        self._sums += _term_sums(outputs)
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """A micro-batch of the evaluation set: its losses are added up, to be divided by all of its labels."""
        del prediction_loss_only, ignore_keys
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs: Any = self._loss(model, inputs)
        loss = outputs.loss.detach().float()
        if self._eval_sums is None:
            self._eval_sums = torch.zeros(2 * len(TERMS) + 3, device=loss.device)
        self._eval_sums += torch.cat([torch.stack([loss, inputs["items"].float()]), _term_sums(outputs)])
        return loss, None, None

    def evaluation_loop(self, dataloader: DataLoader[Any], description: str, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's; losses are those of the whole set, however it is cut up."""
        self._eval_sums = None
        found = super().evaluation_loop(dataloader, description, *args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        if self._eval_sums is not None and found.metrics is not None:
            reduced: Any = self.accelerator.reduce(self._eval_sums, reduction="sum")
            total, items, *sums = reduced.tolist()
            found.metrics[f"{prefix}_loss"] = total / max(1, items)
            found.metrics.update({f"{prefix}_{name}": value for name, value in _by_term(sums).items()})
        return found

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        return check_norm(super()._clip_grad_norm(model), args=self.args, step=self.state.global_step)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the terms' own mean losses since the last log, and the probability of refusing on harmful positions."""
        if "loss" in logs:
            reduced: Any = self.accelerator.reduce(self._sums, reduction="sum")
            logs |= {name: round(value, 4) for name, value in _by_term(reduced.tolist()).items()}
            self._sums.zero_()
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        save_without_pickle(self, Path(str(output_dir or self.args.output_dir)), state_dict)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        push_checkpoint(self, Path(checkpoint_folder))


def _term_sums(outputs: Any) -> Tensor:
    """Losses by term, labels by term, and the refusal probabilities: no number where a loss does not give them."""
    zeros = torch.zeros(len(TERMS), device=outputs.loss.device)
    sums = zeros if outputs.loss_sums is None else outputs.loss_sums
    counts = zeros if outputs.counts is None else outputs.counts
    refusal = zeros[0] + math.nan if outputs.refusal_sum is None else outputs.refusal_sum
    return torch.cat([sums, counts, refusal[None]]).detach().float()


def _by_term(sums: Sequence[float]) -> dict[str, float]:
    losses, counts, refusal = sums[: len(TERMS)], sums[len(TERMS) : -1], sums[-1]
    found = {f"loss_{term}": total / count for term, total, count in zip(TERMS, losses, counts, strict=True) if count}
    return found | ({"refusal_probability": refusal / counts[-1]} if counts[-1] and not math.isnan(refusal) else {})


def _describe_fault(outputs: Any, batch: Batch, step: int) -> str:
    got = float(outputs.loss.detach())
    sums = _term_sums(outputs)[: len(TERMS)]
    by_term = {term: float(x) for term, x in zip(TERMS, sums, strict=True)}
    return (
        f"step {step}: expected a finite loss, got {got} (sums by term {by_term}) on a micro-batch of "
        f"{batch['input_ids'].numel()} tokens, rows {', '.join(batch['row_ids'])}; lower the learning rate, or use "
        "bf16 instead of fp16"
    )
