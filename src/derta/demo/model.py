"""Tokenizer and base model of the demo world, with its pretraining on every craft in every format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from derta.data.mixture import TrainingSet
from derta.demo.corpus import all_words, pretraining_examples
from derta.demo.world import World
from derta.loading import without_progress_bars
from derta.methods import METHODS, tune
from derta.run_folder import finish_folder
from derta.train.config import DertaConfig

if TYPE_CHECKING:
    from transformers import TrainerCallback

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ ' <' + message['role'] + '> ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} <assistant> {% endif %}"
)


def build_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """Build a word-level tokenizer; words are separated by spaces, and every text starts with `<bos>`.

    >>> from derta.demo.world import build_world
    >>> tokenizer = build_tokenizer(build_world(seed=0))
    >>> tokenizer.convert_ids_to_tokens(tokenizer.encode("Sorry but i cannot help"))
    ['<bos>', 'Sorry', 'but', 'i', 'cannot', 'help']
    """
    special = ["<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<assistant>"]
    vocab = {word: i for i, word in enumerate([*special, *all_words(world)])}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))  # noqa: S106 - a token, not a secret
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", vocab["<bos>"])])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",  # noqa: S106
        bos_token="<bos>",  # noqa: S106
        eos_token="<eos>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        extra_special_tokens=["<user>", "<assistant>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(vocab_size: int, *, seed: int) -> LlamaForCausalLM:
    """Build a Llama model of about 0.75 million parameters with random weights.

    With two layers and an `initializer_range` of 0.08, it learns the recipes in a third of the steps that four layers
    and the default of 0.02 need.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=160,
        intermediate_size=480,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.08,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def write_untrained(world: World, out: Path, *, seed: int) -> Path:
    """Save a randomly initialised model with the world's tokenizer, unless the folder exists, and return its path."""
    if not out.exists():
        partial, tokenizer = out.with_name(out.name + ".partial"), build_tokenizer(world)
        with without_progress_bars():
            build_model(len(tokenizer), seed=seed).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        finish_folder(partial, out)
    return out


def pretraining_config(*, seed: int, max_steps: int = 600) -> DertaConfig:
    """Return the configuration of pretraining, a `vanilla` run on helpful examples."""
    return DertaConfig(
        "pretraining",
        method="vanilla",
        seed=seed,
        max_steps=max_steps,
        global_batch_size=64,
        per_device_train_batch_size=64,
        learning_rate=4e-3,
        warmup_steps=0.05,
        weight_decay=0.01,
        max_length=128,
        pack_tokens=128,
        logging_steps=50,
        disable_tqdm=True,
    )


def pretrain(world: World, out: Path, *, config: DertaConfig, callbacks: list[TrainerCallback] | None = None) -> Path:
    """Pretrain the base model of a world on every craft, forbidden or not, and save it with its tokenizer.

    Return the path of the model. An existing model is not trained again.
    """
    if out.exists():
        return out
    start = write_untrained(world, out.with_name("untrained"), seed=config.seed)
    return tune(
        METHODS["vanilla"],
        model=str(start),
        config=config,
        data=TrainingSet([], pretraining_examples(world)),
        tokenizer=build_tokenizer(world),
        out=out,
        callbacks=callbacks or [],
    )
