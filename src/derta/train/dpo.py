"""DPO, the paper's comparison, through TRL: from the vanilla model on, the safe response before the harmful one.

Unlike every other method this one reads harmful responses as targets, to make them less likely (see
`data/preferences.py`).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_from_disk
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from derta.config import DpoSection, ModelSection, TrainSection
from derta.data.preferences import EncodedPair, cut_pair
from derta.train.arguments import on_one_device, training_arguments
from derta.train.fit import train_and_save
from derta.train.memory import GiveBackHoles, keep_freed_memory, loading_advice, out_of_memory_told, reset_peak_memory
from derta.train.sharding import check_launch
from derta.train.start import is_adapter, load_start
from derta.train.trainer import NonFiniteLossError, check_norm

_REFERENCE = "ref"  # TRL's name for its frozen copy of an adapter


def fit_dpo(
    *,
    model: ModelSection,
    train: TrainSection,
    dpo: DpoSection,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[EncodedPair],
    start: Path,
    seed: int,
    out: Path,
    callbacks: list[TrainerCallback] | None = None,
) -> Path:
    """Go on from the tuned model in `start`, resumably, and save to `out`; as `fit` in all that is not the loss.

    What shapes rows in `train` (packing, trees, prefixes, RTO, term weights, token budgets) has no meaning here, and
    `compile` no effect. `start` is where training starts, and the reference: a checkpoint, or an adapter for `model`
    if the recipe has `lora`.

    Returns:
        `out`: a stock checkpoint. With `lora`: an adapter for the base of `start`, if that is an adapter, which is
        tuned on; else for `start` itself. `train_log.json` holds TRL's rewards, margins and log-probabilities.

    Raises:
        ModelError, RecipeError: `start` holds no such model, or the recipe cannot be trained so.
    """
    if out.exists():
        return out
    check_launch()
    reset_peak_memory()
    checkpoints = out.with_name(out.name + ".checkpoints")
    trainer = pair_trainer(
        model=model,
        train=train,
        dpo=dpo,
        tokenizer=tokenizer,
        pairs=pairs,
        start=start,
        arguments=dpo_arguments(train, dpo, seed=seed, folder=checkpoints),
        callbacks=callbacks,
    )
    drop_reference = partial(_drop_reference, trainer.model)
    return train_and_save(trainer, train=train, checkpoints=checkpoints, out=out, before_save=drop_reference)


@out_of_memory_told(loading_advice)
def pair_trainer(
    *,
    model: ModelSection,
    train: TrainSection,
    dpo: DpoSection,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[EncodedPair],
    start: Path | None,
    arguments: DPOConfig,
    callbacks: list[TrainerCallback] | None = None,
) -> PairTrainer:
    """The trainer around `start` and its reference: a frozen copy, a copy of its adapter, or the fresh adapter put off.

    Without `start` the recipe's own model stands for it, as in a probe. With `dpo.precompute_reference` the reference's
    log-probabilities are worked out here, and no copy is kept.
    """
    if train.num_threads:
        torch.set_num_threads(train.num_threads)
    keep_freed_memory()
    torch.manual_seed(arguments.seed)
    net = load_start(model, train, start=start)
    whole = train.lora is None
    reference = load_start(model, train, start=start) if whole and not dpo.precompute_reference else None
    pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    trainer = PairTrainer(
        model=net,
        ref_model=reference,
        args=arguments,
        train_dataset=_dataset(pairs, max_length=train.max_length, arguments=arguments),
        data_collator=partial(collate_pairs, pad_id=int(str(pad_id))),
        processing_class=deepcopy(tokenizer),  # TRL gives it a padding token if it has none
        callbacks=[*(callbacks or []), GiveBackHoles()],
    )
    trainer.remove_callback(PrinterCallback)  # standard output is the command's
    if dpo.precompute_reference or start is None or not is_adapter(start):
        _drop_reference(net)  # a fresh adapter adds nothing: TRL then puts it off, which costs less than a copy
    return trainer


def _dataset(pairs: Sequence[EncodedPair], *, max_length: int, arguments: DPOConfig) -> Dataset:
    """The pairs, cut to length; in a file if TRL will precompute, because processes share what it finds beside that."""
    rows = Dataset.from_list([cut_pair(pair, max_length=max_length)._asdict() for pair in pairs])
    if not arguments.precompute_ref_log_probs:
        return rows
    folder = Path(str(arguments.output_dir)) / "pairs"
    with arguments.main_process_first(local=False):
        if arguments.process_index == 0:
            shutil.rmtree(folder, ignore_errors=True)
            rows.save_to_disk(folder)
        return load_from_disk(folder)  # pyright: ignore[reportReturnType]


def _drop_reference(net: Any) -> None:
    if isinstance(net, PeftModel) and _REFERENCE in net.peft_config:
        net.delete_adapter(_REFERENCE)


def dpo_arguments(train: TrainSection, dpo: DpoSection, *, seed: int, folder: Path) -> DPOConfig:
    """The recipe's settings as TRL takes them; its own defaults for what both know are overruled by `train`."""
    settings = {
        "epochs": dpo.epochs,
        "max_steps": dpo.max_steps,
        "learning_rate": dpo.learning_rate,
        "micro_batch_size": dpo.micro_batch_size or train.micro_batch_size,
    }
    plain = training_arguments(train.model_copy(update=settings), seed=seed, folder=folder)
    return on_one_device(
        DPOConfig(
            **{field.name: vars(plain)[field.name] for field in fields(plain) if field.init},
            beta=dpo.beta,
            precompute_ref_log_probs=dpo.precompute_reference,
            disable_dropout=True,
            router_aux_loss_coef=0.0,  # DPO's loss and nothing beside it, for mixtures of experts too
            max_length=None,  # `cut_pair` has seen to it
        )
    )


class PairTrainer(DPOTrainer):
    """TRL's trainer on pairs that are token ids already; sends nothing anywhere, and tells a fault by pair."""

    _order: Sequence[int] | None = None

    def read_only(self, micro_batches: Sequence[list[int]]) -> None:
        """Train on these pairs, given by their indices, in place of all in random order."""
        self._order = [index for keys in micro_batches for index in keys]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return super()._get_train_sampler(train_dataset) if self._order is None else self._order

    def _send_telemetry(self) -> None:
        pass

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """TRL's, and refuse to go on from a loss that is no number."""
        found: Any = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = (found[0] if return_outputs else found).detach()
        if not torch.isfinite(loss):
            raise NonFiniteLossError(
                f"step {self.state.global_step}: expected a finite loss, got {float(loss)} on pairs "
                f"{', '.join(self._ids_of(inputs))}; lower `dpo.learning_rate`, or use bf16 instead of fp16"
            )
        return found

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        return check_norm(super()._clip_grad_norm(model), args=self.args, step=self.state.global_step)

    def _ids_of(self, inputs: dict[str, Tensor]) -> list[str]:
        """The pairs of a batch, known by their chosen halves: the model would take any id beside them for its own."""
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        rows = [ids[:length].tolist() for ids, length in zip(inputs["input_ids"], lengths, strict=True)]
        chosen = rows[: len(rows) // 2]
        return [pair["id"] for pair in self.train_dataset if pair["chosen_prompt_ids"] + pair["chosen_ids"] in chosen]  # type: ignore[index]


def collate_pairs(pairs: Sequence[dict[str, Any]], *, pad_id: int) -> dict[str, Tensor]:
    """A batch as TRL has it: the chosen halves, then the rejected ones, padded on the right.

    >>> pair = {"chosen_prompt_ids": [1, 2], "chosen_ids": [3], "rejected_prompt_ids": [1], "rejected_ids": [4, 5, 6]}
    >>> batch = collate_pairs([pair], pad_id=0)
    >>> batch["input_ids"].tolist(), batch["completion_mask"].tolist()
    ([[1, 2, 3, 0], [1, 4, 5, 6]], [[0, 0, 1, 0], [0, 1, 1, 1]])
    """
    halves = [(pair[f"{side}_prompt_ids"], pair[f"{side}_ids"]) for side in ("chosen", "rejected") for pair in pairs]
    ids = [torch.tensor([*prompt, *response]) for prompt, response in halves]
    learned = [torch.tensor([0] * len(prompt) + [1] * len(response)) for prompt, response in halves]
    batch = {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_id),
        "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], batch_first=True),
        "completion_mask": pad_sequence(learned, batch_first=True),
    }
    known = [name for name in ("ref_chosen_logps", "ref_rejected_logps") if name in pairs[0]]
    return batch | {name: torch.tensor([pair[name] for pair in pairs]) for name in known}
