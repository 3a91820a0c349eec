import pytest
import torch
from peft import PeftModel
from transformers.models.auto import AutoModelForCausalLM

from derta.config import LoraSection, ModelSection, TrainSection
from derta.errors import ModelError, RecipeError
from derta.train import adapters
from derta.train.adapters import base_dtype, four_bit, load_adapter, with_lora
from derta.train.fit import fit, load_model

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
    """Make the adapters say something: PEFT starts their B matrices at 0."""
    for name, parameter in net.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, value)


def test_all_linear_adapts_every_projection_and_not_the_head(make_model):
    net = with_lora(make_model("llama", vocab_size=96), LORA)
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
    net = with_lora(plain, lora)
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters() if p.requires_grad and "layers.0." in name}
    experts = {shape for name, shape in shapes.items() if "experts" in name and "lora_A" in name}
    # 4 experts, each its own rank; gate_up reads 64 features, down reads 128
    assert experts == {(4 * rank_of_gate_up, 64), (4 * 4, 128)}
    assert torch.equal(logits(net), before)
    set_b(net, 0.05)
    after = logits(net)
    assert not torch.allclose(after, before, atol=1e-3)
    net.save_pretrained(tmp_path)
    again = load_adapter(make_model("mixtral", vocab_size=96), tmp_path, four_bit=False)
    assert torch.equal(logits(again), after)


@pytest.mark.parametrize(
    ("kind", "lora", "part"),
    [
        ("llama", LoraSection(target_modules=("q_prj",)), r"LlamaForCausalLM: Target modules .*q_prj.* not found"),
        ("llama", LoraSection(target_modules=("q_proj",), target_parameters=("w",)), "no parameter was matched"),
        ("mixtral", LoraSection(target_modules=PAPER_MIXTRAL), r"fused experts need `train.lora.lora_dropout: 0`"),
        ("mixtral", LoraSection(lora_dropout=0, target_modules=("w1",)), "without also targeting w3"),
    ],
)
def test_what_cannot_be_adapted_is_told(make_model, kind, lora, part):
    with pytest.raises(RecipeError, match=part):
        with_lora(make_model(kind, vocab_size=96), lora)


def test_only_a_frozen_base_is_held_in_16_bits():
    assert base_dtype(TrainSection(bf16=True)) is torch.float32
    assert base_dtype(TrainSection(lora=LORA)) is torch.float32
    assert base_dtype(TrainSection(bf16=True, lora=LORA)) is torch.bfloat16


# --- 4 bits ----------------------------------------------------------------------------------------------------------


def test_4_bits_without_bitsandbytes_are_refused(monkeypatch):
    monkeypatch.setattr(adapters, "find_spec", lambda _: None)
    assert four_bit(None) is None
    assert four_bit(LORA) is None
    with pytest.raises(RecipeError, match=r"pip install 'derta\[quant\]'"):
        four_bit(LoraSection(load_in_4bit=True))


def test_4_bits_on_a_device_that_bitsandbytes_does_not_know_are_refused(monkeypatch):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(bitsandbytes, "supported_torch_devices", {"abacus"})
    with pytest.raises(RecipeError, match=r"load_in_4bit: .*abacus.*; leave it out"):
        four_bit(LoraSection(load_in_4bit=True))


def test_a_4_bit_base_is_near_the_full_one_and_only_adapters_are_trained(make_model_dir):
    pytest.importorskip("bitsandbytes")
    path = str(make_model_dir(initializer_range=0.05))
    lora = LoraSection(r=4, lora_alpha=8, load_in_4bit=True)
    quantized = load_model(ModelSection(path=path), dtype=torch.float32, lora=lora)
    near, full = logits(quantized), logits(AutoModelForCausalLM.from_pretrained(path))
    # NF4 leaves a Gaussian weight an error of about a tenth of its size, and logits gather several
    assert 0 < (near - full).norm() < 0.3 * full.norm()
    net = with_lora(quantized, lora)
    assert all("lora_" in name for name in trained_names(net))
    packed = [p for name, p in net.named_parameters() if name.endswith("q_proj.base_layer.weight")]
    assert {(p.dtype, p.numel()) for p in packed} == {(torch.bfloat16, 64 * 64 // 4)}  # 4 weights in 16 bits


def test_experts_that_cannot_be_quantized_are_told(make_model_dir):
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ModelError, match=r"MixtralForCausalLM holds fused experts .*gate_up_proj"):
        load_model(
            ModelSection(path=str(make_model_dir(kind="mixtral"))),
            dtype=torch.float32,
            lora=LoraSection(load_in_4bit=True),
        )


def test_a_4_bit_run_leaves_an_adapter_for_the_full_base(
    make_model_dir, make_tokenizer, small_data, refusal_ids, tmp_path
):
    pytest.importorskip("bitsandbytes")
    base = make_model_dir(initializer_range=0.05)
    train = TrainSection(
        max_steps=2, batch_size=4, micro_batch_size=4, learning_rate=1e-2, sorry_dropout=0.0, logging_steps=1,
        lora=LoraSection(r=4, lora_alpha=8, load_in_4bit=True), bf16=True, gradient_checkpointing=True,
    )  # fmt: skip
    out = fit(
        model=ModelSection(path=str(base)),
        train=train,
        tokenizer=make_tokenizer(),
        instances=small_data("derta"),
        refusal_ids=refusal_ids,
        seed=0,
        out=tmp_path / "model",
    )
    plain = AutoModelForCausalLM.from_pretrained(base)
    before = logits(plain)
    assert not torch.equal(logits(PeftModel.from_pretrained(plain, out)), before)
