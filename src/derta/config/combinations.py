"""Training settings that exclude each other, have no effect together, or are out of range; no torch is imported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from derta.config.rows import row_faults
from derta.errors import RecipeError

_OPTIMIZERS_WITH_ARGS = (
    "anyprecision", "ademamix", "sgd", "adagrad", "rmsprop", "galore", "apollo", "grokadamw", "stable", "torch_4bit",
    "torch_8bit", "schedule_free",
)  # fmt: skip
"""Parts of the names of optimizers that use `optim_args`; see transformers' `trainer_optimizer`."""

_MINIMUMS = {
    "dataloader_num_workers": 0, "dataloader_prefetch_factor": 1, "per_device_eval_batch_size": 1, "max_grad_norm": 0,
    "adam_epsilon": 0, "eval_delay": 0, "seed": 0, "data_seed": 0,
}  # fmt: skip
"""Minimum values of arguments that Hugging Face does not validate."""


def check_together(config: Any) -> None:
    """Validate that the values of a config, or of a namespace with its fields, fit together.

    Raises:
        RecipeError: the first of `faults_together`.
    """
    for fault in faults_together(config):
        raise fault


def faults_together(config: Any) -> Iterator[RecipeError]:
    """Yield an error for each set of values that do not fit together; `key` has their names."""
    yield from row_faults(config)
    yield from _number_faults(config)
    rows_at_once = config.per_device_train_batch_size
    if config.global_batch_size % rows_at_once:
        yield RecipeError(
            f"expected a multiple of per_device_train_batch_size ({rows_at_once}), got {config.global_batch_size}; "
            "change one of them",
            key="global_batch_size",
        )
    if config.bf16 and config.fp16:
        yield RecipeError("expected at most one of them, got both", key="bf16, fp16")
    if config.max_steps == 0:
        yield RecipeError("expected a number of steps, or -1 for all epochs, got 0", key="max_steps")
    by_length = config.train_sampling_strategy == "group_by_length"
    if by_length and (config.pack_tokens or config.reference):
        yield RecipeError("group_by_length requires padded rows; set pack_tokens to 0", key="train_sampling_strategy")
    if config.attn_implementation == "flash_attention_2" and not (config.bf16 or config.fp16):
        yield RecipeError("flash_attention_2 requires 16 bits; set bf16 or fp16", key="attn_implementation")
    yield from _unread_faults(config)
    if config.eval_strategy == "no" and (config.eval_steps or config.eval_delay):
        yield RecipeError("have no effect with eval_strategy 'no'; set it to steps", key="eval_steps, eval_delay")


def _number_faults(config: Any) -> Iterator[RecipeError]:
    for name, minimum in _MINIMUMS.items():
        value = getattr(config, name)
        if value is not None and not value >= minimum:
            yield RecipeError(f"expected {minimum} or more, got {value}", key=name)
    for name in ("adam_beta1", "adam_beta2"):
        if not 0 <= getattr(config, name) < 1:
            yield RecipeError(f"expected 0 or more and less than 1, got {getattr(config, name)}", key=name)


def _unread_faults(config: Any) -> Iterator[RecipeError]:
    """Yield an error for each argument that would have no effect."""
    optim, saving = (str(getattr(value, "value", value)) for value in (config.optim, config.save_strategy))
    if config.optim_args and not any(part in optim for part in _OPTIMIZERS_WITH_ARGS):
        yield RecipeError(f"{optim} does not use them; remove them, or choose another optim", key="optim_args")
    if config.optim_target_modules and not optim.startswith(("galore", "apollo")):
        yield RecipeError(f"only galore and apollo use it, and optim is {optim}; remove it", key="optim_target_modules")
    if config.save_steps and saving in ("no", "epoch", "best"):
        yield RecipeError(f"has no effect with save_strategy {saving!r}; remove one of them", key="save_steps")
    if saving == "best" and (config.eval_strategy == "no" or config.metric_for_best_model is None):
        yield RecipeError(
            "'best' requires eval_strategy and metric_for_best_model; set them, or use steps", key="save_strategy"
        )
    if not config.dataloader_num_workers and (
        config.dataloader_persistent_workers or config.dataloader_prefetch_factor
    ):
        yield RecipeError(
            "expected workers, got none; set dataloader_num_workers",
            key="dataloader_persistent_workers, dataloader_prefetch_factor",
        )
