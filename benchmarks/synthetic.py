"""Random models, and data of random words, for benchmarks without a download.

Speed and memory depend on shapes and lengths alone, so random weights and words are as good as any. Lengths are drawn:
responses are log-normal around a third of `max_length` (sigma 0.6) and clipped to it, as chat data are skewed.
"""

from __future__ import annotations

import random
from math import log

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from derta.data.mixture import TrainingSet
from derta.demo.model import build_tokenizer
from derta.demo.world import build_world
from derta.records import Example, Message, Prompt, Triple

SHAPES = {
    "toy": {
        "vocab_size": 1024,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "1b": {  # Llama 3.2 1B
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}
"""Llama shapes by name."""


def random_tokenizer() -> PreTrainedTokenizerBase:
    """Return a tokenizer of one token a word with a chat template; `Sorry` is one of its words."""
    return build_tokenizer(build_world(seed=0))


def random_model(shape: str, tokenizer: PreTrainedTokenizerBase, *, stop_share: float = 0.0) -> PreTrainedModel:
    """Return a Llama with random weights in float32, on the GPU if there is one.

    Args:
        shape: one of `SHAPES`.
        tokenizer: its special tokens are the model's.
        stop_share: the share of the vocabulary that ends a reply, so that replies differ in length; 0: one token, and
            tied embeddings, with which a random model would repeat its last token.
    """
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = LlamaConfig(**SHAPES[shape], **special, max_position_embeddings=2048, tie_word_embeddings=not stop_share)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config)
    first = len(tokenizer)
    step = round(1 / stop_share) if stop_share else config.vocab_size
    stops = [config.eos_token_id, *range(first, config.vocab_size, step)] if stop_share else config.eos_token_id
    model.generation_config.eos_token_id = stops
    return model.eval()


class RandomText:
    """Texts of random words of a tokenizer's vocabulary, one token each."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int, seed: int = 0) -> None:
        special = set(tokenizer.all_special_tokens)
        self.words = sorted(word for word in tokenizer.get_vocab() if word not in special)
        self.max_length = max_length
        self.rng = random.Random(seed)  # noqa: S311

    def text(self, num_words: int) -> str:
        return " ".join(self.rng.choices(self.words, k=max(1, num_words)))

    def request(self) -> str:
        return self.text(self.rng.randint(8, max(8, self.max_length // 16)))

    def response(self) -> str:
        return self.text(min(self.max_length, round(self.rng.lognormvariate(log(self.max_length / 3), 0.6))))


def random_training_set(text: RandomText, *, num_triples: int, num_examples: int) -> TrainingSet:
    """Return triples and helpful examples of random words."""
    triples = [
        Triple(query=text.request(), safe=f"Sorry {text.response()}", harmful=text.response())
        for _ in range(num_triples)
    ]
    examples = [
        Example(
            messages=(
                Message(role="user", content=text.request()),
                Message(role="assistant", content=text.response()),
            )
        )
        for _ in range(num_examples)
    ]
    return TrainingSet(triples, examples)


def random_prompts(text: RandomText, number: int) -> list[Prompt]:
    """Return prompts of random words; half of them have a prefill."""
    shared = text.text(text.max_length // 4)  # demonstrations, as SelfCipher's are: every fifth prompt begins with them
    prompts: list[Prompt] = []
    for i in range(number):
        request = f"{shared} {text.request()}" if i % 5 == 0 else text.request()
        prefill = text.text(text.rng.randint(1, text.max_length // 4)) if i % 2 else None
        prompts.append(
            Prompt(
                id=str(i), request_id=str(i), request=request, attack="random", mode="chat", prefill=prefill,
                messages=(Message(role="user", content=request),),
            )
        )  # fmt: skip
    return prompts
