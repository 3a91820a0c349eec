import logging

from transformers import TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from derta.pipeline.training import STEPS_LOGGER, training_progress
from derta.protocols import Display
from recorded_progress import RecordedProgress


def test_a_resumed_training_shows_the_completed_steps_first_and_logs_each_loss(tmp_path, caplog):
    progress, logger = RecordedProgress(), logging.getLogger("theirs")
    arguments, state = TrainingArguments(str(tmp_path)), TrainerState(max_steps=4, global_step=2)
    event = {"args": arguments, "state": state, "control": TrainerControl()}
    with caplog.at_level(logging.INFO, "theirs"), training_progress(Display(progress, logger), "mine") as callback:
        callback.on_train_begin(**event)
        state.global_step = 3
        callback.on_step_end(**event)
        callback.on_log(**event, logs={"loss": 0.123456, "epoch": 1.0, "loss_rto": 2})
        callback.on_log(**event, logs={"train_runtime": 3.0})
        callback.on_log(**event, logs=None)
    assert progress.tasks == {"mine": [4, 2, 3]}
    assert caplog.record_tuples == [(f"theirs.{STEPS_LOGGER}", logging.INFO, "step 3 of 4: loss 0.1235, loss_rto 2")]
