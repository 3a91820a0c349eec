"""The `train` section of a recipe: supported, refused and renamed fields of `TrainingArguments`, and LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic import Field, model_serializer, model_validator

from derta.config.rows import ROW_FIELDS, RowConfig
from derta.config.sections import Section
from derta.errors import RecipeError, did_you_mean

WORKING = frozenset({
    "output_dir", "per_device_train_batch_size", "num_train_epochs", "max_steps", "learning_rate",
    "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args", "weight_decay", "adam_beta1",
    "adam_beta2", "adam_epsilon", "optim_target_modules", "max_grad_norm", "bf16", "fp16", "tf32",
    "activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing",
    "gradient_checkpointing_kwargs", "torch_empty_cache_steps", "logging_strategy", "logging_steps",
    "logging_first_step", "log_on_each_node", "include_num_input_tokens_seen", "log_level", "log_level_replica",
    "disable_tqdm", "report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id",
    "trackio_static_space_id", "eval_strategy", "eval_steps", "eval_delay", "per_device_eval_batch_size",
    "eval_on_start", "save_only_model", "save_strategy", "save_steps", "save_on_each_node", "save_total_limit",
    "enable_jit_checkpoint", "push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy",
    "hub_always_push", "hub_revision", "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
    "ignore_data_skip", "restore_callback_states_from_checkpoint", "full_determinism", "seed", "data_seed",
    "use_cpu", "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers",
    "dataloader_prefetch_factor", "dataloader_multiprocessing_context", "dataloader_in_order",
    "train_sampling_strategy", "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers",
    "ddp_static_graph", "ddp_backend", "ddp_timeout", "debug", "skip_memory_metrics", "resume_from_checkpoint",
})  # fmt: skip
"""Fields of `TrainingArguments` that work with derta's loss and packing as with any Trainer."""

_PREDICTIONS = "evaluation gives the losses by term, no predictions"
_LAUNCH = "shard by `accelerate launch --config_file` with a config of recipes/accelerate"
REFUSED: Mapping[str, str] = {
    "gradient_accumulation_steps": "it follows from global_batch_size, per_device_train_batch_size and the processes",
    "average_tokens_across_devices": "a step is divided by the labels of all devices, so that no split changes it",
    "label_smoothing_factor": "the loss is Eq. 1 of the paper, whose targets are single tokens",
    "bf16_full_eval": "it casts the trained weights themselves; evaluation is in bf16 where training is",
    "fp16_full_eval": "it casts the trained weights themselves; evaluation is in fp16 where training is",
    "torch_compile": "it recompiles for every shape of a packed batch; set compile_layers",
    "torch_compile_backend": "it would compile the whole model; set compile_layers",
    "torch_compile_mode": "it would compile the whole model; set compile_layers",
    "use_liger_kernel": "derta computes logits at labelled positions only, and Liger computes all",
    "liger_kernel_config": "derta computes logits at labelled positions only, and Liger computes all",
    "use_cache": "packed rows would attend to each other through a cache",
    "neftune_noise_alpha": "rows of a batch share embeddings and trees share trunks, so noise would change the method",
    "auto_find_batch_size": "a smaller micro-batch would make a smaller step; set per_device_train_batch_size",
    "logging_nan_inf_filter": "a NaN or infinite loss stops training, and the error names its rows",
    "prediction_loss_only": _PREDICTIONS,
    "eval_do_concat_batches": _PREDICTIONS,
    "eval_use_gather_object": _PREDICTIONS,
    "eval_accumulation_steps": _PREDICTIONS,
    "include_for_metrics": _PREDICTIONS,
    "batch_eval_metrics": _PREDICTIONS,
    "label_names": "labels are listed by position, so no input is a label; rows have `labels`",
    "accelerator_config": "the sampler itself distributes a step over the processes",
    "parallelism_config": "every process must have different rows",
    "dataloader_drop_last": "every row is trained once per epoch; the last step has the remaining rows",
    "remove_unused_columns": "rows are drawn again in every epoch, so no column is unused",
    "length_column_name": "rows are drawn again in every epoch, and their lengths are computed then",
    "fsdp": _LAUNCH,
    "fsdp_config": _LAUNCH,
    "deepspeed": _LAUNCH,
    "do_train": "it is a flag for scripts; call train()",
    "do_eval": "it is a flag for scripts; set eval_strategy, or call evaluate()",
    "do_predict": "it is a flag for scripts; use derta.load_engine to generate replies",
    "local_rank": "it is read from the launcher's environment",
}
"""Refused fields with the reason: they would be ignored, or break the loss or the packing."""

_NO_PUSH = "a run pushes nothing; `derta publish` uploads a finished model with a card"
_NO_EVAL = "a run evaluates its models after training"
ELSEWHERE: Mapping[str, str] = {
    "method": "list it under `methods`",
    "seed": "list it under `seeds`",
    "output_dir": "set the run folder by --out",
    "template": "set `model.template`",
    "template_kwargs": "set `model.template_kwargs`",
    "template_date": "set `model.template_date`",
    "refusal_words": "set `model.refusal_words`",
    "trust_remote_code": "set `model.trust_remote_code`",
    "disable_tqdm": "the command line shows the progress",
    "resume_from_checkpoint": "a run resumes by itself",
    "save_only_model": "a run needs the optimizer state of its checkpoints to resume",
    **dict.fromkeys(
        ("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push",
         "hub_revision"),
        _NO_PUSH,
    ),
    **dict.fromkeys(
        ("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "per_device_eval_batch_size",
         "load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
        _NO_EVAL,
    ),
}  # fmt: skip
"""Fields that a recipe sets in another section, or cannot set, with the reason."""

RENAMED: Mapping[str, str] = {
    "epochs": "num_train_epochs",
    "batch_size": "global_batch_size",
    "micro_batch_size": "per_device_train_batch_size",
    "schedule": "lr_scheduler_type",
    "warmup": "warmup_steps",
    "warmup_ratio": "warmup_steps",
    "group_by_length": "train_sampling_strategy: group_by_length",
    "term_weights": "helpful_weight, safe_weight, rto_weight, completion_weight or counter_weight",
    "attention": "attn_implementation",
    "compile": "compile_layers",
    "peft_config": "lora",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
}
"""Field names of earlier versions and of other libraries, with their names in derta."""


def allowed_fields() -> list[str]:
    """Return the valid field names of a recipe's `train` section, without `lora`."""
    return sorted(({*ROW_FIELDS, *WORKING}) - ELSEWHERE.keys())


def check_field(name: str, *, section: str = "train") -> None:
    """Validate the name of a training setting.

    Raises:
        RecipeError: the name is unknown, refused, or belongs to another section of a recipe.
    """
    if name in allowed_fields():
        return
    if reason := REFUSED.get(name) or ELSEWHERE.get(name):
        raise RecipeError(f"`{section}.{name}`: cannot be set; {reason}")
    offer = f"did you mean {RENAMED[name]!r}?" if name in RENAMED else did_you_mean(name, [*allowed_fields(), "lora"])
    raise RecipeError(f"unknown key `{section}.{name}`; {offer}")


class LoraSection(Section):
    """Configuration of LoRA adapters, with PEFT's names and the paper's values.

    Attributes:
        r: Rank.
        lora_alpha: Scale; the update is multiplied by `lora_alpha / r`.
        lora_dropout: Dropout on the input of the adapters.
        target_modules: Names of the linear layers to adapt, or a regular expression.
        target_parameters: Names of parameters to adapt that are not linear layers, such as fused experts; requires
            `lora_dropout: 0`.
        load_in_4bit: Load the frozen base model in NF4 (QLoRA); requires the extra `quant`.
    """

    r: int = Field(default=96, ge=1)
    lora_alpha: int = 16
    lora_dropout: float = Field(default=0.05, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "all-linear"
    target_parameters: tuple[str, ...] = ()
    load_in_4bit: bool = False


class TrainSection(Section):
    """The `train` section: `lora`, and any supported field of `RowConfig` and Hugging Face's `TrainingArguments`.

    Names are validated here. The values of `TrainingArguments` are validated by `train.config`, which needs torch.

    >>> train = TrainSection.model_validate({"num_train_epochs": 1, "sorry_dropout": 0.9})
    >>> train.rows.sorry_dropout, train.settings["num_train_epochs"]
    (0.9, 1)

    Attributes:
        settings: All fields of `RowConfig`, and the fields of `TrainingArguments` in the recipe.
        lora: Train LoRA adapters instead of the full model; `true` has the paper's values.
    """

    settings: dict[str, Any] = Field(default_factory=dict)
    lora: LoraSection | None = None

    @model_validator(mode="before")
    @classmethod
    def _split(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        settings: dict[str, Any] = {str(key): value for key, value in values.items() if key != "lora"}
        for name in settings:
            check_field(name)
        try:
            rows = RowConfig(**{name: value for name, value in settings.items() if name in ROW_FIELDS})
        except RecipeError as error:
            raise error.within("train") from error
        row_settings = {name: value for name, value in asdict(rows).items() if name not in ELSEWHERE}
        lora = values.get("lora")
        return {"settings": settings | row_settings, "lora": ({} if lora else None) if isinstance(lora, bool) else lora}

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return self.settings | {"lora": None if self.lora is None else self.lora.model_dump()}

    @property
    def rows(self) -> RowConfig:
        """Configuration of rows: the settings that are fields of `RowConfig`."""
        return RowConfig(**{name: self.settings[name] for name in ROW_FIELDS if name in self.settings})
