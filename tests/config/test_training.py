"""The record of Hugging Face's training arguments, and the checks that it allows without torch."""

import importlib.util
from pathlib import Path

import pytest

from derta.config import combination_faults, setting_faults, training_fields

SCRIPT = Path(__file__).parents[2] / "scripts/training_fields.py"


def test_the_record_is_that_of_the_pinned_version():
    spec = importlib.util.spec_from_file_location("training_fields", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    recorded = {name: one._asdict() for name, one in training_fields().items()}
    assert recorded == module.training_fields(), "run `python scripts/training_fields.py`"
    assert [name for name, one in training_fields().items() if not one.description] == []


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"max_steps": 10, "sorry_dropout": "0.5", "lr_scheduler_type": "linear", "report_to": ["tensorboard"]}, []),
        ({"epochs": 1}, ["unknown key `train.epochs`; did you mean 'num_train_epochs'?"]),
        ({"fsdp": "x", "seed": 3}, ["`train.fsdp`: cannot be set; shard", "`train.seed`: cannot be set; list it"]),
        ({"learning_rate": 0}, ["`train.learning_rate`: Input should be greater than 0, got 0"]),
        ({"optim": "adam"}, ["`train.optim`: Input should be 'adamw_torch'"]),
        ({"max_length": 1, "bf16": 3}, ["`train.max_length`", "`train.bf16`"]),
        ({"beta": 1}, ["unknown key `train.beta`"]),
    ],
)
def test_all_faulty_settings_are_named(values, parts):
    messages = [str(fault) for fault in setting_faults(values, where="train")]
    assert len(messages) == len(parts), messages
    assert all(part in message for part, message in zip(parts, messages, strict=True))


def test_a_field_that_a_method_adds_is_known_in_its_section():
    assert [*setting_faults({"beta": 1}, where="method_settings.dpo", own=["beta"])] == []


def test_settings_that_exclude_each_other_are_all_named_under_the_section_that_has_them():
    train = {"bf16": True, "global_batch_size": 12, "max_steps": 0}
    overrides = {"fp16": True, "save_steps": 5, "save_strategy": "no"}
    messages = [str(fault) for fault in combination_faults(train, overrides, where="method_settings.derta")]
    assert [message.split(":")[0] for message in messages] == [
        "`train.global_batch_size`",
        "`method_settings.derta.bf16, fp16`",
        "`train.max_steps`",
        "`method_settings.derta.save_steps`",
    ]
