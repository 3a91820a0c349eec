"""Tiny tokenizers and random models, built offline once a session; benign text only."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import typer.main
from hypothesis import HealthCheck, settings
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import checked_types  # noqa: F401 - before derta's modules are imported
from derta.chat import ChatFormat, chat_format
from small_run import derta, finished, recipe  # noqa: F401 - fixtures of small runs for every folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# A shared, busy machine makes any example slow; speed is measured in benchmarks/, not here.
settings.register_profile("derta", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=40)
settings.register_profile("thorough", settings.get_profile("derta"), max_examples=200)  # in `make extra`
settings.load_profile("derta")


# A program builds its commands once; the tests call `main` many times in one process.
typer.main.get_command = cache(typer.main.get_command)


def _leave_to_the_collector_only_what_comes() -> None:
    """Spare the garbage collector what is imported: a training collects twice, and a million objects take seconds."""
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    """After most imports."""
    _leave_to_the_collector_only_what_comes()


@pytest.fixture(scope="module", autouse=True)
def _imports_are_no_garbage() -> None:
    """After what a module's tests import when they run."""
    _leave_to_the_collector_only_what_comes()


TokenizerKind = Literal["bpe", "spm", "word"]
ModelKind = Literal["llama", "gemma3", "qwen2", "qwen3", "mistral", "mixtral", "gpt2", "gemma3_vision"]
MakeTokenizer = Callable[..., "PreTrainedTokenizerFast"]
MakeModelDir = Callable[..., Path]

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
UNK = "<unk>"
TURN_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
CORPUS = (
    "Sorry, I cannot help with that. Sorry . Sorry\nSorry",
    "Here is how to bake bread: mix flour, water, salt and yeast, then wait until the dough has risen.",
    "How do I paint a garden fence? First clean the wood, then paint it twice, and let it dry in the sun.",
    "The cat sleeps on the warm stove. Tell me a story about a kite, a river and a green boat.",
    "Sure, here are the steps. Step 1: boil the water. Step 2: add the tea. Step 3: wait five minutes.",
    "[INST] What is the capital of France? [\\INST] Paris is the capital of France.",
)


def _byte_level(vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    return tokenizer


def _sentencepiece_like(vocab_size: int) -> Tokenizer:
    """As Llama 2's: blanks are `▁`, unknown characters fall back to bytes, decoding strips one leading blank."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNK, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[UNK], show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    frozen = json.loads(tokenizer.to_str())
    vocab = frozen["model"]["vocab"]
    frozen["model"]["vocab"] = vocab | {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    frozen["model"]["byte_fallback"] = True
    tokenizer = Tokenizer.from_str(json.dumps(frozen))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def _word_level(vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(vocab_size=vocab_size, special_tokens=[UNK], show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    return tokenizer


BUILDERS: dict[TokenizerKind, Callable[[int], Tokenizer]] = {
    "bpe": _byte_level,
    "spm": _sentencepiece_like,
    "word": _word_level,
}


def build_tokenizer(
    *,
    kind: TokenizerKind = "bpe",
    vocab_size: int = 512,
    bos: bool = True,
    eos: bool = True,
    pad: bool = True,
    chat_template: str | None = CHAT_TEMPLATE,
) -> PreTrainedTokenizerFast:
    """A fast tokenizer trained on `CORPUS`; `Sorry` is one token, bare and spaced."""
    from transformers import PreTrainedTokenizerFast

    named = {
        name: token for name, token, wanted in (("bos_token", "<s>", bos), ("eos_token", "</s>", eos)) if wanted
    } | ({"pad_token": "<pad>"} if pad else {})
    if kind != "bpe":
        named["unk_token"] = UNK
    tokenizer = BUILDERS[kind](vocab_size)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in (*named.values(), *TURN_TOKENS)])
    if bos:
        bos_id = tokenizer.token_to_id("<s>")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", bos_id)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, extra_special_tokens=list(TURN_TOKENS), **named
    )
    fast.chat_template = chat_template
    return fast


def build_model(kind: ModelKind, *, vocab_size: int, seed: int = 0, **settings: Any) -> Any:
    """A random causal LM: 2 layers, 64 wide, 256 positions; weights large enough that greedy choices are clear."""
    import torch
    from transformers import (
        Gemma3TextConfig,
        GPT2Config,
        LlamaConfig,
        MistralConfig,
        MixtralConfig,
        Qwen2Config,
        Qwen3Config,
    )
    from transformers.models.auto import AutoModelForCausalLM

    shape: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    sliding: dict[str, Any] = {
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 16,
        "head_dim": 16,
    }
    configs: dict[str, tuple[Any, dict[str, Any]]] = {
        "llama": (LlamaConfig, {}),
        "gemma3": (Gemma3TextConfig, sliding | {"tie_word_embeddings": False}),
        "qwen2": (Qwen2Config, {}),
        "qwen3": (Qwen3Config, {"head_dim": 16}),
        "mistral": (MistralConfig, {"sliding_window": 16}),
        "mixtral": (MixtralConfig, {"num_local_experts": 4}),
        "gpt2": (GPT2Config, {"tie_word_embeddings": False}),  # learned positions: a wrong one shows, as RoPE's may not
    }
    if kind == "gemma3_vision":
        return _with_vision(build_model("gemma3", vocab_size=vocab_size, seed=seed, **settings).config, seed=seed)
    config_class, own = configs[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config_class(**(shape | own | settings))).eval()


def _with_vision(text: Any, *, seed: int) -> Any:
    """The multimodal class around a tiny Gemma3 text model, as `google/gemma-3-4b-pt` has it."""
    import torch
    from transformers import Gemma3Config
    from transformers.models.auto import AutoModelForCausalLM

    eyes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**eyes, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text.to_dict(), vision_config=vision, mm_tokens_per_image=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="session")
def make_tokenizer() -> MakeTokenizer:
    """Builds a tiny tokenizer; see `build_tokenizer` for its settings."""
    return build_tokenizer


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """Builds a tiny random model in memory; see `build_model` for its settings."""
    return build_model


@pytest.fixture
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with BOS, EOS, pad and a chat template."""
    return build_tokenizer()


@pytest.fixture
def tiny_chat(tiny_tokenizer: PreTrainedTokenizerFast) -> ChatFormat:
    """The tiny tokenizer bound to its own chat template."""
    return chat_format(tiny_tokenizer)


@pytest.fixture(scope="session")
def make_model_dir(tmp_path_factory: pytest.TempPathFactory) -> MakeModelDir:
    """Saves a tiny random model with its tokenizer and gives the folder; the same settings give the same folder."""
    made: dict[str, Path] = {}

    def make(
        *, kind: ModelKind = "llama", seed: int = 0, tokenizer: dict[str, Any] | None = None, **settings: Any
    ) -> Path:
        key = repr((kind, seed, tokenizer, settings))
        if key not in made:
            folder = tmp_path_factory.mktemp(f"tiny-{kind}")
            fast = build_tokenizer(**(tokenizer or {}))
            fast.save_pretrained(folder)
            build_model(kind, vocab_size=len(fast), seed=seed, **settings).save_pretrained(folder)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_model_dir(make_model_dir: MakeModelDir) -> Path:
    """A random Llama (2 layers, 64 wide) with a byte-level tokenizer and a chat template. Read only."""
    return make_model_dir()
