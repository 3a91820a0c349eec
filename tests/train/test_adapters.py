import pytest
import torch
from peft import PeftModel
from tiny_training import config_of, tune_job
from transformers.models.auto import AutoModelForCausalLM

from derta.config import LoraSection
from derta.errors import ModelError, RecipeError
from derta.loading import load_adapter
from derta.train import adapters
from derta.train.adapters import base_dtype, load_base, load_initial_model, lora_config, quantization, with_lora

IDS = torch.arange(10, 30)[None]
LORA = LoraSection(r=4, lora_alpha=8)
PAPER_MIXTRAL = ("q_proj", "k_proj", "v_proj", "o_proj", "w1", "w2", "w3")
FUSED_BY_NAME = LoraSection(
    r=4, lora_alpha=8, lora_dropout=0, target_modules=("q_proj",),
    target_parameters=("experts.gate_up_proj", "experts.down_proj"),
)  # fmt: skip


def trained_names(net):
    return {name for name, parameter in net.named_parameters() if parameter.requires_grad}


def logits(net):
    with torch.no_grad():
        return net.eval()(input_ids=IDS).logits


def set_b(net, value):
    """Give the adapters an effect: PEFT initialises their B matrices with 0."""
    for name, parameter in net.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, value)


def test_all_linear_adapts_every_projection_and_not_the_head(make_model):
    net = with_lora(make_model("llama", vocab_size=96), lora_config(LORA))
    adapted = {name.split(".")[-4] for name in trained_names(net)}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize(
    ("lora", "rank_of_gate_up"),
    [
        (LoraSection(r=4, lora_alpha=8, lora_dropout=0, target_modules=PAPER_MIXTRAL), 8),
        (FUSED_BY_NAME, 4),
    ],
)
def test_fused_experts_are_adapted_expert_by_expert_and_load_again(make_model, tmp_path, lora, rank_of_gate_up):
    plain = make_model("mixtral", vocab_size=96)
    before = logits(plain)
    net = with_lora(plain, lora_config(lora))
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters() if p.requires_grad and "layers.0." in name}
    experts = {shape for name, shape in shapes.items() if "experts" in name and "lora_A" in name}
    # 4 experts, each its own rank; gate_up reads 64 features, down reads 128
    assert experts == {(4 * rank_of_gate_up, 64), (4 * 4, 128)}
    assert torch.equal(logits(net), before)
    set_b(net, 0.05)
    after = logits(net)
    assert not torch.allclose(after, before, atol=1e-3)
    net.save_pretrained(tmp_path)
    again = load_adapter(make_model("mixtral", vocab_size=96), str(tmp_path), trainable=True)
    assert torch.equal(logits(again), after)


@pytest.mark.parametrize(
    ("kind", "lora", "part"),
    [
        ("llama", LoraSection(target_modules=("q_prj",)), r"LlamaForCausalLM: Target modules .*q_prj.* not found"),
        ("llama", LoraSection(target_modules=("q_proj",), target_parameters=("w",)), "no parameter was matched"),
        ("mixtral", LoraSection(target_modules=PAPER_MIXTRAL), r"fused experts need `lora_dropout: 0`"),
        ("mixtral", LoraSection(lora_dropout=0, target_modules=("w1",)), "without also targeting w3"),
    ],
)
def test_modules_that_peft_cannot_adapt_are_reported(make_model, kind, lora, part):
    with pytest.raises(RecipeError, match=part):
        with_lora(make_model(kind, vocab_size=96), lora_config(lora))


def test_only_a_frozen_base_is_held_in_16_bits():
    assert base_dtype(bf16=True, adapted=False) is torch.float32
    assert base_dtype(bf16=False, adapted=True) is torch.float32
    assert base_dtype(bf16=True, adapted=True) is torch.bfloat16


# --- 4 bits ----------------------------------------------------------------------------------------------------------


def test_4_bits_without_bitsandbytes_are_refused(monkeypatch):
    monkeypatch.setattr(adapters, "find_spec", lambda _: None)
    assert quantization(four_bit=False) is None
    with pytest.raises(RecipeError, match=r"pip install -c constraints.txt -e '\.\[quant\]'"):
        quantization(four_bit=True)


def test_4_bits_on_a_device_that_bitsandbytes_does_not_know_are_refused(monkeypatch):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(bitsandbytes, "supported_torch_devices", {"abacus"})
    with pytest.raises(RecipeError, match=r"load_in_4bit: .*abacus.*; remove the key"):
        quantization(four_bit=True)


def test_a_4_bit_base_is_near_the_full_one_and_only_adapters_are_trained(make_model_dir, tmp_path):
    pytest.importorskip("bitsandbytes")
    path = str(make_model_dir(initializer_range=0.05))
    lora = LoraSection(r=4, lora_alpha=8, load_in_4bit=True)
    quantized = load_base(path, config_of("derta", tmp_path), adapted=True, four_bit=True)
    near, full = logits(quantized), logits(AutoModelForCausalLM.from_pretrained(path))
    # NF4 leaves a Gaussian weight an error of about a tenth of its size, and logits gather several
    assert 0 < (near - full).norm() < 0.3 * full.norm()
    net = with_lora(quantized, lora_config(lora))
    assert all("lora_" in name for name in trained_names(net))
    packed = [p for name, p in net.named_parameters() if name.endswith("q_proj.base_layer.weight")]
    assert {(p.dtype, p.numel()) for p in packed} == {(torch.bfloat16, 64 * 64 // 4)}  # 4 weights in 16 bits


def test_experts_that_cannot_be_quantized_are_refused(make_model_dir, tmp_path):
    pytest.importorskip("bitsandbytes")
    path = str(make_model_dir(kind="mixtral"))
    with pytest.raises(ModelError, match=r"MixtralForCausalLM holds fused experts .*gate_up_proj"):
        load_base(path, config_of("derta", tmp_path), adapted=True, four_bit=True)


def test_a_4_bit_run_leaves_an_adapter_for_the_full_base(make_model_dir, make_tokenizer, small_data, tmp_path):
    pytest.importorskip("bitsandbytes")
    base = make_model_dir(initializer_range=0.05)
    settings = {
        "max_steps": 2, "global_batch_size": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-2,
        "sorry_dropout": 0.0, "logging_steps": 1, "bf16": True, "activation_checkpointing": True,
    }  # fmt: skip
    out = tune_job(
        model=str(base),
        settings=settings,
        lora=LoraSection(r=4, lora_alpha=8, load_in_4bit=True),
        tokenizer=make_tokenizer(),
        data=small_data("derta"),
        out=tmp_path / "model",
    )
    plain = AutoModelForCausalLM.from_pretrained(base)
    before = logits(plain)
    assert not torch.equal(logits(PeftModel.from_pretrained(plain, out)), before)


# --- what training starts from ---------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    return config_of("derta", tmp_path / "config")


def test_an_adapter_needs_a_recipe_with_lora(config, vanilla_adapter, vanilla):
    with pytest.raises(RecipeError, match=r"there is no `train\.lora`, got an adapter"):
        load_initial_model(str(vanilla), config, init_from=vanilla_adapter)


def test_a_folder_that_holds_no_model_is_refused(config, tmp_path, vanilla):
    with pytest.raises(ModelError, match="expected a folder with a tuned model or adapter, found none"):
        load_initial_model(str(vanilla), config, init_from=tmp_path)


def test_an_adapter_without_weights_or_for_another_model_is_refused(
    config, tmp_path, make_model_dir, vanilla, vanilla_adapter
):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"expected a folder with adapter_model\.safetensors, found none"):
        load_initial_model(str(vanilla), config, lora=LORA, init_from=tmp_path)
    other = make_model_dir(hidden_size=32, initializer_range=0.05)
    with pytest.raises(ModelError, match="cannot load the adapter"):
        load_initial_model(str(other), config, lora=LORA, init_from=vanilla_adapter)
