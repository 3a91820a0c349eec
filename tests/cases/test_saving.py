"""What can fail when a model is saved, after training, is right or is refused before training."""

import json
import shutil

import pytest
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto import AutoModelForCausalLM

from derta.train.trainer import DertaTrainer
from small_run import small_recipe

TRAIN = {
    "max_steps": 1, "global_batch_size": 2, "per_device_train_batch_size": 2, "max_length": 96, "pack_tokens": 0,
    "num_threads": 1, "learning_rate": 1e-3,
}  # fmt: skip


@pytest.fixture
def base(tmp_path, tiny_model_dir):
    return shutil.copytree(tiny_model_dir, tmp_path / "base")


def change_generation_config(base, **values):
    path = base / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    "values",
    [
        {"do_sample": False, "temperature": 0.9, "top_p": 0.6},  # as Llama 2 and Vicuna were published
        {"temperature": 0.9},
        {"num_beams": 1, "length_penalty": 0.5, "early_stopping": True},
        {"top_k": 5, "min_p": 0.1, "max_new_tokens": 7},
    ],
)
@pytest.mark.parametrize("save_steps", [None, 1])
def test_a_published_generation_config_is_saved_with_the_tuned_model(derta, tmp_path, base, values, save_steps):
    change_generation_config(base, **values)
    recipe = small_recipe(tmp_path, base, train=TRAIN | ({} if save_steps is None else {"save_steps": save_steps}))
    result = derta("train", recipe, "--method", "derta", "--out", tmp_path / "model")
    assert result.code == 0, result
    saved = json.loads((tmp_path / "model/generation_config.json").read_text())
    defaults = GenerationConfig().to_dict()
    assert {name: saved.get(name, defaults[name]) for name in values} == values
    tuned = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tuned.save_pretrained(tmp_path / "again")  # so can the next fine-tuning
    assert tuned.generation_config.eos_token_id is not None  # the tokenizer's, which the Trainer has set


@pytest.mark.parametrize(
    ("owner", "error"),
    [
        (PreTrainedConfig, TypeError("Object of type Opaque is not JSON serializable")),
        (PreTrainedModel, RuntimeError("Some tensors share memory")),
        (PreTrainedTokenizerBase, OSError(13, "Permission denied")),
    ],
)
def test_a_model_that_cannot_be_saved_is_not_trained(derta, recipe, monkeypatch, owner, error):
    tmp_path = recipe.parent

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(owner, "save_pretrained", fail)
    monkeypatch.setattr(DertaTrainer, "train", lambda *_, **__: pytest.fail("trained"))
    result = derta("train", recipe, "--method", "derta", "--out", tmp_path / "model")
    assert result.code == 2, result
    last = result.err.strip().splitlines()[-1]
    assert "model: expected a model that can be saved, got" in last
    assert "nothing was trained" in last
    assert not list(tmp_path.glob("model*"))
