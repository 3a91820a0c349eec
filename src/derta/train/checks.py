"""What is said of training arguments before anything is trained: refused, impossible, or not on this machine."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields
from enum import Enum
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast, get_args, get_type_hints

import torch
from transformers.integrations.integration_utils import get_available_reporting_integrations
from transformers.trainer_pt_utils import AcceleratorConfig

from derta.config import REFUSED, check_rows, validate_values
from derta.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from derta.train.config import DertaConfig

_READ_ARGS = (
    "anyprecision", "ademamix", "sgd", "adagrad", "rmsprop", "galore", "apollo", "grokadamw", "stable", "torch_4bit",
    "torch_8bit", "schedule_free",
)  # fmt: skip
"""What the names of those optimizers hold that read `optim_args`; see transformers' `trainer_optimizer`."""

_LEAST = {
    "dataloader_num_workers": 0, "dataloader_prefetch_factor": 1, "per_device_eval_batch_size": 1, "max_grad_norm": 0,
    "adam_epsilon": 0, "eval_delay": 0, "seed": 0, "data_seed": 0,
}  # fmt: skip
"""Limits of what Hugging Face declares with none."""


class Derived(int):
    """A number that followed from others: a copy of a config with other settings works it out again."""


@contextmanager
def invalid_settings_as_recipe_error(names: str) -> Generator[None]:
    """Tell by their names what settings Hugging Face cannot make something of.

    Raises:
        RecipeError: the block raised an error of theirs.
    """
    try:
        yield
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(f"{names}: {' '.join(str(error).split()):.300}") from error


def has_accelerator() -> bool:
    """Whether torch finds a device to train on beside the CPU."""
    return torch.accelerator.is_available()


def num_processes() -> int:
    """Processes that share a step, as the launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def defaults_of(config: type) -> dict[str, Any]:
    """A config's fields and their defaults."""
    return {one.name: _default(one) for one in fields(config) if one.init}


def _default(one: Field[Any]) -> Any:
    return one.default if one.default is not MISSING else cast("Any", one.default_factory)()


def check_config(config: type[DertaConfig], given: Mapping[str, Any]) -> dict[str, Any]:
    """Check values of a config without making one, which would take hold of a device; they come back as typed.

    Raises:
        RecipeError: an unknown or refused name, a value that cannot be, or values that exclude each other.
    """
    defaults = defaults_of(config)
    given = {name: defaults[name] if _is_made(name, value) else value for name, value in given.items()}
    for name, value in given.items():
        if name not in defaults:
            raise RecipeError(f"unknown setting {name}; {did_you_mean(name, defaults)}")
        _check_refused(name, value, defaults=defaults, given=given)
    values = validate_values(config, given)
    types = _types(config)
    for name, value in values.items():
        _check_choice(types[name], name, value)
    _check_together(cast("Any", SimpleNamespace(**(defaults | values))))
    return values


def _is_made(name: str, value: Any) -> bool:
    """Whether a value is what a config, or an argument parser, makes of a default: a copy is given it."""
    if name == "accelerator_config":
        made = AcceleratorConfig()
        return value == made or (isinstance(value, Mapping) and made.to_dict() == {**made.to_dict(), **value})
    return isinstance(value, Derived) or (name == "debug" and value is None)


def _check_refused(name: str, value: Any, *, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    if name not in REFUSED or value == defaults[name]:
        return
    settled = cast("Any", SimpleNamespace(**{**defaults, **given}))
    if name == "gradient_accumulation_steps" and value == accumulation_steps(settled, num_processes=num_processes()):
        return
    if name == "do_eval" and settled.eval_strategy != "no":
        return
    raise RecipeError(f"cannot be set; {REFUSED[name]}", key=name)


@cache
def _types(config: type) -> dict[str, Any]:
    """Types of a config's fields, which take milliseconds to evaluate: 130 annotations."""
    return get_type_hints(config)


def _check_choice(kind: Any, name: str, value: Any) -> None:
    for choice in get_args(kind):
        if isinstance(choice, type) and issubclass(choice, Enum) and isinstance(value, str):
            known = [str(one.value) for one in choice]
            if value not in known:
                raise RecipeError(f"expected one of {', '.join(known)}, got {value!r}", key=name)


def _check_numbers(config: DertaConfig) -> None:
    for name, least in _LEAST.items():
        value = getattr(config, name)
        if value is not None and not value >= least:
            raise RecipeError(f"expected {least} or more, got {value}", key=name)
    for name in ("adam_beta1", "adam_beta2"):
        if not 0 <= getattr(config, name) < 1:
            raise RecipeError(f"expected 0 or more and less than 1, got {getattr(config, name)}", key=name)


def _check_together(config: DertaConfig) -> None:
    check_rows(config)
    _check_numbers(config)
    rows_at_once = config.per_device_train_batch_size
    if config.global_batch_size % rows_at_once:
        raise RecipeError(
            f"expected a multiple of per_device_train_batch_size ({rows_at_once}), got {config.global_batch_size}; "
            "change one of them",
            key="global_batch_size",
        )
    if config.bf16 and config.fp16:
        raise RecipeError("expected one of them at most, got both", key="bf16, fp16")
    if config.max_steps == 0:
        raise RecipeError("expected a number of steps, or -1 for all epochs, got 0", key="max_steps")
    by_length = config.train_sampling_strategy == "group_by_length"
    if by_length and (config.pack_tokens or config.reference):
        raise RecipeError("group_by_length is for padded rows; set pack_tokens to 0", key="train_sampling_strategy")
    if config.attn_implementation == "flash_attention_2" and not (config.bf16 or config.fp16):
        raise RecipeError("flash_attention_2 computes in 16 bits; set bf16 or fp16", key="attn_implementation")
    _check_read(config)
    if config.eval_strategy == "no" and (config.eval_steps or config.eval_delay):
        raise RecipeError(
            "nothing is evaluated while eval_strategy is 'no'; set it to steps", key="eval_steps, eval_delay"
        )


def _check_read(config: DertaConfig) -> None:
    """Refuse what nothing would read."""
    optim, saving = (str(getattr(value, "value", value)) for value in (config.optim, config.save_strategy))
    if config.optim_args and not any(part in optim for part in _READ_ARGS):
        raise RecipeError(f"{optim} reads none; leave it out, or choose another optim", key="optim_args")
    if config.optim_target_modules and not optim.startswith(("galore", "apollo")):
        raise RecipeError(
            f"only galore and apollo read it, and optim is {optim}; leave it out", key="optim_target_modules"
        )
    if config.save_steps and saving in ("no", "epoch", "best"):
        raise RecipeError(
            f"nothing is saved by steps while save_strategy is {saving!r}; leave one out", key="save_steps"
        )
    if saving == "best" and (config.eval_strategy == "no" or config.metric_for_best_model is None):
        raise RecipeError(
            "'best' needs eval_strategy and metric_for_best_model; set them, or use steps", key="save_strategy"
        )
    if not config.dataloader_num_workers and (
        config.dataloader_persistent_workers or config.dataloader_prefetch_factor
    ):
        raise RecipeError(
            "expected workers, got none; set dataloader_num_workers",
            key="dataloader_persistent_workers, dataloader_prefetch_factor",
        )


def check_machine(config: DertaConfig) -> None:
    """Refuse what this machine does not have.

    Raises:
        RecipeError: fp16 or flex_attention without a GPU, or a logger that is not installed.
    """
    if config.fp16 and not has_accelerator():
        raise RecipeError("expected a GPU, found none; use bf16, or neither", key="fp16")
    if config.attn_implementation == "flex_attention" and not torch.cuda.is_available():
        raise RecipeError("expected a GPU for flex_attention, found none; use sdpa", key="attn_implementation")
    loggers = get_available_reporting_integrations()
    wanted = [config.report_to] if isinstance(config.report_to, str) else config.report_to or []
    for logger in wanted:
        if logger not in ("none", "all", *loggers):
            raise RecipeError(
                f"expected a logger that is installed ({', '.join(loggers) or 'none is'}), got {logger!r}; "
                "install it, or use none",
                key="report_to",
            )


def accumulation_steps(config: DertaConfig, *, num_processes: int) -> Derived:
    """Micro-batches that each process adds up, so that `global_batch_size` rows make a step on however many processes.

    >>> from derta.train.config import DertaConfig
    >>> accumulation_steps(DertaConfig("out", global_batch_size=128, per_device_train_batch_size=8), num_processes=4)
    4

    Raises:
        RecipeError: the batch cannot be shared out evenly.
    """
    rows_at_once = config.per_device_train_batch_size * num_processes
    if config.global_batch_size % rows_at_once:
        raise RecipeError(
            f"expected a multiple of per_device_train_batch_size x processes "
            f"({config.per_device_train_batch_size} x {num_processes}), got {config.global_batch_size}; "
            "change one of them",
            key="global_batch_size",
        )
    return Derived(config.global_batch_size // rows_at_once)
