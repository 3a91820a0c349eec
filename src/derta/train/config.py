"""`DertaConfig`: Hugging Face's `TrainingArguments` with derta's own fields, and the paper's values as defaults."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from enum import Enum
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, cast, get_args, get_type_hints

import torch
from pydantic import Field as Limit
from transformers import TrainingArguments
from transformers.integrations.integration_utils import get_available_reporting_integrations
from transformers.trainer_utils import SaveStrategy, SchedulerType

from derta.config import ELSEWHERE, REFUSED, RENAMED, ModelSection, RowConfig, TrainSection, check_rows, checked_values
from derta.errors import RecipeError, did_you_mean

Sharing = Literal["order", "tokens", "length"]
ARGUMENTS_FILE = "training_args.json"
_MIRRORED = {"gradient_checkpointing": "activation_checkpointing"}
_NOT_SAVED = frozenset({"output_dir", "resume_from_checkpoint", "accelerator_config", "debug"})
_SAVE_STEPS = 500  # Hugging Face's
_ONE_BIN = 2**31
"""A capacity that every micro-batch fits into."""


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
    log_level_replica: str = "error"
    prediction_loss_only: bool = True
    save_strategy: SaveStrategy | str | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    save_steps: Annotated[float, Limit(gt=0)] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    save_total_limit: Annotated[int, Limit(ge=1)] | None = 1
    report_to: str | list[str] | None = "none"
    train_sampling_strategy: Annotated[str, Limit(pattern="^(random|group_by_length)$")] = "random"
    remove_unused_columns: bool = False
    ddp_find_unused_parameters: bool | None = False  # what is not used is frozen

    def __post_init__(self) -> None:
        for name, value in check_config(type(self), vars(self)).items():
            setattr(self, name, value)
        check_machine(self)
        vars(self).update(_saving(self.save_strategy, self.save_steps))
        self.gradient_accumulation_steps = accumulation_steps(self, num_processes=num_processes())
        self.use_cpu = self.use_cpu or not has_accelerator()
        try:
            TrainingArguments.__post_init__(self)
        except (ValueError, TypeError, ImportError) as error:
            raise RecipeError(f"training arguments: {' '.join(str(error).split()):.300}") from error
        if self.n_gpu > 1:  # one process keeps to one GPU: `nn.DataParallel` would tear batches apart
            self._n_gpu = 1

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


def _saving(strategy: str | None, steps: float | None) -> dict[str, Any]:
    """When checkpoints are written, where one of the two does not say."""
    default = "no" if steps is None else "steps"
    return {"save_strategy": strategy or default, "save_steps": steps or _SAVE_STEPS}


def has_accelerator() -> bool:
    """Whether torch finds a device to train on beside the CPU."""
    return torch.accelerator.is_available()


def num_processes() -> int:
    """Processes that share a step, as the launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _defaults(config: type) -> dict[str, Any]:
    return {one.name: _default(one) for one in fields(config) if one.init}


def _default(one: Field[Any]) -> Any:
    return one.default if one.default is not MISSING else cast("Any", one.default_factory)()


def check_config(config: type[DertaConfig], given: Mapping[str, Any]) -> dict[str, Any]:
    """Check values of a config without making one, which would take hold of a device; they come back as typed.

    Raises:
        RecipeError: an unknown or refused name, a value that cannot be, or values that exclude each other.
    """
    defaults = _defaults(config)
    for name, value in given.items():
        if name not in defaults:
            raise RecipeError(f"unknown setting {name}; {did_you_mean(name, defaults)}")
        _check_refused(name, value, defaults=defaults, given=given)
    values = checked_values(config, given)
    types = _types(config)
    for name, value in values.items():
        _check_choice(types[name], name, value)
    _check_together(cast("Any", SimpleNamespace(**(defaults | values))))
    return values


def _check_refused(name: str, value: Any, *, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    if name not in REFUSED or value == defaults[name]:
        return
    settled = cast("Any", SimpleNamespace(**{**defaults, **given}))
    if name == "gradient_accumulation_steps" and value == accumulation_steps(settled, num_processes=num_processes()):
        return
    if name == "do_eval" and settled.eval_strategy != "no":
        return
    raise RecipeError(f"{name}: cannot be set; {REFUSED[name]}")


@cache
def _types(config: type) -> dict[str, Any]:
    """Types of a config's fields, which take milliseconds to evaluate: 130 annotations."""
    return get_type_hints(config)


def _check_choice(kind: Any, name: str, value: Any) -> None:
    for choice in get_args(kind):
        if isinstance(choice, type) and issubclass(choice, Enum) and isinstance(value, str):
            known = [str(one.value) for one in choice]
            if value not in known:
                raise RecipeError(f"{name}: expected one of {', '.join(known)}, got {value!r}")


def _check_together(config: DertaConfig) -> None:
    check_rows(config)
    rows_at_once = config.per_device_train_batch_size
    if config.global_batch_size % rows_at_once:
        raise RecipeError(
            f"global_batch_size: expected a multiple of per_device_train_batch_size ({rows_at_once}), got "
            f"{config.global_batch_size}; change one of them"
        )
    if config.bf16 and config.fp16:
        raise RecipeError("bf16, fp16: expected one of them at most, got both")
    if config.max_steps == 0:
        raise RecipeError("max_steps: expected a number of steps, or -1 for all epochs, got 0")
    by_length = config.train_sampling_strategy == "group_by_length"
    if by_length and (config.pack_tokens or config.reference):
        raise RecipeError("train_sampling_strategy: group_by_length is for padded rows; set pack_tokens to 0")
    if config.attn_implementation == "flash_attention_2" and not (config.bf16 or config.fp16):
        raise RecipeError("attn_implementation: flash_attention_2 computes in 16 bits; set bf16 or fp16")
    if config.eval_strategy == "no" and (config.eval_steps or config.eval_delay):
        raise RecipeError("eval_steps, eval_delay: nothing is evaluated while eval_strategy is 'no'; set it to steps")


def check_machine(config: DertaConfig) -> None:
    """Refuse what this machine does not have.

    Raises:
        RecipeError: fp16 or flex_attention without a GPU, or a logger that is not installed.
    """
    if config.fp16 and not has_accelerator():
        raise RecipeError("fp16: expected a GPU, found none; use bf16, or neither")
    if config.attn_implementation == "flex_attention" and not torch.cuda.is_available():
        raise RecipeError("attn_implementation: expected a GPU for flex_attention, found none; use sdpa")
    loggers = get_available_reporting_integrations()
    wanted = [config.report_to] if isinstance(config.report_to, str) else config.report_to or []
    for logger in wanted:
        if logger not in ("none", "all", *loggers):
            raise RecipeError(
                f"report_to: expected a logger that is installed ({', '.join(loggers) or 'none is'}), got "
                f"{logger!r}; install it, or use none"
            )


def accumulation_steps(config: DertaConfig, *, num_processes: int) -> int:
    """Micro-batches that each process adds up, so that `global_batch_size` rows make a step on however many processes.

    >>> accumulation_steps(DertaConfig("out", global_batch_size=128, per_device_train_batch_size=8), num_processes=4)
    4

    Raises:
        RecipeError: the batch cannot be shared out evenly.
    """
    rows_at_once = config.per_device_train_batch_size * num_processes
    if config.global_batch_size % rows_at_once:
        raise RecipeError(
            f"global_batch_size: expected a multiple of per_device_train_batch_size x processes "
            f"({config.per_device_train_batch_size} x {num_processes}), got {config.global_batch_size}; "
            "change one of them"
        )
    return config.global_batch_size // rows_at_once


def recipe_values(
    train: TrainSection,
    *,
    config: type[DertaConfig] = DertaConfig,
    own: Mapping[str, Any] | None = None,
    where: str = "method_settings",
) -> dict[str, Any]:
    """A recipe's training settings for one method, checked: what its config declares itself is not taken from `train`.

    Raises:
        RecipeError: a setting that cannot be; its key is named.
    """
    declared = {} if config is DertaConfig else vars(config)["__annotations__"]
    own = own or {}
    known = _defaults(config)
    for name in own:
        if name in ELSEWHERE or name in REFUSED:
            raise RecipeError(f"`{where}.{name}`: cannot be set; {ELSEWHERE.get(name) or REFUSED[name]}")
        if name not in known:
            offer = f"did you mean {RENAMED[name]!r}?" if name in RENAMED else did_you_mean(name, known)
            raise RecipeError(f"unknown key `{where}.{name}`; {offer}")
    shared = {name: value for name, value in train.settings.items() if name not in declared}
    try:
        return shared | check_config(config, {**shared, **own})
    except RecipeError as error:
        name, _, told = str(error).partition(": ")
        raise RecipeError(f"`{where if name in own else 'train'}.{name}`: {told}") from error


def train_config(
    train: TrainSection,
    *,
    model: ModelSection,
    method: Any,
    seed: int,
    output_dir: Path,
    config: type[DertaConfig] = DertaConfig,
    own: Mapping[str, Any] | None = None,
) -> DertaConfig:
    """A recipe's training settings as one model's config; takes hold of this process's device.

    Raises:
        RecipeError: a setting that cannot be, or what this machine does not have.
    """
    values = recipe_values(train, config=config, own=own)
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
        name, _, told = str(error).partition(": ")
        raise RecipeError(f"`train.{name}`: {told}") from error


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
    return str(getattr(value, "name", type(value).__name__))
