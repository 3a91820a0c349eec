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

from derta.config import REFUSED, check_together, validate_values
from derta.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from derta.train.config import DertaConfig


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
    check_together(SimpleNamespace(**(defaults | parsed)))
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
