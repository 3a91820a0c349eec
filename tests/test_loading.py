import hashlib
import json
import shutil
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils import logging as bars

from derta.errors import ModelError
from derta.loading import load_adapter, load_model, load_tokenizer, without_progress_bars

# peft asks transformers 5.23 by a name that it will drop
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


@pytest.fixture
def broken_dir(tiny_model_dir, tmp_path):
    """A copy of the tiny model that a test may break."""
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


@pytest.fixture
def adapter_dir(tiny_model_dir, tmp_path):
    """A LoRA adapter that changes what the tiny model says."""
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model_dir),
        LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def load(path, adapter=None, **settings):
    model = load_model(str(path), device="cpu", **settings)
    return model if adapter is None else load_adapter(model, str(adapter))


def load_both(path, **settings):
    load_tokenizer(str(path))
    load(path, **settings)


def fault(path, **settings):
    """What is said of a folder from which no engine can be made, in one line."""
    with pytest.raises(ModelError) as caught:
        load_both(path, **settings)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_folder_is_loaded_without_a_progress_bar_and_the_user_s_setting_stays(tiny_model_dir, monkeypatch, capfd):
    monkeypatch.setattr(bars, "_tqdm_active", True)
    load(tiny_model_dir)
    assert (*capfd.readouterr(), bars.is_progress_bar_enabled()) == ("", "", True)
    with without_progress_bars():
        assert not bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    load(tiny_model_dir)
    restored = not bars.is_progress_bar_enabled()
    bars.enable_progress_bar()
    assert restored


def test_a_model_folder_loads_in_eval_mode_and_stays_as_it_was(tiny_model_dir):
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tiny_model_dir.iterdir()}
    assert not load(tiny_model_dir).training
    assert load_tokenizer(str(tiny_model_dir)).is_fast
    assert before == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tiny_model_dir.iterdir()}


@pytest.mark.parametrize(("dtype", "expected"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_weights_have_the_type_asked_for(tiny_model_dir, dtype, expected):
    assert load(tiny_model_dir, dtype=dtype).dtype == expected


def test_an_unknown_type_is_refused(tiny_model_dir):
    with pytest.raises(ModelError, match="dtype: expected one of auto, float32, bfloat16, float16, got 'int3'"):
        load(tiny_model_dir, dtype="int3")


def test_a_device_that_is_not_there_is_reported(tiny_model_dir):
    with pytest.raises(ModelError, match="cannot load the model"):
        load_model(str(tiny_model_dir), device="cuda:77")


def test_a_name_that_is_neither_folder_nor_hub_id_is_reported():
    assert "expected a model folder or a hub id (org/name), found no such folder" in fault("no-such-model")
    assert "found no such folder" in fault("some/where/no-such-model")


def test_a_hub_model_that_cannot_be_had_is_reported_in_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "cannot load its tokenizer" in fault("nobody-here/no-such-model")


def test_a_folder_that_is_no_model_is_reported(tmp_path):
    assert "expected a folder with config.json, found none in it; check the path" in fault(tmp_path)


def test_an_adapter_given_as_a_model_is_reported_with_the_way_out(adapter_dir):
    assert "it holds an adapter: give its base model, and this folder as `adapter`" in fault(adapter_dir)


def test_a_folder_without_tokenizer_is_reported(broken_dir):
    (broken_dir / "tokenizer.json").unlink()
    (broken_dir / "tokenizer_config.json").unlink()
    assert "cannot load its tokenizer" in fault(broken_dir)


def test_a_configuration_that_is_no_models_is_reported(broken_dir):
    (broken_dir / "config.json").write_text("{}")
    assert "Unrecognized model" in fault(broken_dir)


def test_an_encoder_is_reported_to_be_no_causal_model(broken_dir):
    (broken_dir / "config.json").write_text('{"model_type": "t5"}')
    assert "cannot load the model" in fault(broken_dir)


def test_weights_that_could_run_code_are_not_loaded(broken_dir):
    weights = broken_dir / "model.safetensors"
    torch.save(load_file(weights), broken_dir / "pytorch_model.bin")
    weights.unlink()
    assert "no file named model.safetensors" in fault(broken_dir)


def test_damaged_weights_are_reported(broken_dir):
    (broken_dir / "model.safetensors").write_bytes(b"damaged")
    assert "cannot load the model" in fault(broken_dir)


def test_missing_weights_are_never_made_up(broken_dir):
    path = broken_dir / "model.safetensors"
    remaining = {name: weight for name, weight in load_file(path).items() if "layers.1.mlp" not in name}
    save_file(remaining, path, metadata={"format": "pt"})
    assert "3 weights are missing, model.layers.1.mlp.down_proj.weight first; they would be random" in fault(broken_dir)


def test_an_adapter_is_loaded_onto_its_base(tiny_model_dir, adapter_dir):
    ids = torch.tensor([[5, 6, 7]])
    base, adapted = load(tiny_model_dir), load(tiny_model_dir, adapter=adapter_dir)
    assert not adapted.training
    with torch.no_grad():
        assert not torch.allclose(base(ids).logits, adapted(ids).logits)
        with adapted.disable_adapter():
            assert torch.equal(base(ids).logits, adapted(ids).logits)


def test_a_missing_adapter_is_reported(tiny_model_dir, tmp_path):
    with pytest.raises(ModelError, match=r"expected a folder with adapter_model\.safetensors, found none"):
        load(tiny_model_dir, adapter=tmp_path)
    with pytest.raises(ModelError, match="found no such folder"):
        load(tiny_model_dir, adapter="no-such-adapter")


def test_an_adapter_of_another_model_is_reported(tiny_model_dir, adapter_dir):
    path = adapter_dir / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": ["no_such_layer"]}))
    with pytest.raises(ModelError, match="cannot load the adapter"):
        load(tiny_model_dir, adapter=adapter_dir)


EXPERTS = LoraConfig(
    r=2, target_modules=["q_proj", "w1", "w2", "w3"], init_lora_weights=False, task_type="CAUSAL_LM"
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys:RuntimeWarning")
def test_fused_experts_keep_their_rank_and_the_word_that_it_is_ignored_is_not_heard(make_model_dir, tmp_path):
    path, ids = make_model_dir(kind="mixtral"), torch.tensor([[5, 6, 7]])
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(path), EXPERTS).eval()
    adapted.save_pretrained(tmp_path)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("error", "The following", RuntimeWarning)
        assert torch.allclose(load(path, adapter=tmp_path)(ids).logits, adapted(ids).logits)


@pytest.mark.parametrize("name", ["model", "adapter"])
@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")])
def test_no_memory_left_for_a_model_or_adapter_is_reported(name, error, tiny_model_dir, adapter_dir, monkeypatch):
    def full(*_, **__):
        raise error

    place = "transformers.AutoModelForCausalLM" if name == "model" else "peft.PeftModel"
    monkeypatch.setattr(f"{place}.from_pretrained", full)
    with pytest.raises(ModelError, match=f"out of memory while the {name} was loaded; use a 16-bit `dtype`"):
        load(tiny_model_dir, adapter=adapter_dir)


def test_a_model_for_training_is_loaded_by_the_same_function(tiny_model_dir):
    model = load_model(str(tiny_model_dir), dtype=torch.float32, device=None, attn_implementation="eager")
    assert model.config._attn_implementation == "eager"
    assert not hasattr(model, "hf_device_map")


def test_a_missing_package_of_an_attention_is_reported(tiny_model_dir):
    message = fault(tiny_model_dir, attn_implementation="flash_attention_2")
    assert "cannot use attention by flash_attention_2" in message
    assert message.endswith("install it, or use sdpa")


def test_an_adapter_is_trained_on_where_it_is_asked_for(tiny_model_dir, adapter_dir):
    for trainable in (False, True):
        model = load_adapter(load(tiny_model_dir), str(adapter_dir), trainable=trainable)
        assert any(weight.requires_grad for weight in model.parameters()) == trainable


def test_a_revision_of_a_local_folder_is_refused(tiny_model_dir):
    with pytest.raises(ModelError, match="expected no revision of a local folder, got 'v1'; remove it"):
        load_tokenizer(f"{tiny_model_dir}@v1")
    with pytest.raises(ModelError, match=r"expected a model folder or a hub id"):
        load_tokenizer("org/name@")


@pytest.mark.parametrize("bits", [8, 4])
def test_a_folder_with_quantized_weights_is_loaded_as_it_is_saved(make_model_dir, tmp_path, bits):
    pytest.importorskip("bitsandbytes")
    base = make_model_dir(hidden_size=64, intermediate_size=64)
    settings = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    quantized = AutoModelForCausalLM.from_pretrained(base, quantization_config=settings, device_map="cpu")
    quantized.save_pretrained(tmp_path / "quantized")
    found = load(tmp_path / "quantized")
    tokens = torch.arange(1, 9)[None]
    with torch.no_grad():
        expected, logits = quantized(tokens).logits, found(tokens).logits
    assert type(found.model.layers[0].mlp.up_proj) is type(quantized.model.layers[0].mlp.up_proj)
    assert torch.equal(logits, expected)
