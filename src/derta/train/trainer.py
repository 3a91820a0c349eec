"""`DertaTrainer`: the Hugging Face `Trainer` with a method's rows and loss, and losses logged by term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

from derta.chat import refusal_tokens
from derta.data.mixture import TrainingSet
from derta.data.rows import TrainRow
from derta.errors import DataError, RunError
from derta.records import Example, Triple
from derta.train import terms
from derta.train.anchoring import AnchorCallback
from derta.train.checkpoint_files import check_checkpoint, save_checkpoint, stop_if_trained
from derta.train.checkpoints import NonFiniteLossError, push_checkpoint
from derta.train.checks import accumulation_steps, invalid_settings_as_recipe_error, num_processes
from derta.train.collator import Batch
from derta.train.config import DertaConfig
from derta.train.dataloaders import SetEpochCallback, collator_of, dataloader, evaluation_sampler, training_sampler
from derta.train.dataset import MicroBatchSampler, RowDataset
from derta.train.distributed import configure_fsdp
from derta.train.inputs import (
    Rows,
    chat_of,
    check_ids,
    check_lengths,
    dataset_from_rows,
    encode,
    encode_evaluation,
    micro_batches_per_step,
    row_method_of,
    tokenizer_of,
)
from derta.train.loss import label_loss
from derta.train.memory import TrimMemoryCallback
from derta.train.preparation import prepare_model, prepare_process
from derta.train.saving import dtype_to_save, save_without_pickle


class DertaTrainer(Trainer):
    """Trainer of a model with one of derta's methods, or a custom one.

    `log` adds the loss of each term that has labels (`loss_helpful`, `loss_safe`, `loss_rto`, `loss_completion`,
    `loss_counter`) and `refusal_probability` (of the refusal words' first tokens, at RTO labels); `evaluate` returns
    the same for the evaluation set. A step's loss is divided by the sum of `items` over its
    micro-batches on all devices, so the size of micro-batches never changes a step. With `normalization="micro_batch"`
    each micro-batch is averaged instead, as in the released code (a micro-batch without labels is NaN there, and 0
    here). Checkpoints, schedulers, mixed precision, `report_to`, resuming and pushing are the Trainer's. Training
    arguments are saved as JSON without secrets. The files `optimizer.pt`, `scheduler.pt` and `rng_state.pth` of a
    checkpoint are loaded with `weights_only`; a final model's folder has none of them.

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
        model: Name or folder of a causal LM, or a loaded one, with or without adapters.
        args: Training configuration.
        triples: Requests with a safe and a harmful response. They are used unchanged: `derta.prepare` cleans and mixes.
        examples: Helpful conversations.
        counter_examples: Counter examples for a method with `counter_per_triple`, which takes the first of them.
        train_dataset: Tokenized rows instead of both: `input_ids`, `labels` (-100: no loss) and `term` (one of
            `TERMS`); or instances of `data.rows`.
        eval_dataset: Tokenized rows for evaluation, or several such sets by name.
        eval_triples: Triples for evaluation.
        eval_examples: Examples for evaluation.
        eval_counter_examples: Counter examples for evaluation. Terms without data for evaluation are not evaluated.
        processing_class: The model's tokenizer. Default: the tokenizer of the folder that the model is loaded from.
        peft_config: Train adapters of this config instead of the model.
        callbacks: As in `Trainer`.
        optimizers: As in `Trainer`.

    Raises:
        DataError: no training data, or a triple whose safe response does not start with a refusal word.
        ModelError: no such model, or one that does not support packing, trees or the fused head.
        RecipeError: settings that do not match the method or this machine.
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
        counter_examples: Sequence[Example] = (),
        train_dataset: Rows | None = None,
        eval_dataset: Rows | Mapping[str, Rows] | None = None,
        eval_triples: Sequence[Triple] = (),
        eval_examples: Sequence[Example] = (),
        eval_counter_examples: Sequence[Example] = (),
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
    ) -> None:
        method = row_method_of(args)
        args = copy(args)  # fields computed from the data are set on the copy
        args.gradient_accumulation_steps = accumulation_steps(args, num_processes=num_processes())
        prepare_process(args)
        tokenizer = processing_class or tokenizer_of(model, args)
        what = "triples=, examples= or train_dataset="
        data = TrainingSet(triples, examples, counter=counter_examples)
        rows = encode(data, tokenized=train_dataset, what=what, tokenizer=tokenizer, config=args)
        data = TrainingSet(eval_triples, eval_examples, counter=eval_counter_examples)
        eval_rows: Any = encode_evaluation(data, tokenized=eval_dataset, tokenizer=tokenizer, config=args)
        if args.step_tokens is not None:
            args.gradient_accumulation_steps = micro_batches_per_step(rows, args)
        self._loss = method.loss or label_loss
        self._sums = torch.zeros(terms.NUM_SUMS)
        self._eval_sums: Tensor | None = None
        self.chat = chat_of(tokenizer, args)
        self.save_dtype: torch.dtype | None = dtype_to_save(model, args)
        refusal_ids = refusal_tokens(self.chat, args.refusal_words).ids
        sampler = training_sampler(rows, args)
        collator: Any = collator_of(args)
        self.micro_batches: MicroBatchSampler | Sequence[list[tuple[int, int]]] = sampler
        net = prepare_model(model, args, refusal_ids=refusal_ids, peft_config=peft_config)
        check_ids(rows, net, tokenizer)
        check_lengths(rows, net, max_length=args.max_length)
        super().__init__(
            model=net,
            args=args,
            train_dataset=rows,
            eval_dataset=eval_rows,
            data_collator=collator,
            processing_class=tokenizer,
            callbacks=[*(callbacks or []), SetEpochCallback(sampler), TrimMemoryCallback()],
            optimizers=optimizers,
        )
        self.model_accepts_loss_kwargs = True
        if args.anchor_weight:
            self.add_callback(AnchorCallback(self))
        configure_fsdp(self)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as `Trainer` does. None resumes from the config's checkpoint, if there is one, and False ignores it."""
        resume = self.args.resume_from_checkpoint if resume_from_checkpoint is None else resume_from_checkpoint
        return super().train(resume, *args, **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Create the optimizer as `Trainer` does; an invalid setting is a `RecipeError` that names it."""
        with invalid_settings_as_recipe_error("optim, optim_args, optim_target_modules"):
            return super().create_optimizer(*args, **kwargs)

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """Create the scheduler as `Trainer` does; an invalid setting is a `RecipeError` that names it."""
        with invalid_settings_as_recipe_error("lr_scheduler_type, lr_scheduler_kwargs"):
            return super().create_scheduler(*args, **kwargs)

    def predict(self, *_: Any, **__: Any) -> NoReturn:
        """Raise a `RunError`, because there are no predictions; the message names the functions to call instead."""
        raise RunError("predict: not supported, there are no predictions; call evaluate(), or derta.load_engine")

    def get_train_dataloader(self) -> DataLoader[TrainRow]:
        """Return the dataloader of this process's training micro-batches."""
        return self._dataloader(self.train_dataset, self.micro_batches)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[TrainRow]:
        """Return the dataloader of this process's share of the evaluation set, with the rows of epoch 0."""
        rows: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(rows, str):
            rows = self.eval_dataset[rows]  # type: ignore[index]
        if rows is None:
            raise DataError(
                "expected rows for evaluation, got none; pass eval_dataset=, eval_triples= or eval_examples="
            )
        if not isinstance(rows, RowDataset):
            rows = dataset_from_rows(rows, config=self.args)
        return self._dataloader(rows, evaluation_sampler(rows, self.args))

    def _dataloader(self, rows: Any, micro_batches: Any) -> DataLoader[TrainRow]:
        device = self.accelerator.device
        return dataloader(rows, micro_batches, collator=self.data_collator, config=self.args, device=device)

    def set_micro_batches(self, micro_batches: Sequence[list[tuple[int, int]]]) -> None:
        """Train once on these micro-batches of keys (epoch, row), instead of the sampler's."""
        self.micro_batches = micro_batches

    def _prepare_inputs(self, inputs: dict[str, Tensor | Any]) -> dict[str, Tensor | Any]:
        """Return the inputs unchanged: they are on the device, and DeepSpeed must not cast the weights to 16 bits."""
        return inputs

    def _track_num_input_tokens(self, inputs: Any) -> None:
        """Count input tokens; padding is identified by position ids, because a padding token may also end a row."""
        if self.args.include_num_input_tokens_seen != "non_padding":
            super()._track_num_input_tokens(inputs)
            return
        tokens = (inputs["position_ids"] != 0).sum() + len(inputs["row_ids"])  # each row's first position id is 0
        gathered: Any = self.accelerator.gather(tokens)
        self.state.num_input_tokens_seen += int(gathered.sum())

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> Tensor | None:
        """Return the divisor of the step's loss, summed over its micro-batches on all devices."""
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
        """Compute this micro-batch's part of the step's loss: its weighted losses over the step's divisor."""
        items = inputs["items"]
        if self.args.mean_by_micro_batch:
            factor = 1 / (items.clamp(min=1) * self.current_gradient_accumulation_steps)
        else:
            count = torch.as_tensor(items if num_items_in_batch is None else num_items_in_batch, device=items.device)
            # the count is summed over devices; DDP and FSDP average gradients over them
            factor = self.accelerator.num_processes / count.clamp(min=1)
        if not self.args.fp16:  # weights this small underflow in fp16
            inputs |= {name: inputs[name] * factor for name in ("weights", "anchor_weights") if name in inputs}
        outputs: Any = self._loss(model, inputs)
        if not torch.isfinite(outputs.loss):
            raise NonFiniteLossError(terms.format_loss_error(outputs, inputs, self.state.global_step))
        loss = outputs.loss * factor if self.args.fp16 else outputs.loss
        self._sums = self._sums.to(outputs.loss.device)
        self._sums += terms.term_sums(outputs)
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Add a micro-batch's losses to the sums of the evaluation set."""
        del prediction_loss_only, ignore_keys
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs: Any = self._loss(model, inputs)
        sums = terms.evaluation_sums(outputs, inputs["items"])
        self._eval_sums = sums if self._eval_sums is None else self._eval_sums + sums
        return outputs.loss.detach().float(), None, None

    def evaluation_loop(self, dataloader: DataLoader[Any], description: str, *args: Any, **kwargs: Any) -> Any:
        """Evaluate as `Trainer` does, with losses averaged over the whole set instead of over batches."""
        self._eval_sums = None
        output = super().evaluation_loop(dataloader, description, *args, **kwargs)
        if self._eval_sums is not None and output.metrics is not None:
            reduced: Any = self.accelerator.reduce(self._eval_sums, reduction="sum")
            prefix = kwargs.get("metric_key_prefix", "eval")
            output.metrics.update(terms.evaluation_metrics(reduced.tolist(), prefix=prefix))
        return output

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        return terms.check_norm(super()._clip_grad_norm(model), args=self.args, step=self.state.global_step)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the terms' mean losses since the last log, and the refusal probability on harmful positions."""
        if "loss" in logs:
            reduced: Any = self.accelerator.reduce(self._sums, reduction="sum")
            logs |= {name: round(value, 4) for name, value in terms.by_term(reduced.tolist()).items()}
            self._sums.zero_()
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(str(output_dir or self.args.output_dir))
        save_without_pickle(self, folder, state_dict, chat=self.chat, dtype=self.save_dtype)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if not stop_if_trained(self):
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(str(self._get_output_dir(trial=trial)))
        save_checkpoint(self, partial(super()._save_checkpoint, model, trial), folder=folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        check_checkpoint(Path(resume_from_checkpoint), needs_optimizer=not self.args.save_only_model)
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        push_checkpoint(self, Path(checkpoint_folder))
