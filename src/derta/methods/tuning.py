"""Entry points of all methods: train a model, resumably, or estimate the time and memory of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from derta.chat import chat_format, refusal_tokens
from derta.data.mixture import TrainingSet
from derta.errors import RecipeError
from derta.methods.method import Method
from derta.run_folder import clean_up_training

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback

    from derta.config import LoraSection, ModelSection, TrainSection
    from derta.train.config import DertaConfig
    from derta.train.estimate import Estimate, Plan, Speed


class TrainingEstimate(NamedTuple):
    """Estimate of a training: its counted work (`plan`), and the time and memory of a short probe.

    `speed` is that of the probe, for other methods that `shares_speed`; None for a method with a trainer of its own.
    """

    plan: Plan
    estimate: Estimate
    speed: Speed | None = None


SAME_SPEED = (
    *("method", "output_dir", "run_name", "logging_dir", "learning_rate", "weight_decay", "warmup_steps"),
    *("num_train_epochs", "max_steps", "lr_scheduler_type", "sorry_dropout", "sorry_dropout_end"),
    *("helpful_weight", "safe_weight", "rto_weight", "completion_weight", "counter_weight", "rto_margin"),
    *("prefix_share", "max_prefix", "completion_per_triple", "counter_per_triple", "earlier_turn_share", "follow_ups"),
)
"""Fields of a config on which the seconds of a multiplication do not depend."""


def shares_speed(first: tuple[Method, DertaConfig], second: tuple[Method, DertaConfig]) -> bool:
    """Return whether two methods train equally fast on equal rows: the same loss, and settings that differ in rows."""
    if any(one.trainer or one.loss or config.anchor_weight for one, config in (first, second)):
        return False
    names = [field.name for field in fields(first[1]) if field.name not in SAME_SPEED]
    return all(getattr(first[1], name) == getattr(second[1], name) for name in names)


def plan_training(
    method: Method, *, config: DertaConfig, data: TrainingSet, tokenizer: PreTrainedTokenizerBase
) -> Plan | None:
    """Return the counted work of a training, without loading a model; None if the method's own trainer counts it."""
    from derta.train.estimate import plan_rows

    if method.trainer is not None or method.plan is not None:
        return None
    config = copy(config)
    config.method = method
    return plan_rows(_encode(method, data, config=config, tokenizer=tokenizer), config)


def method_config(
    method: Method,
    train: TrainSection,
    *,
    model: ModelSection,
    seed: int,
    output_dir: Path,
    settings: Mapping[str, Any] | None = None,
) -> DertaConfig:
    """Return a recipe's settings for one method, `train` and the method's `method_settings`, as a config.

    Raises:
        RecipeError: a value that is not valid, or hardware that this machine lacks.
    """
    from derta.train.config import train_config

    return train_config(
        train,
        model=model,
        method=method,
        seed=seed,
        output_dir=output_dir,
        config=_config_class(method),
        overrides=settings,
    )


def check_settings(method: Method, train: TrainSection, settings: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """Validate a recipe's settings for one method and return them, without initialising a device.

    Raises:
        RecipeError: a value that is not valid.
    """
    from derta.train.config import recipe_values

    where = f"method_settings.{method.name}"
    return recipe_values(train, method=method, config=_config_class(method), overrides=settings, where=where)


def _config_class(method: Method) -> type[DertaConfig]:
    from derta.train.config import DertaConfig

    return DertaConfig if method.config is None else method.config()


def tune(
    method: Method,
    *,
    model: str,
    config: DertaConfig,
    data: TrainingSet | Sequence[Any],
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    lora: LoraSection | None = None,
    init_from: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """Train a model, or resume training from its checkpoints, and save it to `out`.

    `out` appears only when training is complete; until then checkpoints are in `out` + `.checkpoints`, if the config
    saves any. An existing output is returned without training.

    Args:
        method: One of `METHODS`, or a custom method.
        model: The name or folder of the model; with an adapter in `init_from`: its base model.
        config: The settings; `output_dir` is set from `out`.
        data: A training set, or the output of the method's `dataset`.
        tokenizer: The model's tokenizer.
        out: The output folder of the tuned model.
        lora: Train an adapter instead of the full model.
        init_from: A tuned model or adapter to initialise from.
        callbacks: Callbacks of the Trainer.

    Returns:
        `out`: a stock checkpoint, or with `lora` a PEFT adapter; `train_log.json` holds the losses by term.
    """
    from derta.loading import without_progress_bars
    from derta.train.checkpoints import train_and_save
    from derta.train.memory import reset_peak_memory
    from derta.train.tracking import tracked

    if out.exists():
        clean_up_training(out)
        return out
    if not method.trains:
        raise RecipeError(f"{method.name}: expected a method that trains, got the baseline without training")
    reset_peak_memory()
    config = copy(config)
    config.output_dir = str(out.with_name(out.name + ".checkpoints"))
    trainer = _build(method, model, config, data, tokenizer, lora=lora, init_from=init_from, callbacks=callbacks)
    with without_progress_bars(), tracked(config):
        return train_and_save(trainer, config=config, out=out)


def estimate(
    method: Method,
    *,
    model: str,
    config: DertaConfig,
    data: TrainingSet | Sequence[Any],
    tokenizer: PreTrainedTokenizerBase,
    lora: LoraSection | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingEstimate:
    """Return the counted work of a training, and its time and peak memory, measured on a few micro-batches.

    The model of the method's `init_from` need not exist: it is as large as `model`.
    """
    from functools import partial

    from derta.train.estimate import measure, plan, probe
    from derta.train.memory import out_of_memory_as_model_error, reset_peak_memory, training_advice

    reset_peak_memory()
    trainer: Any = _build(method, model, config, data, tokenizer, lora=lora, init_from=None, callbacks=callbacks)
    planned = (method.plan or plan)(trainer)
    with out_of_memory_as_model_error(partial(training_advice, config, trainer.model)):
        if method.trainer is not None or config.anchor_weight:
            return TrainingEstimate(planned, probe(trainer, planned))
        speed = measure(trainer, planned)
        return TrainingEstimate(planned, speed.estimate(planned), speed)


def _build(
    method: Method,
    model: str,
    config: DertaConfig,
    data: TrainingSet | Sequence[Any],
    tokenizer: PreTrainedTokenizerBase,
    **options: Any,
) -> Trainer:
    from transformers.trainer_callback import PrinterCallback

    rows: Sequence[Any] = data  # type: ignore[assignment]
    if isinstance(data, TrainingSet):
        rows = _encode(method, data, config=config, tokenizer=tokenizer)
    build = method.trainer or row_trainer
    trainer = build(method, model, config=config, rows=rows, tokenizer=tokenizer, **options)
    trainer.remove_callback(PrinterCallback)  # standard output is the command's
    return trainer


def _encode(
    method: Method, data: TrainingSet, *, config: DertaConfig, tokenizer: PreTrainedTokenizerBase
) -> Sequence[Any]:
    chat = chat_format(
        tokenizer, template=config.template, template_kwargs=config.template_kwargs, date=config.template_date
    )
    return method.dataset(data, chat=chat, refusals=refusal_tokens(chat, config.refusal_words), config=config)


def row_trainer(
    method: Method,
    model: str,
    *,
    config: DertaConfig,
    rows: Sequence[Any],
    tokenizer: PreTrainedTokenizerBase,
    lora: LoraSection | None,
    init_from: Path | None,
    callbacks: Sequence[TrainerCallback],
) -> Trainer:
    """Return the trainer of a method that trains on rows."""
    from derta.train.adapters import initial_path, load_initial_model
    from derta.train.memory import loading_advice, out_of_memory_as_model_error
    from derta.train.preparation import prepare_process
    from derta.train.saving import DTYPES, dtype_to_save
    from derta.train.trainer import DertaTrainer

    config = copy(config)
    config.method = method
    prepare_process(config)
    with out_of_memory_as_model_error(loading_advice):
        net = load_initial_model(model, config, lora=lora, init_from=init_from)
        config.save_dtype = DTYPES[dtype_to_save(initial_path(model, init_from), config)]
        return DertaTrainer(
            net,
            config,
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
