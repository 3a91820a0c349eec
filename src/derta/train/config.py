"""`DertaConfig`: Hugging Face `TrainingArguments` with derta's additional fields and the paper's values as defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from inspect import get_annotations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field as Limit
from transformers import TrainingArguments
from transformers.trainer_utils import SaveStrategy, SchedulerType

from derta.config import ELSEWHERE, REFUSED, RENAMED, ModelSection, RowConfig, TrainSection
from derta.errors import RecipeError, did_you_mean
from derta.methods import find_method
from derta.train.checks import (
    accumulation_steps,
    check_config,
    check_machine,
    defaults_of,
    has_accelerator,
    invalid_settings_as_recipe_error,
    num_processes,
)

Grouping = Literal["order", "tokens", "length"]
ARGUMENTS_FILE = "training_args.json"
_NOT_SAVED = frozenset({"output_dir", "resume_from_checkpoint", "accelerator_config", "debug"})
_ONE_BIN = 2**31
"""Capacity that every micro-batch fits in."""
_LogLevel = Annotated[str, Limit(pattern="^(debug|info|warning|error|critical|passive)$")]


@dataclass
class DertaConfig(RowConfig, TrainingArguments):
    """Training arguments of one model. The defaults are the paper's for full fine-tuning.

    For LoRA the paper has a learning rate of 1e-4, no warmup, and no dropout of labels (`sorry_dropout=0`).

    Every field of the pinned `TrainingArguments` works as in Hugging Face, or is refused with the reason
    (`derta.config.REFUSED`). `gradient_accumulation_steps` is computed from `global_batch_size`, the batch size per
    device and the number of processes. `save_steps` enables saving.

    A field that has its default takes that of the method, if the method has its own (`Method.defaults`).

    >>> config = DertaConfig("out", method="derta", sorry_dropout=0.9, global_batch_size=32)
    >>> config.gradient_accumulation_steps, config.learning_rate, config.max_length
    (4, 2e-05, 1024)

    Raises:
        RecipeError: an invalid value, arguments that exclude each other, or an option that this machine lacks.
    """

    per_device_train_batch_size: Annotated[int, Limit(ge=1)] = 8
    num_train_epochs: Annotated[float, Limit(gt=0)] = 2.0
    max_steps: Annotated[int, Limit(ge=-1)] = -1
    learning_rate: Annotated[float, Limit(gt=0)] = 2e-5
    lr_scheduler_type: SchedulerType | str = "cosine"
    warmup_steps: Annotated[float, Limit(ge=0)] = 0.03
    weight_decay: Annotated[float, Limit(ge=0)] = 2e-5
    gradient_accumulation_steps: int = 0
    logging_steps: Annotated[float, Limit(gt=0)] = 10
    logging_nan_inf_filter: bool = False
    log_level: _LogLevel = "passive"
    log_level_replica: _LogLevel = "error"
    prediction_loss_only: bool = True
    save_strategy: SaveStrategy | str | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    save_steps: Annotated[float, Limit(gt=0)] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    save_total_limit: Annotated[int, Limit(ge=1)] | None = 1
    report_to: None | str | list[str] = "none"  # noqa: RUF036 - HfArgumentParser needs this order
    hub_token: str | None = field(default=None, repr=False)
    train_sampling_strategy: Annotated[str, Limit(pattern="^(random|group_by_length)$")] = "random"
    remove_unused_columns: bool = False
    ddp_find_unused_parameters: bool | None = False  # unused parameters are frozen

    def __post_init__(self) -> None:
        vars(self).update(method_defaults(self.method, config=type(self), values=vars(self)))
        for name, value in check_config(type(self), vars(self)).items():
            setattr(self, name, value)
        check_machine(self)
        saving = self.save_strategy or ("no" if self.save_steps is None else "steps")
        steps = self.save_steps or (500 if saving == "steps" else None)  # Hugging Face's default
        vars(self).update(save_strategy=saving, save_steps=steps)
        self.report_to = self.report_to or "none"
        self.gradient_accumulation_steps = accumulation_steps(self, num_processes=num_processes())
        self.use_cpu = self.use_cpu or not has_accelerator()
        with invalid_settings_as_recipe_error("training arguments"):
            TrainingArguments.__post_init__(self)
        if self.n_gpu > 1:  # a process uses one GPU: `nn.DataParallel` would split batches
            self._n_gpu = 1

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict without tokens, with the method's name instead of the method, for loggers."""
        return TrainingArguments.to_dict(self) | {"method": _named(self.method)}

    @property
    def grouping(self) -> Grouping:
        """Grouping of a step's rows into micro-batches: in order, balanced by tokens, or by similar length."""
        if self.reference or self.normalization == "micro_batch":
            return "order"
        by_length = self.train_sampling_strategy == "group_by_length"
        return "tokens" if self.pack_tokens else "length" if by_length else "order"

    @property
    def one_bin(self) -> bool:
        """True if a micro-batch is one sequence: flash attention separates packed rows only in a batch of one."""
        return self.attn_implementation == "flash_attention_2" and self.pack_tokens > 0

    @property
    def bin_capacity(self) -> int:
        """Maximum tokens of a packed sequence; 0 if rows are padded."""
        return 0 if self.reference else _ONE_BIN if self.one_bin else self.pack_tokens

    @property
    def mean_by_micro_batch(self) -> bool:
        """True if the loss is averaged over each micro-batch, as in the released code, instead of the whole step."""
        return self.reference or self.normalization == "micro_batch"

    @property
    def rows_seed(self) -> int:
        """Seed of the random draws and of the order of rows."""
        return self.seed if self.data_seed is None else self.data_seed


def method_defaults(method: Any, *, config: type[DertaConfig], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the method's defaults for the fields that have the general default in `values`.

    Raises:
        RecipeError: an unknown method, or a default for a field that does not exist.
    """
    general = defaults_of(config)
    found = find_method(method)
    own = found.defaults
    if unknown := [name for name in own if name not in general]:
        raise RecipeError(
            f"{found.name}: unknown setting {unknown[0]!r} in its defaults; {did_you_mean(unknown[0], general)}"
        )
    return {name: value for name, value in own.items() if values.get(name, general[name]) == general[name]}


def recipe_values(
    train: TrainSection,
    *,
    method: Any = RowConfig.method,
    config: type[DertaConfig] = DertaConfig,
    overrides: Mapping[str, Any] | None = None,
    where: str = "method_settings",
) -> dict[str, Any]:
    """Return the validated training settings of a recipe for one method.

    Fields that the method's config declares itself take no value from the shared `train` section. A value of `train`
    that is the general default counts as not set, so that the method's own default applies.

    Raises:
        RecipeError: an invalid setting; the message names its key.
    """
    declared = _declared(config)
    overrides = overrides or {}
    valid_names = defaults_of(config)
    for name in overrides:
        if name in ELSEWHERE or name in REFUSED:
            raise RecipeError(f"`{where}.{name}`: cannot be set; {ELSEWHERE.get(name) or REFUSED[name]}")
        if name not in valid_names:
            suggestion = f"did you mean {RENAMED[name]!r}?" if name in RENAMED else did_you_mean(name, valid_names)
            raise RecipeError(f"unknown key `{where}.{name}`; {suggestion}")
    shared = {name: value for name, value in train.settings.items() if name not in declared}
    shared |= method_defaults(method, config=config, values=shared)
    try:
        return shared | check_config(config, {**shared, **overrides})
    except RecipeError as error:
        raise error.within(where if error.key in overrides else "train") from error


def _declared(config: type[DertaConfig]) -> set[str]:
    """Return the names of the fields that a method's config and its bases below `DertaConfig` declare."""
    own = config.__mro__[: config.__mro__.index(DertaConfig)]
    return {name for base in own for name in get_annotations(base)}


def train_config(
    train: TrainSection,
    *,
    model: ModelSection,
    method: Any,
    seed: int,
    output_dir: Path,
    config: type[DertaConfig] = DertaConfig,
    overrides: Mapping[str, Any] | None = None,
) -> DertaConfig:
    """Build one model's training config from a recipe's settings. It allocates the device of this process.

    Raises:
        RecipeError: an invalid setting, or one that this machine does not support.
    """
    values = recipe_values(train, method=method, config=config, overrides=overrides)
    try:
        return config(
            output_dir=str(output_dir),
            method=_without_defaults(method),
            seed=seed,
            disable_tqdm=True,
            template=model.template,
            template_kwargs=model.template_kwargs,
            template_date=model.template_date,
            refusal_words=model.refusal_words,
            trust_remote_code=model.trust_remote_code,
            **values,
        )
    except RecipeError as error:
        raise error.within("train") from error


def _without_defaults(method: Any) -> Any:
    """Return a method whose defaults are already in the config's values, which may override them."""
    found = find_method(method)
    return replace(found, defaults={}) if found.defaults else method


def write_arguments(config: TrainingArguments, folder: Path) -> None:
    """Write training arguments as JSON, without secrets and local paths.

    It replaces the pickle that `Trainer` saves with every model.
    """
    arguments: dict[str, Any] = {}
    for argument in fields(config):
        if argument.init and argument.name not in _NOT_SAVED and not argument.name.endswith("token"):
            value = getattr(config, argument.name)
            arguments[argument.name] = value.value if isinstance(value, Enum) else value
    text = json.dumps(arguments, indent=1, default=_named)
    (folder / ARGUMENTS_FILE).write_text(text + "\n", encoding="utf-8")


def _named(value: Any) -> str:
    return value if isinstance(value, str) else str(getattr(value, "name", type(value).__name__))
