"""Progress of training: a Trainer callback that updates a caller's display."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from derta.protocols import Display, ProgressTask

STEPS_LOGGER = "steps"
"""Name of the child logger with one line for each logging step, which a terminal with a progress bar may hide."""


class ProgressCallback(TrainerCallback):
    """Callback that updates a progress task at every optimizer step, and logs the losses."""

    def __init__(self, task: ProgressTask, logger: logging.Logger) -> None:
        self._task = task
        self._logger = logger

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Set the number of steps, and those completed before training was resumed."""
        del args, control
        self._task.set_total(state.max_steps)
        self._task.update(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Add one completed step."""
        del args, control
        self._task.update(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Log the values of a training step."""
        del args, control
        if logs and "loss" in logs:
            values = ", ".join(f"{name} {value:.4g}" for name, value in logs.items() if name != "epoch")
            self._logger.info("step %d of %d: %s", state.global_step, state.max_steps, values)


@contextmanager
def training_progress(display: Display, description: str, *, losses: bool = True) -> Generator[ProgressCallback]:
    """Yield a Trainer callback that shows progress while the block runs, and logs the losses if not told otherwise."""
    logger = display.logger.getChild(STEPS_LOGGER) if losses else logging.Logger("not shown")
    with display.progress.task(description, total=0) as task:
        yield ProgressCallback(task, logger)
