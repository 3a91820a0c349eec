"""Ctrl-C at a step of a training."""

from transformers import TrainerCallback


class StopAt(TrainerCallback):
    """Ctrl-C after a step, as a user's."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt
