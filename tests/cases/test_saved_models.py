"""A saved model has the format and the dtype of its training, and other programs use them without an option."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, GenerationConfig, pipeline
from transformers.models.auto import AutoModelForCausalLM

from derta.chat import encode_prompt, read_template
from derta.config import LoraSection
from derta.data.mixture import TrainingSet
from derta.engines.hf import load as load_engine
from derta.engines.hf_engine import stop_tokens
from derta.loading import load_adapter, load_model, load_tokenizer
from derta.methods import METHODS, tune
from derta.records import Example, Message, Prompt, Triple
from derta.train.config import DertaConfig
from small_run import small_recipe, write_jsonl

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% if not thinking | default(true) %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
TRAINED = "<s><|user|>\nHow do I bake bread?<|end|>\n<|assistant|>\n<think>\n\n</think>\n\n"
MESSAGES = (Message(role="user", content="How do I bake bread?"),)
PROMPT = Prompt(id="p", request_id="r", request="?", attack="direct", messages=MESSAGES)
SETTINGS = {
    "max_steps": 2, "global_batch_size": 2, "per_device_train_batch_size": 2, "max_length": 96, "pack_tokens": 0,
    "num_threads": 1, "learning_rate": 1e-2, "sorry_dropout": 0.5, "bf16": True,
}  # fmt: skip
KINDS = {"full": None, "adapter": LoraSection(r=2, lora_alpha=4, lora_dropout=0)}


def save_base(folder, net, tokenizer):
    net.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory, make_model, make_tokenizer):
    """A base model in bf16, with sampling settings and another template than the one of training."""
    tokenizer = make_tokenizer()
    net = make_model("llama", vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    folder = save_base(tmp_path_factory.mktemp("base"), net, tokenizer)
    path = folder / "generation_config.json"
    settings = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [tokenizer.eos_token_id, 7]}
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """The folders of a model and of an adapter, trained with a template and its arguments. Read only."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "thinking.jinja").write_text(TEMPLATE)
    answer = Message(role="assistant", content="Here is how.")
    data = TrainingSet(
        [Triple(query="How do I paint?", safe="Sorry, I cannot help.", harmful="Sure, step 1: wait.")] * 2,
        [Example(messages=(*MESSAGES, answer))] * 2,
    )
    template = {"template": str(folder / "thinking.jinja"), "template_kwargs": {"thinking": False}}
    config = DertaConfig("out", method="derta", disable_tqdm=True, **SETTINGS, **template)
    return {
        kind: tune(
            METHODS["derta"],
            model=str(base),
            config=config,
            data=data,
            tokenizer=load_tokenizer(str(base)),
            out=folder / kind,
            lora=lora,
        )
        for kind, lora in KINDS.items()
    }


def dtypes(folder):
    return {weight.dtype for path in folder.glob("*.safetensors") for weight in load_file(path).values()}


def test_a_bf16_model_trained_by_the_command_line_is_as_large_as_its_base(derta, tmp_path, base):
    recipe = small_recipe(tmp_path, base, train=SETTINGS)
    called = derta("train", recipe, "--method", "derta", "--out", tmp_path / "out")
    assert called.code == 0, called
    assert dtypes(tmp_path / "out") == {torch.bfloat16}
    assert (tmp_path / "out/model.safetensors").stat().st_size == (base / "model.safetensors").stat().st_size
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_alone_gives_the_format_and_the_dtype_of_its_training(trained, kind):
    assert dtypes(trained[kind]) == {torch.bfloat16}
    tokenizer = AutoTokenizer.from_pretrained(trained[kind])
    messages = [message.model_dump() for message in MESSAGES]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == TRAINED
    saved = GenerationConfig.from_pretrained(trained[kind])
    assert saved.eos_token_id == [tokenizer.eos_token_id, 7, tokenizer.convert_tokens_to_ids("<|end|>")]
    assert (saved.do_sample, saved.temperature, saved.top_p) == (True, 0.6, 0.9)


def test_a_pipeline_of_transformers_and_derta_generate_give_the_same_reply_without_options(trained, derta, tmp_path):
    generator = pipeline("text-generation", str(trained["full"]), device="cpu")
    assert generator.model.dtype == torch.bfloat16
    messages = [message.model_dump() for message in MESSAGES]
    made = generator(messages, max_new_tokens=8, do_sample=False, return_full_text=False)[0]["generated_text"]
    write_jsonl(tmp_path / "prompts.jsonl", [PROMPT.model_dump(mode="json")])
    called = derta("generate", tmp_path / "prompts.jsonl", "--model", trained["full"], "--out", tmp_path / "replies",
                   "--max-new-tokens", 8)  # fmt: skip
    assert called.code == 0, called
    reply = json.loads((tmp_path / "replies").read_text())
    tokenizer = AutoTokenizer.from_pretrained(trained["full"])
    assert tokenizer.decode(reply["token_ids"], skip_special_tokens=True) == made


def test_an_adapter_is_loaded_with_the_template_and_the_stop_tokens_of_its_training(trained, base):
    engine = load_engine(base, adapter=trained["adapter"], device="cpu")
    tokenizer = engine.chat.tokenizer
    assert tokenizer.decode(encode_prompt(engine.chat, PROMPT)) == TRAINED
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert stop_tokens(engine.model, engine.chat) == {tokenizer.eos_token_id, 7, end}
    adapted = load_adapter(load_model(str(base), device="cpu"), str(trained["adapter"]))
    assert adapted.generation_config.eos_token_id == [tokenizer.eos_token_id, 7, end]
    chosen = load_engine(base, adapter=trained["adapter"], tokenizer=base, device="cpu")
    assert chosen.chat.template == read_template("auto", load_tokenizer(str(base)))


def test_an_adapter_without_a_tokenizer_is_used_with_that_of_its_base(trained, base, tmp_path):
    adapter = shutil.copytree(trained["adapter"], tmp_path / "adapter")
    for path in [*adapter.glob("tokenizer*"), adapter / "chat_template.jinja", adapter / "generation_config.json"]:
        path.unlink()
    engine = load_engine(base, adapter=adapter, device="cpu")
    assert engine.chat.template == read_template("auto", load_tokenizer(str(base)))
    assert stop_tokens(engine.model, engine.chat) >= {engine.chat.tokenizer.eos_token_id, 7}


def test_an_adapter_is_trained_further_in_its_format(trained, base, derta, tmp_path):
    data = write_jsonl(tmp_path / "benign.jsonl", [{"instruction": f"Name {i}.", "output": "Bread."} for i in range(4)])
    called = derta("fine-tune", base, "--adapter", trained["adapter"], "--helpful", data, "--steps", 1,
                   "--set", "pace.global_batch_size=2", "--out", tmp_path / "again")  # fmt: skip
    assert called.code == 0, called
    for name in ("chat_template.jinja", "generation_config.json", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (trained["adapter"] / name).read_bytes(), name


def test_tied_embeddings_are_saved_once(derta, tmp_path, make_model, make_tokenizer):
    tokenizer = make_tokenizer()
    net = make_model("llama", vocab_size=len(tokenizer), tie_word_embeddings=True)
    base = save_base(tmp_path / "base", net, tokenizer)
    recipe = small_recipe(tmp_path, base, train=SETTINGS)
    assert derta("train", recipe, "--method", "derta", "--out", tmp_path / "model").code == 0
    assert "lm_head.weight" not in load_file(tmp_path / "model/model.safetensors")
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(info.values()), info
