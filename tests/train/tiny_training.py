"""Fixtures of training tests: random rows, a small encoded dataset, tiny models, and a trainer."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from one_step import REFUSALS

from derta.chat import chat_format, refusal_tokens
from derta.config import RowConfig
from derta.data.mixture import TrainingSet
from derta.data.rows import IGNORE, Instance, TrainRow
from derta.records import Example, Message, Triple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

VOCAB = 96
THINGS = ("bread", "tea", "a kite", "a fence", "a boat", "a story", "a river", "a cat", "the water", "the sun", "salt")


def random_row(rng: Random, *, term: str, length: int, labelled: float = 0.5, name: str = "r") -> TrainRow:
    """Tokens 5 … 95; on an RTO row the labels are refusals, on others the tokens themselves."""
    ids = [rng.randrange(5, VOCAB) for _ in range(length)]
    targets = [rng.choice(REFUSALS) if term == "rto" else token for token in ids]
    labels = [IGNORE, *(label if rng.random() < labelled else IGNORE for label in targets[1:])]
    return TrainRow(name, term, ids, labels)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def some_rows() -> list[TrainRow]:
    """Seven rows of all terms, 5 to 40 tokens: longer and shorter than the tiny models' window of 16."""
    rng = Random(0)
    terms = ("helpful", "safe", "rto", "helpful", "rto", "safe", "rto")
    lengths = (40, 23, 31, 5, 17, 12, 9)
    return [
        random_row(rng, term=term, length=length, name=f"{term}:{i}")
        for i, (term, length) in enumerate(zip(terms, lengths, strict=True))
    ]


@pytest.fixture(scope="session")
def model_of(make_model: Callable[..., Any]) -> Callable[..., Any]:
    """Build a copy of a tiny random model: one of `make_model`, or one whose head scales or caps its logits."""
    import torch
    from transformers import CohereConfig, Gemma2Config, GraniteConfig
    from transformers.models.auto import AutoModelForCausalLM

    shape: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    scaled = {
        "gemma2": partial(Gemma2Config, **shape, head_dim=8, final_logit_softcapping=5.0, sliding_window=16),
        "cohere": partial(CohereConfig, **shape, logit_scale=0.25),
        "granite": partial(GraniteConfig, **shape, logits_scaling=4.0),
    }
    models = {}

    def make(name: str, **settings: Any) -> Any:
        key = repr((name, settings))
        if key not in models:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                models[key] = (
                    AutoModelForCausalLM.from_config(scaled[name](**settings)).eval()
                    if name in scaled
                    else make_model(name, vocab_size=VOCAB, **settings)
                )
        return deepcopy(models[key])

    return make


@pytest.fixture(scope="session")
def small_data(make_tokenizer: Callable[..., Any]) -> Callable[..., list[Instance]]:
    """Instances of a method: `num_triples` triples and as many examples about harmless things."""
    chat = chat_format(make_tokenizer())
    refusals = refusal_tokens(chat)

    def make(method: str = "derta", *, num_triples: int = 8, num_examples: int = 8) -> list[Instance]:
        def about(number: int) -> str:
            return f"{THINGS[number % len(THINGS)]} {number}"

        triples = [
            Triple(
                query=f"How do I paint {about(i)}?",
                safe=f"Sorry, I cannot help with {about(i)}.",
                harmful=f"Sure, here are the steps for {about(i)}. Step 1: boil the water. Step 2: wait.",
            )
            for i in range(num_triples)
        ]
        examples = [
            Example(
                messages=(
                    Message(role="user", content=f"Tell me about {about(i)}."),
                    Message(role="assistant", content=f"Here is a story about {about(i)} and the warm stove."),
                )
            )
            for i in range(num_examples)
        ]
        from derta.methods import METHODS

        data = TrainingSet(triples, examples, counter=examples)
        config = RowConfig(method=method, **METHODS[method].defaults)
        return list(METHODS[method].dataset(data, chat=chat, refusals=refusals, config=config))

    return make


@pytest.fixture
def train_losses(
    tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Callable[..., Any], make_model: Callable[..., Any]
) -> Callable[..., Any]:
    """Train a tiny Llama on instances with the settings of a `DertaConfig`, and return the trainer."""
    import torch

    from derta.train.config import DertaConfig
    from derta.train.trainer import DertaTrainer

    def train(
        instances: Sequence[Instance],
        *,
        model: Any = None,
        resume: str | None = None,
        steps: bool = True,
        gradient_accumulation_steps: int = 1,
        **settings: Any,
    ) -> DertaTrainer:
        torch.manual_seed(0)
        tokenizer = make_tokenizer()
        net = make_model("llama", vocab_size=len(tokenizer), initializer_range=0.05) if model is None else model
        plain: dict[str, Any] = {
            "per_device_train_batch_size": 8,
            "num_train_epochs": 2,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "linear",
            "warmup_steps": 0,
            "weight_decay": 0,
            "logging_steps": 1,
            "save_total_limit": None,
            "seed": 0,
            "disable_tqdm": True,
            "max_length": 128,
            "sorry_dropout": 0.5,
            "pack_tokens": 256,
        }
        plain |= settings
        plain["global_batch_size"] = plain["per_device_train_batch_size"] * gradient_accumulation_steps
        config = DertaConfig(**({"output_dir": str(tmp_path_factory.mktemp("trainer"))} | plain))
        trainer = DertaTrainer(net, config, train_dataset=instances, processing_class=tokenizer)
        if steps:
            trainer.train(resume_from_checkpoint=resume)
        return trainer

    return train


def config_of(method: Any, out: Path, **settings: Any) -> Any:
    """Build a method's config without progress bars."""
    from derta.methods import find_method
    from derta.train.config import DertaConfig

    resolved = find_method(method)
    config = DertaConfig if resolved.config is None else resolved.config()
    return config(str(out), method=resolved, disable_tqdm=True, **({"seed": 0} | settings))


def tune_job(*, settings: dict[str, Any], out: Path, method: Any = "derta", **options: Any) -> Path:
    """Train a model as a run does; all arguments can be pickled for other processes."""
    from derta.methods import find_method, tune

    return tune(find_method(method), config=config_of(method, out, **settings), out=out, **options)


@pytest.fixture(scope="session")
def vanilla(make_model_dir: Callable[..., Path]) -> Path:
    """A stand-in for the tuned model that DPO is initialised from. Read only."""
    return make_model_dir(initializer_range=0.05)


@pytest.fixture(scope="session")
def vanilla_adapter(vanilla: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for a tuned adapter: not zero, so that it differs from its base."""
    import torch

    from derta.config import LoraSection
    from derta.train.adapters import load_initial_model

    torch.manual_seed(1)
    config = config_of("vanilla", tmp_path_factory.mktemp("config"))
    net = load_initial_model(str(vanilla), config, lora=LoraSection(r=4, lora_alpha=8))
    for name, parameter in net.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("adapter")
    net.save_pretrained(folder)
    return folder
