"""A progress bar that follows the Trainer."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from derta.cli.console import Bar, bar, console, say


class ShowSteps(TrainerCallback):
    """Moves a bar at every optimizer step."""

    def __init__(self, shown: Bar) -> None:
        self._shown = shown

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Learn how many steps there are."""
        del args, control
        self._shown.expect(state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """One step more."""
        del args, control
        self._shown.to(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Where no terminal shows the bar, one line a log."""
        del args, control
        if logs and "loss" in logs and not console.is_terminal:
            values = ", ".join(f"{name} {value:.4g}" for name, value in logs.items() if name != "epoch")
            say(f"step {state.global_step} of {state.max_steps}: {values}")


@contextmanager
def training_bar(what: str) -> Generator[ShowSteps]:
    """A callback for `fit` that shows its steps while the block runs."""
    with bar(what, 0) as shown:
        yield ShowSteps(shown)
