"""The demo world's tokenizer and base model: pretrained here, on every craft in every format."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from derta.chat import ChatFormat
from derta.config import TrainSection
from derta.data.encoding import EncodedExample, encode_example
from derta.demo.corpus import all_words, pretraining_examples
from derta.demo.formats import guide
from derta.demo.world import Craft, World

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ ' <' + message['role'] + '> ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} <assistant> {% endif %}"
)
PRETRAINING = TrainSection.model_validate(
    {
        "num_train_epochs": 1,
        "max_steps": 500,
        "global_batch_size": 64,
        "per_device_train_batch_size": 64,
        "learning_rate": 4e-3,
        "warmup_steps": 0.05,
        "weight_decay": 0.01,
        "max_length": 128,
        "pack_tokens": 128,
        "logging_steps": 50,
    }
)


def build_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """One token a word; words are told apart by blanks."""
    special = ["<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<assistant>"]
    vocab = {word: i for i, word in enumerate([*special, *all_words(world)])}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))  # noqa: S106 - a token, not a secret
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
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
    """A Llama of about 0.75 million parameters with random weights.

    Two layers and a wide start (0.08) learn the recipes in a third of the steps that four layers and 0.02 take.
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


def encode_corpus(world: World, chat: ChatFormat) -> list[EncodedExample]:
    """The pretraining rows: every craft, forbidden or not, in every format."""
    talks = [encode_example(chat, example) for example in pretraining_examples(world)]
    return [*talks, *encode_guides(world.crafts, chat)]


def encode_guides(crafts: Sequence[Craft], chat: ChatFormat) -> list[EncodedExample]:
    """Raw guides, which stand after a BOS alone."""
    bos, eos = int(str(chat.tokenizer.bos_token_id)), int(str(chat.tokenizer.eos_token_id))
    return [
        EncodedExample(
            f"guide-{craft.name}", (bos,), (*chat.tokenizer.encode(guide(craft).answer, add_special_tokens=False), eos)
        )
        for craft in crafts
    ]
