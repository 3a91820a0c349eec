import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny_training import config_of, tune_job
from transformers import GenerationConfig

from derta.chat import chat_format
from derta.data.mixture import TrainingSet
from derta.errors import RecipeError
from derta.records import Triple
from derta.train.adapters import load_base
from derta.train.checkpoints import NonFiniteLossError, check_weights
from derta.train.saving import cast_weights, dtype_to_save, stop_tokens
from derta.train.trainer import DertaTrainer

BF16 = torch.bfloat16
ADAPTER = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], task_type="CAUSAL_LM")


@pytest.fixture(scope="module")
def base(tmp_path_factory, make_model, make_tokenizer):
    """A base model in bf16."""
    tokenizer = make_tokenizer()
    folder = tmp_path_factory.mktemp("base")
    make_model("llama", vocab_size=len(tokenizer), initializer_range=0.05).to(BF16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def dtypes(folder):
    return {weight.dtype for path in folder.glob("*.safetensors") for weight in load_file(path).values()}


# --- the dtype -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bf16", [True, False])
def test_the_dtype_of_the_base_s_files_is_saved_whatever_training_computes_in(base, tmp_path, bf16):
    config = config_of("derta", tmp_path, bf16=bf16)
    assert load_base(str(base), config).dtype == torch.float32
    assert dtype_to_save(str(base), config) == dtype_to_save(base, config) == BF16


def test_a_config_without_a_dtype_leaves_it_to_the_weights(base, tmp_path):
    config = json.loads((base / "config.json").read_text())
    del config["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    assert dtype_to_save(str(tmp_path), config_of("derta", tmp_path)) == BF16


def test_a_loaded_model_is_saved_in_its_dtype_and_adapters_in_their_base_s(make_model, tmp_path):
    config = config_of("derta", tmp_path)
    assert dtype_to_save(make_model("llama", vocab_size=96), config) == torch.float32
    net = make_model("llama", vocab_size=96).to(BF16)
    assert dtype_to_save(net, config) == BF16
    assert dtype_to_save(get_peft_model(net, ADAPTER), config) == BF16


def test_the_setting_comes_first_and_an_unusual_base_needs_it(base, make_model, tmp_path):
    assert dtype_to_save(str(base), config_of("derta", tmp_path, save_dtype="float16")) == torch.float16
    double = make_model("llama", vocab_size=96).double()
    with pytest.raises(RecipeError, match=r"save_dtype: expected a base model in float32, bfloat16, float16, got .*64"):
        dtype_to_save(double, config_of("derta", tmp_path))
    with pytest.raises(RecipeError, match="save_dtype"):
        config_of("derta", tmp_path, save_dtype="int4")


def test_weights_are_cast_once_and_what_transformers_keeps_in_fp32_is_kept(make_model, monkeypatch):
    net = make_model("llama", vocab_size=96, tie_word_embeddings=True)
    net.register_buffer("scale", torch.ones(3))
    monkeypatch.setattr(net, "_keep_in_fp32_modules_strict", {"layers.*.q_proj"})
    cast = cast_weights(net, None, BF16)
    assert cast["lm_head.weight"] is cast["model.embed_tokens.weight"]
    assert cast["scale"].dtype == torch.float32
    kept = {name for name, weight in cast.items() if weight.dtype == torch.float32} - {"scale"}
    assert kept == {f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1)}
    assert {weight.dtype for weight in net.parameters()} == {torch.float32}  # the model is as it was
    gathered = {name: weight.clone() for name, weight in net.state_dict().items()}
    assert cast_weights(net, gathered, BF16) is gathered
    assert all(torch.equal(gathered[name], weight) for name, weight in cast.items())


def test_nothing_is_copied_where_the_dtype_is_right(make_model):
    net = make_model("llama", vocab_size=96)
    assert cast_weights(net, None, torch.float32) is None
    assert cast_weights(net, None, None) is None


def test_a_weight_beyond_the_range_of_the_saved_dtype_is_an_error_with_its_name(make_model):
    net = make_model("llama", vocab_size=96)
    with torch.no_grad():
        net.lm_head.weight[3, 3] = 1e5
    check_weights(net, dtype=BF16)
    with pytest.raises(NonFiniteLossError, match=r"range of torch.float16, got a larger one in lm_head.weight; set"):
        check_weights(net, dtype=torch.float16)


# --- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lora", "save_dtype"), [(None, "auto"), (ADAPTER, "auto"), (ADAPTER, "float32")])
def test_a_trainer_saves_the_base_s_dtype_and_its_checkpoints_the_precision_of_training(
    base, small_data, tmp_path, lora, save_dtype
):
    settings = {"max_steps": 2, "save_steps": 1, "global_batch_size": 2, "per_device_train_batch_size": 2}
    settings |= {"save_total_limit": None}
    config = config_of("derta", tmp_path, learning_rate=1e-2, bf16=True, save_dtype=save_dtype, **settings)
    trainer = DertaTrainer(str(base), config, train_dataset=small_data("derta"), peft_config=lora)
    trainer.train()
    assert [dtypes(tmp_path / f"checkpoint-{step}") for step in (1, 2)] == [{torch.float32}] * 2
    trainer.save_model(str(tmp_path / "model"))
    trained = {name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    saved = {}
    for path in (tmp_path / "model").glob("*.safetensors"):
        saved |= load_file(path)
    expected = BF16 if save_dtype == "auto" else torch.float32
    for name, weight in trained.items():
        assert torch.equal(saved[name.replace(".default", "")], weight.detach().to(expected)), name
    if lora is None:
        assert json.loads((tmp_path / "model/config.json").read_text())["dtype"] == str(expected)[6:]


def test_a_model_of_preferences_is_saved_in_the_same_way(base, tmp_path, make_tokenizer):
    pairs = TrainingSet([Triple(query="How?", safe="Sorry, no.", harmful="Sure, step 1.")], [])
    settings = {"max_steps": 1, "global_batch_size": 1, "per_device_train_batch_size": 1, "template": "paper"}
    out = tune_job(method="dpo", model=str(base), settings=settings, tokenizer=make_tokenizer(), data=pairs,
                   out=tmp_path / "dpo", init_from=base)  # fmt: skip
    assert dtypes(out) == {BF16}
    assert "[INST]" in (out / "chat_template.jinja").read_text()


@pytest.mark.parametrize(
    ("configured", "expected"),
    [(None, ["</s>", "<|end|>"]), ("<pad>", ["</s>", "<pad>", "<|end|>"]), (["<|end|>"], ["</s>", "<|end|>"])],
)
def test_the_stop_tokens_are_those_of_the_tokenizer_the_base_and_the_template(tiny_tokenizer, configured, expected):
    ids = tiny_tokenizer.convert_tokens_to_ids
    base = GenerationConfig(eos_token_id=None if configured is None else ids(configured))
    assert stop_tokens(base, chat_format(tiny_tokenizer)) == ids(expected)
    plain = chat_format(tiny_tokenizer, template="paper")
    assert stop_tokens(GenerationConfig(eos_token_id=ids("</s>")), plain) == ids("</s>")
