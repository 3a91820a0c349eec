"""Training progress: a Trainer callback that drives a caller's display."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from derta.protocols import Display, ProgressTask

STEPS_LOGGER = "steps"
"""The child of a display's logger that gets one line a logging step: a terminal that shows the bar may drop it."""


class ProgressCallback(TrainerCallback):
    """Update a progress task at every optimizer step, and log the losses."""

    def __init__(self, task: ProgressTask, logger: logging.Logger) -> None:
        self._task = task
        self._logger = logger

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Set the number of steps, and those that a resumed training has done."""
        del args, control
        self._task.set_total(state.max_steps)
        self._task.update(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Count one step more."""
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
def training_progress(display: Display, description: str) -> Generator[ProgressCallback]:
    """Yield a callback for a Trainer that shows its steps while the block runs."""
    with display.progress.task(description, total=0) as task:
        yield ProgressCallback(task, display.logger.getChild(STEPS_LOGGER))
