"""Validation of training arguments before training: unsupported, contradictory, or unavailable on this machine."""

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


class Derived(int):
    """Value computed from other arguments; a copy of the config computes it again."""


@contextmanager
def invalid_settings_as_recipe_error(names: str) -> Generator[None]:
    """Convert errors of Hugging Face about invalid arguments to a `RecipeError` that names them.

    Args:
        names: Names of the arguments, as the message prints them.

    Raises:
        RecipeError: the block raised one of these errors.
    """
    try:
        yield
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(f"{names}: {' '.join(str(error).split()):.300}") from error


def has_accelerator() -> bool:
    """Return whether torch finds a device for training in addition to the CPU."""
    return torch.accelerator.is_available()


def num_processes() -> int:
    """Return the number of processes that share a step, as the launcher sets it (`WORLD_SIZE`)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def defaults_of(config: type) -> dict[str, Any]:
    """Return a config's fields and their default values."""
    return {setting.name: _default(setting) for setting in fields(config) if setting.init}


def _default(setting: Field[Any]) -> Any:
    return setting.default if setting.default is not MISSING else cast("Any", setting.default_factory)()


def check_config(config: type[DertaConfig], values: Mapping[str, Any]) -> dict[str, Any]:
    """Validate values of a config and return them parsed to their types.

    No config is constructed, because that would allocate a device.

    Raises:
        RecipeError: an unknown or unsupported name, an invalid value, or values that exclude each other.
    """
    defaults = defaults_of(config)
    provided = {name: defaults[name] if _is_derived(name, value) else value for name, value in values.items()}
    for name, value in provided.items():
        if name not in defaults:
            raise RecipeError(f"unknown setting {name}; {did_you_mean(name, defaults)}")
        _check_refused(name, value, defaults=defaults, provided=provided)
    parsed = validate_values(config, provided)
    types = _types(config)
    for name, value in parsed.items():
        _check_choice(types[name], name, value)
    _check_together(cast("Any", SimpleNamespace(**(defaults | parsed))))
    return parsed


def _is_derived(name: str, value: Any) -> bool:
    """Return whether a config or an argument parser computed a value from a default, as in a copy of a config."""
    if name == "accelerator_config":
        default = AcceleratorConfig()
        values = default.to_dict()
        return value == default or (isinstance(value, Mapping) and values == {**values, **value})
    return isinstance(value, Derived) or (name == "debug" and value is None)


def _check_refused(name: str, value: Any, *, defaults: Mapping[str, Any], provided: Mapping[str, Any]) -> None:
    if name not in REFUSED or value == defaults[name]:
        return
    settings = cast("Any", SimpleNamespace(**{**defaults, **provided}))
    if name == "gradient_accumulation_steps" and value == accumulation_steps(settings, num_processes=num_processes()):
        return
    if name == "do_eval" and settings.eval_strategy != "no":
        return
    raise RecipeError(f"cannot be set; {REFUSED[name]}", key=name)


@cache
def _types(config: type) -> dict[str, Any]:
    """Return the types of a config's fields; cached, because evaluating 130 annotations takes milliseconds."""
    return get_type_hints(config)


def _check_choice(kind: Any, name: str, value: Any) -> None:
    for choice in get_args(kind):
        if isinstance(choice, type) and issubclass(choice, Enum) and isinstance(value, str):
            allowed = [str(member.value) for member in choice]
            if value not in allowed:
                raise RecipeError(f"expected one of {', '.join(allowed)}, got {value!r}", key=name)


def _check_numbers(config: DertaConfig) -> None:
    for name, minimum in _MINIMUMS.items():
        value = getattr(config, name)
        if value is not None and not value >= minimum:
            raise RecipeError(f"expected {minimum} or more, got {value}", key=name)
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
        raise RecipeError("expected at most one of them, got both", key="bf16, fp16")
    if config.max_steps == 0:
        raise RecipeError("expected a number of steps, or -1 for all epochs, got 0", key="max_steps")
    by_length = config.train_sampling_strategy == "group_by_length"
    if by_length and (config.pack_tokens or config.reference):
        raise RecipeError("group_by_length requires padded rows; set pack_tokens to 0", key="train_sampling_strategy")
    if config.attn_implementation == "flash_attention_2" and not (config.bf16 or config.fp16):
        raise RecipeError("flash_attention_2 requires 16 bits; set bf16 or fp16", key="attn_implementation")
    _check_unread(config)
    if config.eval_strategy == "no" and (config.eval_steps or config.eval_delay):
        raise RecipeError("have no effect with eval_strategy 'no'; set it to steps", key="eval_steps, eval_delay")


def _check_unread(config: DertaConfig) -> None:
    """Refuse arguments that would have no effect."""
    optim, saving = (str(getattr(value, "value", value)) for value in (config.optim, config.save_strategy))
    if config.optim_args and not any(part in optim for part in _OPTIMIZERS_WITH_ARGS):
        raise RecipeError(f"{optim} does not use them; remove them, or choose another optim", key="optim_args")
    if config.optim_target_modules and not optim.startswith(("galore", "apollo")):
        raise RecipeError(f"only galore and apollo use it, and optim is {optim}; remove it", key="optim_target_modules")
    if config.save_steps and saving in ("no", "epoch", "best"):
        raise RecipeError(f"has no effect with save_strategy {saving!r}; remove one of them", key="save_steps")
    if saving == "best" and (config.eval_strategy == "no" or config.metric_for_best_model is None):
        raise RecipeError(
            "'best' requires eval_strategy and metric_for_best_model; set them, or use steps", key="save_strategy"
        )
    if not config.dataloader_num_workers and (
        config.dataloader_persistent_workers or config.dataloader_prefetch_factor
    ):
        raise RecipeError(
            "expected workers, got none; set dataloader_num_workers",
            key="dataloader_persistent_workers, dataloader_prefetch_factor",
        )


def check_machine(config: DertaConfig) -> None:
    """Validate that this machine supports the config.

    Raises:
        RecipeError: fp16 or flex_attention without a GPU, or a logger that is not installed.
    """
    if config.fp16 and not has_accelerator():
        raise RecipeError("expected a GPU, found none; use bf16, or fp32", key="fp16")
    if config.attn_implementation == "flex_attention" and not torch.cuda.is_available():
        raise RecipeError("expected a GPU for flex_attention, found none; use sdpa", key="attn_implementation")
    loggers = get_available_reporting_integrations()
    requested = [config.report_to] if isinstance(config.report_to, str) else config.report_to or []
    for logger in requested:
        if logger not in ("none", "all", *loggers):
            raise RecipeError(
                f"expected an installed logger ({', '.join(loggers) or 'none is'}), got {logger!r}; install it, or "
                "use none",
                key="report_to",
            )


def accumulation_steps(config: DertaConfig, *, num_processes: int) -> Derived:
    """Return the gradient accumulation steps per process that make a step of `global_batch_size` rows.

    >>> from derta.train.config import DertaConfig
    >>> accumulation_steps(DertaConfig("out", global_batch_size=128, per_device_train_batch_size=8), num_processes=4)
    4

    Raises:
        RecipeError: `global_batch_size` is not divisible by the batch size per device times the processes.
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
