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
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from derta.chat import chat_format, refusal_tokens
from derta.data.mixture import TrainingSet
from derta.data.rows import TERMS, Instance, TrainRow
from derta.errors import DataError, RecipeError
from derta.loading import load_tokenizer
from derta.methods import Method, find_method
from derta.records import Example, Triple
from derta.train.adapters import freeze_beside_text, is_4bit, load_base, with_lora
from derta.train.checkpoints import NonFiniteLossError, push_checkpoint, save_without_pickle
from derta.train.collator import Batch, check_packing, collate
from derta.train.config import DertaConfig
from derta.train.dataset import MicroBatchSampler, RowDataset, StepSettings, ready_rows
from derta.train.distributed import check_launch, configure_fsdp, is_sharded
from derta.train.loss import label_loss, use_label_loss
from derta.train.memory import TrimMemoryCallback, keep_freed_memory, loading_advice, out_of_memory_told
from derta.train.tree_attention import check_trees

Rows = Sequence[Instance] | Sequence[TrainRow] | Sequence[dict[str, Any]] | Dataset[Any]


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
        tokenizer = processing_class or _tokenizer_of(model, args)
        encode = partial(_encode, method=method, tokenizer=tokenizer, config=args)
        rows = encode(TrainingSet(triples, examples), ready=train_dataset, what="triples=, examples= or train_dataset=")
        self._evaluated = bool(eval_dataset is not None or eval_triples or eval_examples)
        held = TrainingSet(eval_triples, eval_examples)
        eval_rows = encode(held, ready=eval_dataset, what="eval_triples=") if self._evaluated else None
        if args.step_tokens is not None:
            args.gradient_accumulation_steps = _micro_batches(rows, args)
        self._loss = method.loss or label_loss
        self._sums = torch.zeros(2 * len(TERMS) + 1)
        self._eval_sums: Tensor | None = None
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        refusal_ids = refusal_tokens(_chat(tokenizer, args), args.refusal_words).ids
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


@out_of_memory_told(loading_advice)
def prepare_model(
    model: str | Path | PreTrainedModel | PeftModel,
    config: DertaConfig,
    *,
    refusal_ids: Sequence[int],
    peft_config: PeftConfig | None = None,
) -> PreTrainedModel | PeftModel:
    """A model that can be trained as the config says: loaded, checked, with the label loss, under its adapters.

    Raises:
        ModelError: it cannot be (packing, trees, another head), or there is none.
    """
    net: Any = model
    if isinstance(model, str | Path):
        net = load_base(str(model), config, adapted=peft_config is not None)
    base: Any = net.get_base_model() if isinstance(net, PeftModel) else net
    if base is net:
        freeze_beside_text(base)
    if not (is_sharded() or is_4bit(base) or getattr(base, "hf_device_map", None)):
        nn.Module.to(net, config.device)  # before it is checked: kernels of flash and flex run nowhere else
    flash = config.attn_implementation == "flash_attention_2"  # which knows 16 bits alone
    with torch.autocast(config.device.type, torch.float16 if config.fp16 else torch.bfloat16, enabled=flash):
        if config.pack_tokens and not config.reference:
            check_packing(base, bins=1 if config.one_bin else 2)
        if config.tree_rows:
            check_trees(base, max_length=config.max_length)
        adapted = peft_config is not None or isinstance(net, PeftModel)
        use_label_loss(base, refusal_ids=refusal_ids, in_place=adds_in_place(config, adapted=adapted))
    if config.compile_layers:
        compile_layers(base)
    return net if peft_config is None else with_lora(base, peft_config)


def adds_in_place(config: DertaConfig, *, adapted: bool) -> bool:
    """Whether embeddings' gradients may bypass autograd: no other process, scaler, adapter or hook is to see them.

    On a CPU alone, where it was measured to pay (LOG.md, 16); elsewhere it is not tried.
    """
    alone = config.world_size == 1 and config.device.type == "cpu"
    return alone and not config.fp16 and not adapted and "layerwise" not in str(config.optim)


def compile_layers(net: PreTrainedModel) -> None:
    """Compile each of the model's repeated layers, in place: they share one compiled code for all batch shapes."""
    layers = set(net._no_split_modules or ())  # pyright: ignore[reportPrivateUsage]
    for module in net.modules():
        if type(module).__name__ in layers:
            module.compile(dynamic=True)


def _tokenizer_of(model: Any, config: DertaConfig) -> PreTrainedTokenizerBase:
    name = str(model) if isinstance(model, str | Path) else str(getattr(model, "name_or_path", ""))
    if not name:
        raise RecipeError("processing_class: expected the tokenizer of a model made in memory, got none; give it")
    return load_tokenizer(name, trust_remote_code=config.trust_remote_code)


def _chat(tokenizer: PreTrainedTokenizerBase, config: DertaConfig) -> Any:
    return chat_format(tokenizer, template=config.template, template_kwargs=config.template_kwargs)


def _encode(
    data: TrainingSet,
    *,
    ready: Rows | None,
    what: str,
    method: Method,
    tokenizer: PreTrainedTokenizerBase,
    config: DertaConfig,
) -> RowDataset:
    """A training set as rows; ready rows are taken as they are.

    Raises:
        DataError: both or neither, or a safe response that opens with no refusal word.
    """
    given = bool(data.triples or data.examples)
    if given == (ready is not None):
        raise DataError(f"expected {what}, got {'both' if given else 'none'}; give rows, or what they are made of")
    rows = ready_rows(ready) if ready is not None else None
    if rows is None:
        check_openings(data.triples, config.refusal_words)
        chat = _chat(tokenizer, config)
        rows = method.dataset(data, chat=chat, refusals=refusal_tokens(chat, config.refusal_words), config=config)
    if not rows:
        raise DataError(f"expected {what}, got no row; add data")
    return RowDataset(rows, config=config, seed=config.rows_seed)


def check_openings(triples: Sequence[Triple], words: Sequence[str]) -> None:
    """Refuse triples whose safe response does not open with a refusal word: RTO would have nothing to go on to.

    Raises:
        DataError: it names the first, and how many there are.
    """
    wrong = [triple for triple in triples if not triple.safe.lstrip().startswith(tuple(words))]
    if wrong:
        raise DataError(
            f"triple {wrong[0].id}: expected a safe response that opens with {' or '.join(words)}, got "
            f"{wrong[0].safe[:40]!r} ({len(wrong)} of {len(triples)} triples); prepare the data (derta.prepare), or "
            "set refusal_words"
        )


def _micro_batches(rows: RowDataset, config: DertaConfig) -> int:
    """Micro-batches of a step of tokens, on each process."""
    mean = sum(rows.length(0, index) for index in range(len(rows))) / len(rows)
    at_once = config.per_device_train_batch_size * config.world_size
    return max(1, round((config.step_tokens or 0) / mean / at_once))


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
