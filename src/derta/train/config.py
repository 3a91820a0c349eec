"""`DertaConfig`: Hugging Face's `TrainingArguments` with derta's own fields, and the paper's values as defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field as Limit
from transformers import TrainingArguments
from transformers.trainer_utils import SaveStrategy, SchedulerType

from derta.config import ELSEWHERE, REFUSED, RENAMED, ModelSection, RowConfig, TrainSection
from derta.errors import RecipeError, did_you_mean
from derta.train.checks import (
    accumulation_steps,
    check_config,
    check_machine,
    defaults_of,
    has_accelerator,
    invalid_settings_as_recipe_error,
    num_processes,
)

Sharing = Literal["order", "tokens", "length"]
ARGUMENTS_FILE = "training_args.json"
_NOT_SAVED = frozenset({"output_dir", "resume_from_checkpoint", "accelerator_config", "debug"})
_ONE_BIN = 2**31
"""A capacity that every micro-batch fits into."""
_LogLevel = Annotated[str, Limit(pattern="^(debug|info|warning|error|critical|passive)$")]


@dataclass
class DertaConfig(RowConfig, TrainingArguments):
    """How one model is tuned; paper, full fine-tuning: the defaults. LoRA: learning rate 1e-4, no warmup, no dropout.

    Every field of the pinned `TrainingArguments` works as there, or is refused with the reason
    (`derta.config.REFUSED`). `gradient_accumulation_steps` follows from `global_batch_size`, the size per device and
    the number of processes. `save_steps` alone turns saving on.

    >>> config = DertaConfig("out", method="derta", sorry_dropout=0.9, global_batch_size=32)
    >>> config.gradient_accumulation_steps, config.learning_rate, config.max_length
    (4, 2e-05, 1024)

    Raises:
        RecipeError: a value that cannot be, settings that exclude each other, or what this machine does not have.
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
    report_to: None | str | list[str] = "none"  # noqa: RUF036 - the order that HfArgumentParser can read
    hub_token: str | None = field(default=None, repr=False)
    train_sampling_strategy: Annotated[str, Limit(pattern="^(random|group_by_length)$")] = "random"
    remove_unused_columns: bool = False
    ddp_find_unused_parameters: bool | None = False  # what is not used is frozen

    def __post_init__(self) -> None:
        for name, value in check_config(type(self), vars(self)).items():
            setattr(self, name, value)
        check_machine(self)
        saving = self.save_strategy or ("no" if self.save_steps is None else "steps")
        steps = self.save_steps or (500 if saving == "steps" else None)  # Hugging Face's
        vars(self).update(save_strategy=saving, save_steps=steps)
        self.report_to = self.report_to or "none"
        self.gradient_accumulation_steps = accumulation_steps(self, num_processes=num_processes())
        self.use_cpu = self.use_cpu or not has_accelerator()
        with invalid_settings_as_recipe_error("training arguments"):
            TrainingArguments.__post_init__(self)
        if self.n_gpu > 1:  # one process keeps to one GPU: `nn.DataParallel` would tear batches apart
            self._n_gpu = 1

    def to_dict(self) -> dict[str, Any]:
        """As in Hugging Face's, tokens left out; a method is given by its name, so that loggers can write it."""
        return TrainingArguments.to_dict(self) | {"method": _named(self.method)}

    @property
    def sharing(self) -> Sharing:
        """How a step's rows go to its micro-batches: in order, evenly by tokens, or by like length."""
        if self.reference or self.normalization == "micro_batch":
            return "order"
        by_length = self.train_sampling_strategy == "group_by_length"
        return "tokens" if self.pack_tokens else "length" if by_length else "order"

    @property
    def one_bin(self) -> bool:
        """Whether a micro-batch is one sequence: flash attention tells packed rows apart in no other case."""
        return self.attn_implementation == "flash_attention_2" and self.pack_tokens > 0

    @property
    def bin_capacity(self) -> int:
        """Tokens of a packed sequence; 0: rows are padded."""
        return 0 if self.reference else _ONE_BIN if self.one_bin else self.pack_tokens

    @property
    def mean_by_micro_batch(self) -> bool:
        """Whether each micro-batch takes its own mean, as in the released code."""
        return self.reference or self.normalization == "micro_batch"

    @property
    def rows_seed(self) -> int:
        """What the draws and the order of rows follow from."""
        return self.seed if self.data_seed is None else self.data_seed


def recipe_values(
    train: TrainSection,
    *,
    config: type[DertaConfig] = DertaConfig,
    overrides: Mapping[str, Any] | None = None,
    where: str = "method_settings",
) -> dict[str, Any]:
    """A recipe's training settings for one method, checked: what its config declares itself is not taken from `train`.

    Raises:
        RecipeError: a setting that cannot be; its key is named.
    """
    declared = {} if config is DertaConfig else vars(config)["__annotations__"]
    overrides = overrides or {}
    known = defaults_of(config)
    for name in overrides:
        if name in ELSEWHERE or name in REFUSED:
            raise RecipeError(f"`{where}.{name}`: cannot be set; {ELSEWHERE.get(name) or REFUSED[name]}")
        if name not in known:
            offer = f"did you mean {RENAMED[name]!r}?" if name in RENAMED else did_you_mean(name, known)
            raise RecipeError(f"unknown key `{where}.{name}`; {offer}")
    shared = {name: value for name, value in train.settings.items() if name not in declared}
    try:
        return shared | check_config(config, {**shared, **overrides})
    except RecipeError as error:
        raise error.within(where if error.key in overrides else "train") from error


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
    """A recipe's training settings as one model's config; takes hold of this process's device.

    Raises:
        RecipeError: a setting that cannot be, or what this machine does not have.
    """
    values = recipe_values(train, config=config, overrides=overrides)
    try:
        return config(
            output_dir=str(output_dir),
            method=method,
            seed=seed,
            disable_tqdm=True,
            template=model.template,
            template_kwargs=model.template_kwargs,
            refusal_words=model.refusal_words,
            trust_remote_code=model.trust_remote_code,
            **values,
        )
    except RecipeError as error:
        raise error.within("train") from error


def write_arguments(config: TrainingArguments, folder: Path) -> None:
    """Write what a model was trained with as JSON; no secret, and no path of this machine.

    In place of the pickle that `Trainer` saves beside every model.
    """
    kept: dict[str, Any] = {}
    for one in fields(config):
        if one.init and one.name not in _NOT_SAVED and not one.name.endswith("token"):
            value = getattr(config, one.name)
            kept[one.name] = value.value if isinstance(value, Enum) else value
    text = json.dumps(kept, indent=1, default=_named)
    (folder / ARGUMENTS_FILE).write_text(text + "\n", encoding="utf-8")


def _named(value: Any) -> str:
    return value if isinstance(value, str) else str(getattr(value, "name", type(value).__name__))
