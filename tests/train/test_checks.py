from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainingArguments

from derta.config import REFUSED
from derta.errors import RecipeError
from derta.train.checks import accumulation_steps, check_config, check_machine, invalid_settings_as_recipe_error
from derta.train.config import DertaConfig

OTHER_VALUES = {  # what is set where the opposite of a default is not enough
    "gradient_accumulation_steps": 3, "label_smoothing_factor": 0.1, "torch_compile_backend": "inductor",
    "torch_compile_mode": "default", "liger_kernel_config": {"rope": True}, "neftune_noise_alpha": 5.0,
    "eval_accumulation_steps": 2, "include_for_metrics": ["loss"], "label_names": ["labels"],
    "accelerator_config": {"split_batches": True}, "length_column_name": "n", "fsdp": "full_shard",
    "fsdp_config": {"xla": True}, "deepspeed": {"zero_optimization": {}}, "local_rank": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(REFUSED) - {"parallelism_config"}))
def test_a_refused_field_is_reported_with_the_reason_in_one_line(tmp_path, name):
    default = getattr(DertaConfig(str(tmp_path)), name)
    value = OTHER_VALUES.get(name, not default)
    with pytest.raises(RecipeError) as caught:
        DertaConfig(str(tmp_path), **{name: value})
    assert str(caught.value) == f"{name}: cannot be set; {REFUSED[name]}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": -1}, "learning_rate: .*greater than 0, got -1"),
        ({"learning_rate": "fast"}, "learning_rate: .*valid number.*, got 'fast'"),
        ({"learning_rate": float("nan")}, "learning_rate: .*greater than 0, got nan"),
        ({"num_train_epochs": 0}, "num_train_epochs: .*greater than 0"),
        ({"max_steps": 0}, "max_steps: expected a number of steps, or -1"),
        ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type: expected one of linear, cosine, .*, got 'cosin'"),
        ({"save_strategy": "never"}, "save_strategy: expected one of no, steps, epoch, best, got 'never'"),
        (
            {"train_sampling_strategy": "sequential"},
            r"train_sampling_strategy: .*random\|group_by_length.*, got 'sequential'",
        ),
        ({"train_sampling_strategy": "group_by_length"}, "group_by_length requires padded rows; set pack_tokens to 0"),
        ({"global_batch_size": 10, "per_device_train_batch_size": 4}, r"multiple of per_device_train_batch_size \(4\)"),
        ({"bf16": True, "fp16": True}, "bf16, fp16: expected at most one of them, got both"),
        ({"attn_implementation": "flash_attention_2"}, "requires 16 bits; set bf16 or fp16"),
        ({"eval_steps": 5}, "have no effect with eval_strategy 'no'"),
        ({"save_steps": 5, "save_strategy": "no"}, "has no effect with save_strategy 'no'"),
        ({"save_steps": 5, "save_strategy": "epoch"}, "has no effect with save_strategy 'epoch'"),
        ({"optim_args": "momentum=0.5"}, "optim_args: adamw_torch_fused does not use them"),
        ({"optim_target_modules": "all-linear"}, "only galore and apollo use it, and optim is adamw_torch_fused"),
        ({"dataloader_persistent_workers": True}, "dataloader_persistent_workers, .*: expected workers, got none"),
        ({"save_strategy": "best"}, "'best' requires eval_strategy and metric_for_best_model"),
        ({"dataloader_num_workers": -1}, "dataloader_num_workers: expected 0 or more, got -1"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm: expected 0 or more, got nan"),
        ({"adam_beta2": 1.5}, "adam_beta2: expected 0 or more and less than 1, got 1.5"),
        ({"log_level": "loud"}, "log_level: .*debug|info.*, got 'loud'"),
        ({"sorry_dropout": 1}, "sorry_dropout: .*less than 1, got 1"),
        ({"report_to": "nonsense"}, r"report_to: expected an installed logger .*, got 'nonsense'"),
    ],
)
def test_an_invalid_value_is_reported_with_its_name(tmp_path, settings, message):
    with pytest.raises(RecipeError, match=message):
        DertaConfig(str(tmp_path), **settings)


def test_a_batch_that_the_processes_cannot_share_is_refused(tmp_path):
    config = DertaConfig(str(tmp_path), global_batch_size=8, per_device_train_batch_size=4)
    with pytest.raises(RecipeError, match=r"multiple of per_device_train_batch_size x processes \(4 x 3\), got 8"):
        accumulation_steps(config, num_processes=3)


@given(micro=st.integers(1, 16), accumulated=st.integers(1, 16), processes=st.integers(1, 8))
def test_a_step_has_the_same_rows_on_however_many_processes(micro, accumulated, processes):
    config = SimpleNamespace(global_batch_size=micro * accumulated * processes, per_device_train_batch_size=micro)
    assert accumulation_steps(config, num_processes=processes) == accumulated


def test_valid_values_are_returned_parsed_and_no_config_is_constructed(monkeypatch):
    monkeypatch.setattr(TrainingArguments, "__post_init__", lambda _: pytest.fail("a config was constructed"))
    values = check_config(DertaConfig, {"learning_rate": "1e-4", "max_steps": "7", "bf16": True})
    assert values == {"learning_rate": 1e-4, "max_steps": 7, "bf16": True}


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(RecipeError, match="unknown setting learning_rat; did you mean 'learning_rate'"):
        check_config(DertaConfig, {"learning_rat": 1.0})


def test_the_error_carries_the_name_as_its_key():
    with pytest.raises(RecipeError) as caught:
        check_config(DertaConfig, {"adam_beta2": 1.5})
    assert caught.value.key == "adam_beta2"


@pytest.mark.parametrize(
    "error", [ValueError("no such\n  schedule"), TypeError("no such schedule"), ImportError("no such schedule")]
)
def test_errors_of_hugging_face_are_one_line_with_the_names_of_the_settings(error):
    with pytest.raises(RecipeError) as caught, invalid_settings_as_recipe_error("optim, optim_args"):
        raise error
    assert str(caught.value) == "optim, optim_args: no such schedule"
    assert caught.value.__cause__ is error


def test_other_errors_are_not_reported_as_invalid_settings():
    with pytest.raises(KeyError), invalid_settings_as_recipe_error("optim"):
        raise KeyError("internal")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU supports them")
def test_options_that_need_a_gpu_are_refused_without_one():
    plain = {"fp16": False, "attn_implementation": "sdpa", "report_to": "none"}
    check_machine(SimpleNamespace(**plain))
    for settings, message in (
        ({"fp16": True}, "fp16: expected a GPU"),
        ({"attn_implementation": "flex_attention"}, "expected a GPU for flex"),
    ):
        with pytest.raises(RecipeError, match=message):
            check_machine(SimpleNamespace(**(plain | settings)))
