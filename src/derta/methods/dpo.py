"""DPO through TRL, the paper's baseline: initialised from the vanilla model, trained to prefer safe responses.

Unlike all other methods it reads harmful responses as targets, to make them less likely (see `data/preferences.py`).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from random import Random
from typing import Annotated, Any

import torch
from datasets import Dataset, load_from_disk
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import Field as Limit
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainingArguments
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from derta.chat import ChatFormat, RefusalTokens
from derta.config import LoraSection
from derta.data.mixture import TrainingSet
from derta.data.preferences import EncodedPair, cut_pair, encode_preference, triple_pair
from derta.data.triple_encoding import encode_triple
from derta.errors import RecipeError
from derta.loading import is_adapter, position_limit
from derta.methods.method import Method
from derta.train.adapters import initial_path, load_initial_model
from derta.train.checkpoint_files import save_checkpoint, stop_if_trained
from derta.train.checkpoints import NonFiniteLossError
from derta.train.config import DertaConfig
from derta.train.estimate import MAX_SAMPLED, BatchShape, Keys, Plan, plan_from_sample
from derta.train.inputs import chat_of, check_longest
from derta.train.memory import TrimMemoryCallback, loading_advice, out_of_memory_as_model_error
from derta.train.preparation import prepare_process
from derta.train.saving import dtype_to_save, save_without_pickle
from derta.train.terms import check_norm

_REFERENCE = "ref"  # TRL's name for its frozen copy of an adapter


@dataclass
class DpoConfig(DertaConfig):
    """Configuration of DPO training, initialised from the vanilla model; other defaults are those of `DertaConfig`.

    Options of rows (packing, trees, prefixes, earlier turns, RTO, weights, token budgets) and `compile_layers` have no
    effect here.
    Paper: learning rate 5e-7 (8B, full), 2e-6 (70B, LoRA).

    Attributes:
        beta: The penalty for leaving the vanilla model. The paper gives none; the default is TRL's and that of Rafailov
            et al.
        precompute_ref_log_probs: Compute the vanilla model's log-probabilities once, before training, instead of
            keeping a frozen copy of the model in memory.
    """

    learning_rate: Annotated[float, Limit(gt=0)] = 5e-7
    num_train_epochs: Annotated[float, Limit(gt=0)] = 1.0
    max_steps: Annotated[int, Limit(ge=-1)] = -1
    beta: Annotated[float, Limit(gt=0)] = 0.1
    precompute_ref_log_probs: bool = False


def config_class() -> type[DertaConfig]:
    """Return the config class of DPO."""
    return DpoConfig


def encode_pairs(
    data: TrainingSet, *, chat: ChatFormat, refusals: RefusalTokens, config: DertaConfig
) -> list[EncodedPair]:
    """Return the preference pairs: each triple's safe response over its harmful one, and the user's preferences."""
    del config
    pairs = [triple_pair(encode_triple(chat, triple, refusals=refusals)) for triple in data.triples]
    return [*pairs, *(encode_preference(chat, one) for one in data.preferences)]


@out_of_memory_as_model_error(loading_advice)
def pair_trainer(
    method: Method,
    model: str,
    *,
    config: DpoConfig,
    rows: Sequence[EncodedPair],
    tokenizer: PreTrainedTokenizerBase,
    lora: LoraSection | None = None,
    init_from: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> PairTrainer:
    """Return the DPO trainer of the model in `init_from`, with its reference model.

    The reference is a frozen copy of the model, a copy of its adapter, or the base model of a fresh adapter. With
    `precompute_ref_log_probs` its log-probabilities are computed here, and no copy is kept. With `lora`, an adapter in
    `init_from` is trained further; for a full model in `init_from` a new adapter is trained. Without `init_from` (as
    in a probe) the recipe's model is loaded instead.

    Raises:
        ModelError, RecipeError: `init_from` holds no such model, or its configuration cannot be trained.
    """
    del method
    prepare_process(config)
    arguments = dpo_arguments(config)
    policy = _load_model(model, config, lora=lora, init_from=init_from)
    _check_lengths(rows, policy, max_length=config.max_length)
    copy_reference = lora is None and not config.precompute_ref_log_probs
    trainer = PairTrainer(
        model=policy,
        ref_model=_load_model(model, config, lora=None, init_from=init_from) if copy_reference else None,
        args=arguments,
        train_dataset=_dataset(rows, max_length=config.max_length, arguments=arguments),
        data_collator=partial(collate_pairs, pad_id=0),  # masked, and the tokenizer's may lack an embedding
        processing_class=deepcopy(tokenizer),  # TRL adds a padding token if there is none
        callbacks=[*callbacks, TrimMemoryCallback()],
    )
    trainer.chat = chat_of(tokenizer, config)
    trainer.save_dtype = dtype_to_save(initial_path(model, init_from), config)
    if config.precompute_ref_log_probs or init_from is None or not is_adapter(init_from):
        _drop_reference(policy)  # TRL then disables the fresh adapter to compute the reference, cheaper than a copy
    return trainer


def _check_lengths(pairs: Sequence[EncodedPair], net: Any, *, max_length: int) -> None:
    """Validate that no half of a pair is longer than the model's positions."""
    limit = position_limit(net.config)
    if limit is None or limit >= max_length:
        return
    for pair in pairs:
        check_longest(pair.id, cut_pair(pair, max_length=max_length).longest, limit=limit)


def _load_model(model: str, config: DpoConfig, *, lora: LoraSection | None, init_from: Path | None) -> Any:
    net = load_initial_model(model, config, lora=lora, init_from=init_from)
    if isinstance(net, PeftModel) and isinstance(net.get_base_model().get_output_embeddings(), BaseTunerLayer):  # pyright: ignore[reportCallIssue]
        raise RecipeError("lora.target_modules: expected no lm_head with `dpo`; TRL does not train LoRA on it")
    return net


def _dataset(pairs: Sequence[EncodedPair], *, max_length: int, arguments: DPOConfig) -> Dataset:
    """Return the pairs, cut to length, as a dataset.

    If TRL will precompute log-probabilities, the dataset is stored on disk: processes share the cache that TRL writes
    next to it.
    """
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


def dpo_arguments(config: DpoConfig) -> DPOConfig:
    """Return the config as the arguments of TRL's trainer."""
    arguments = DPOConfig(
        **{one.name: vars(config)[one.name] for one in fields(TrainingArguments) if one.init},
        beta=config.beta,
        precompute_ref_log_probs=config.precompute_ref_log_probs,
        disable_dropout=True,
        router_aux_loss_coef=0.0,  # only DPO's loss, for mixtures of experts too
        max_length=None,  # `cut_pair` has truncated the pairs
    )
    if arguments.n_gpu > 1:  # a process uses one GPU
        arguments._n_gpu = 1  # pyright: ignore[reportPrivateUsage]
    return arguments


class PairTrainer(DPOTrainer):
    """TRL's DPO trainer on pairs of token ids; sends no telemetry, and names the pairs of a failed batch."""

    chat: ChatFormat
    save_dtype: torch.dtype | None
    _order: Sequence[int] | None = None

    def set_micro_batches(self, micro_batches: Sequence[list[int]]) -> None:
        """Train on these pairs, given by index, instead of all pairs in random order."""
        self._order = [index for keys in micro_batches for index in keys]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return super()._get_train_sampler(train_dataset) if self._order is None else self._order

    def _send_telemetry(self) -> None:
        pass

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the tuned model without its reference adapter, which only checkpoints hold."""
        if not _internal_call:
            _drop_reference(self.model)
        super().save_model(output_dir, _internal_call)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if not stop_if_trained(self):
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(str(self._get_output_dir(trial=trial)))
        save_checkpoint(self, partial(super()._save_checkpoint, model, trial), folder=folder)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(str(output_dir or self.args.output_dir))
        save_without_pickle(self, folder, state_dict, chat=self.chat, dtype=self.save_dtype)

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Compute TRL's loss.

        Raises:
            NonFiniteLossError: the loss is not finite; the message names the batch's pairs.
        """
        result: Any = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = (result[0] if return_outputs else result).detach()
        if not torch.isfinite(loss):
            raise NonFiniteLossError(
                f"step {self.state.global_step}: expected a finite loss, got {float(loss)} on pairs "
                f"{', '.join(self._ids_of(inputs))}; lower `learning_rate`, or use bf16 instead of fp16"
            )
        return result

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        return check_norm(super()._clip_grad_norm(model), args=self.args, step=self.state.global_step)

    def _ids_of(self, inputs: dict[str, Tensor]) -> list[str]:
        """Return the ids of a batch's pairs, matched by their chosen half.

        The batch holds no id column: the model would treat it as an input.
        """
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        rows = [ids[:length].tolist() for ids, length in zip(inputs["input_ids"], lengths, strict=True)]
        chosen = rows[: len(rows) // 2]
        return [pair["id"] for pair in self.train_dataset if pair["chosen_prompt_ids"] + pair["chosen_ids"] in chosen]  # type: ignore[index]


def collate_pairs(pairs: Sequence[dict[str, Any]], *, pad_id: int) -> dict[str, Tensor]:
    """Return a batch in TRL's format: the chosen halves, then the rejected ones, padded on the right.

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
    reference_names = [name for name in ("ref_chosen_logps", "ref_rejected_logps") if name in pairs[0]]
    return batch | {name: torch.tensor([pair[name] for pair in pairs]) for name in reference_names}


def plan_pairs(trainer: PairTrainer) -> Plan:
    """Return the plan of a DPO training: a pair counts as one row; tokens and labels are those of both halves."""
    pairs: Any = trainer.train_dataset
    size = trainer.args.per_device_train_batch_size
    order = Random(trainer.args.seed).sample(range(len(pairs)), len(pairs))  # noqa: S311
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    sampled = [_pairs_shape(trainer, keys) for keys in batches[:MAX_SAMPLED]]
    return plan_from_sample(sampled, trainer.args, batches_per_epoch=len(batches))


def _pairs_shape(trainer: PairTrainer, keys: Keys) -> BatchShape:
    pairs: Any = trainer.train_dataset
    batch = trainer.data_collator([pairs[key] for key in keys])
    tokens, labels = int(batch["attention_mask"].sum()), int(batch["completion_mask"].sum())
    padded = batch["input_ids"].numel()
    return BatchShape(keys, tokens, padded, labels, logit_positions=padded)  # TRL computes logits at every position
