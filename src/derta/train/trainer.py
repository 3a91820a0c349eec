"""`DertaTrainer`: the Hugging Face Trainer with a method's rows and loss; terms are logged apart, faults by row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.data_loader import prepare_data_loader
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from derta.chat import refusal_tokens
from derta.data.rows import TERMS, TrainRow
from derta.errors import DataError, RunError
from derta.records import Example, Triple
from derta.train.checkpoints import NonFiniteLossError, push_checkpoint, save_without_pickle
from derta.train.checks import accumulation_steps, invalid_settings_as_recipe_error, num_processes
from derta.train.collator import Batch, collate
from derta.train.config import DertaConfig
from derta.train.dataset import MicroBatchSampler, RowDataset, StepSettings
from derta.train.distributed import check_launch, configure_fsdp
from derta.train.inputs import (
    Rows,
    chat_of,
    check_ids,
    dataset_from_rows,
    encode,
    encode_evaluation,
    micro_batches_per_step,
    row_method_of,
    tokenizer_of,
)
from derta.train.loss import label_loss
from derta.train.memory import TrimMemoryCallback, keep_freed_memory
from derta.train.preparation import prepare_model
from derta.train.terms import by_term, check_norm, format_error_details, term_sums


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
        eval_dataset: Ready rows to evaluate on, or several such sets by name.
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
        eval_dataset: Rows | Mapping[str, Rows] | None = None,
        eval_triples: Sequence[Triple] = (),
        eval_examples: Sequence[Example] = (),
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
    ) -> None:
        method = row_method_of(args)
        args = copy(args)  # what follows from the data is written into it
        args.gradient_accumulation_steps = accumulation_steps(args, num_processes=num_processes())
        check_launch()
        if args.num_threads:
            torch.set_num_threads(args.num_threads)
        keep_freed_memory()
        torch.manual_seed(args.seed)
        tokenizer = processing_class or tokenizer_of(model, args)
        what = "triples=, examples= or train_dataset="
        rows = encode(triples, examples, ready=train_dataset, what=what, tokenizer=tokenizer, config=args)
        eval_rows: Any = encode_evaluation(
            eval_triples, eval_examples, ready=eval_dataset, tokenizer=tokenizer, config=args
        )
        if args.step_tokens is not None:
            args.gradient_accumulation_steps = micro_batches_per_step(rows, args)
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
        net = prepare_model(model, args, refusal_ids=refusal_ids, peft_config=peft_config)
        check_ids(rows, net, tokenizer)
        super().__init__(
            model=net,
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
        """As `Trainer.train`; a checkpoint may also be named in the config, and False is to begin anew."""
        resume = self.args.resume_from_checkpoint if resume_from_checkpoint is None else resume_from_checkpoint
        return super().train(resume, *args, **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """As `Trainer.create_optimizer`; what it cannot be made of is told by its settings."""
        with invalid_settings_as_recipe_error("optim, optim_args, optim_target_modules"):
            return super().create_optimizer(*args, **kwargs)

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.create_scheduler`; what it cannot be made of is told by its settings."""
        with invalid_settings_as_recipe_error("lr_scheduler_type, lr_scheduler_kwargs"):
            return super().create_scheduler(*args, **kwargs)

    def predict(self, *_: Any, **__: Any) -> NoReturn:
        """There are no predictions.

        Raises:
            RunError: always; it says what to call.
        """
        raise RunError("predict: evaluation gives losses and no predictions; call evaluate(), or derta.load_engine")

    def get_train_dataloader(self) -> DataLoader[TrainRow]:
        """The sampler shares a step out among processes itself, so nothing is sharded, padded or repeated here."""
        return self._loader(self.train_dataset, self.micro_batches)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[TrainRow]:
        """All rows of the evaluation set once, as the first epoch draws them, shared out among the processes."""
        chosen: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(chosen, str):
            chosen = self.eval_dataset[chosen]  # type: ignore[index]
        if chosen is None:
            raise DataError(
                "expected rows to evaluate on, got none; give eval_dataset=, eval_triples= or eval_examples="
            )
        args = self.args
        rows = chosen if isinstance(chosen, RowDataset) else dataset_from_rows(chosen, config=args)
        sampler = MicroBatchSampler(
            rows,
            settings=StepSettings(args.per_device_eval_batch_size, 1, args.world_size, None, args.sharing),
            seed=args.rows_seed,
            process_index=args.process_index,
        )
        return self._loader(rows, sampler)

    def _loader(self, rows: Any, batches: Any) -> DataLoader[TrainRow]:
        args = self.args
        with invalid_settings_as_recipe_error("dataloader_multiprocessing_context, dataloader_num_workers"):
            loader = DataLoader(
                rows,
                batch_sampler=batches,
                collate_fn=self.data_collator,
                num_workers=args.dataloader_num_workers,
                pin_memory=args.dataloader_pin_memory,
                persistent_workers=args.dataloader_persistent_workers,
                prefetch_factor=args.dataloader_prefetch_factor,
                multiprocessing_context=args.dataloader_multiprocessing_context
                if args.dataloader_num_workers
                else None,
                in_order=args.dataloader_in_order,
            )
        return prepare_data_loader(
            loader, device=self.accelerator.device, num_processes=1, process_index=0, put_on_device=True
        )

    def set_micro_batches(self, micro_batches: Sequence[list[tuple[int, int]]]) -> None:
        """Train on these micro-batches of (epoch, row), once, in place of the sampler's."""
        self.micro_batches = micro_batches

    def _prepare_inputs(self, inputs: dict[str, Tensor | Any]) -> dict[str, Tensor | Any]:
        """The loader has put them on the device; the Trainer would round the weights to 16 bits under DeepSpeed."""
        return inputs

    def _track_num_input_tokens(self, inputs: Any) -> None:
        """As the Trainer's; padding is told by place, for a padding token may also close a row."""
        if self.args.include_num_input_tokens_seen != "non_padding":
            super()._track_num_input_tokens(inputs)
            return
        tokens = (inputs["position_ids"] != 0).sum() + len(inputs["row_ids"])  # a row's first token is at place 0
        gathered: Any = self.accelerator.gather(tokens)
        self.state.num_input_tokens_seen += int(gathered.sum())

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
            raise NonFiniteLossError(format_error_details(outputs, inputs, self.state.global_step))
        loss = outputs.loss * factor if self.args.fp16 else outputs.loss
        self._sums = self._sums.to(outputs.loss.device)
        self._sums += term_sums(outputs)
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
        self._eval_sums += torch.cat([torch.stack([loss, inputs["items"].float()]), term_sums(outputs)])
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
            found.metrics.update({f"{prefix}_{name}": value for name, value in by_term(sums).items()})
        return found

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        return check_norm(super()._clip_grad_norm(model), args=self.args, step=self.state.global_step)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the terms' own mean losses since the last log, and the probability of refusing on harmful positions."""
        if "loss" in logs:
            reduced: Any = self.accelerator.reduce(self._sums, reduction="sum")
            logs |= {name: round(value, 4) for name, value in by_term(reduced.tolist()).items()}
            self._sums.zero_()
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        save_without_pickle(self, Path(str(output_dir or self.args.output_dir)), state_dict)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        push_checkpoint(self, Path(checkpoint_folder))
