"""The models of a run: checked, tuned, and loaded when they are first asked something."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from derta.chat import ChatFormat, RefusalTokens, chat_format, refusal_tokens
from derta.config import Recipe
from derta.data.preparation import PreparedData
from derta.engines import check_settings, load_engine
from derta.errors import EngineError, ModelError, RecipeError
from derta.methods import Method, method_config, tune
from derta.protocols import Display, Engine
from derta.records import Prompt, Reply


class Format(NamedTuple):
    """A recipe's tokenizer in its chat format, and its refusal tokens."""

    chat: ChatFormat
    refusals: RefusalTokens


def load_format(recipe: Recipe) -> Format:
    """Load the tokenizer and check what training needs of it.

    Raises:
        ModelError: no model there, no template, no EOS, or a refusal word that is no single token.
    """
    from derta.loading import load_tokenizer

    tokenizer = load_tokenizer(recipe.model.path, trust_remote_code=recipe.model.trust_remote_code)
    chat = chat_format(tokenizer, template=recipe.model.template, template_kwargs=recipe.model.template_kwargs)
    return Format(chat, refusal_tokens(chat, recipe.model.refusal_words))


def check_init_from(method: Method, init_from: Path | None) -> None:
    """Fail if a method lacks the tuned model that it starts from, or has one that it does not start from."""
    if method.init_from is None and init_from is not None:
        raise RecipeError(
            f"--init-from: expected none for {method.name}, which starts from the recipe's model, got {init_from}"
        )
    if method.init_from is not None and init_from is None:
        raise RecipeError(
            f"{method.name}: expected --init-from, the folder of the {method.init_from} model that it starts from, got "
            "none"
        )
    if init_from and not any((init_from / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ModelError(f"{init_from}: expected a folder with a tuned model or adapter, found none; check the path")


def check_compiler(recipe: Recipe) -> None:
    """Fail before any work starts if there is nothing to compile with; accelerators bring their own."""
    from torch.accelerator import is_available

    compiler = os.environ.get("CXX", "g++")
    if recipe.train.rows.compile_layers and not is_available() and shutil.which(compiler) is None:
        raise RecipeError(
            f"train.compile_layers: expected a C++ compiler, found no {compiler}; install it, or set it to false"
        )


def train_method(
    recipe: Recipe,
    *,
    method: Method,
    seed: int,
    prepared: PreparedData,
    out: Path,
    init_from: Path | None = None,
    display: Display = Display(),
) -> Path:
    """Tune one model, unless it is there already; one that a method starts from is in `init_from`."""
    if out.exists():
        return out
    check_init_from(method, init_from)
    from derta.pipeline.training import training_progress

    chat, _ = load_format(recipe)
    config = method_config(
        method,
        recipe.train,
        model=recipe.model,
        seed=seed,
        output_dir=out,
        settings=recipe.method_settings.get(method.name),
    )
    with training_progress(display, f"{method.name} seed {seed}: training") as callback:
        return tune(
            method,
            model=recipe.model.path,
            config=config,
            data=prepared.training_set(triples_per_unit=method.triples_per_unit, seed=seed),
            tokenizer=chat.tokenizer,
            out=out,
            lora=recipe.train.lora,
            init_from=init_from,
            callbacks=[callback],
        )


def check_engine(recipe: Recipe) -> None:
    """Fail before any work starts if the engine that is to load the tuned models is missing or set up wrongly.

    Raises:
        RecipeError: a setting that the recipe has in another place.
        EngineError: a setting that the engine does not have or that cannot be, or vLLM is not installed.
    """
    config = recipe.generate
    for setting in config.settings:
        if setting in engine_settings(recipe, adapter=None):
            raise RecipeError(
                f"generate.settings: expected none that follows from the rest of the recipe, got {setting!r}; set it "
                "under model, train or generate"
            )
    check_settings(config.engine, config.settings)
    if config.engine == "vllm" and find_spec("vllm") is None:
        raise EngineError(
            "generate.engine: expected the package vllm, found none; pip install 'derta[vllm]', or use hf"
        )


def engine_settings(recipe: Recipe, *, adapter: str | None) -> dict[str, Any]:
    """What a recipe says, outside `generate.settings`, of how its engine loads and asks a model."""
    settings: dict[str, Any] = {
        "adapter": adapter,
        "template": recipe.model.template,
        "template_kwargs": recipe.model.template_kwargs,
        "dtype": recipe.generate.dtype,
        "refusal_words": recipe.model.refusal_words,
        "trust_remote_code": recipe.model.trust_remote_code,
    }
    if recipe.generate.engine == "hf":
        settings |= {"max_batch_tokens": recipe.generate.batch_tokens, "threads": recipe.train.rows.num_threads}
    return settings


class LazyEngine:
    """The recipe's engine, which loads a model when it is first asked something: a finished stage needs none.

    Without a tuned model it loads the recipe's own.

    Before it loads, and when it is released, all memory goes back to the devices: vLLM runs in a process of its own.
    """

    def __init__(self, recipe: Recipe, model_path: Path | None) -> None:
        self._recipe = recipe
        self._model_path = model_path
        self._engine: Engine | None = None

    def _load(self) -> Engine:
        if self._engine is None:
            from derta.loading import release_memory

            release_memory()
            recipe, tuned = self._recipe, None if self._model_path is None else str(self._model_path)
            adapter = tuned if recipe.train.lora is not None else None
            settings = engine_settings(recipe, adapter=adapter)
            path = recipe.model.path if tuned is None or adapter is not None else tuned
            self._engine = load_engine(path, engine=recipe.generate.engine, **(settings | recipe.generate.settings))
        return self._engine

    def release(self) -> None:
        """Let go of the model, so that the next one can be trained where it was; if asked again, it is loaded again."""
        if self._engine is not None:
            from derta.loading import release_memory

            self._engine = None
            release_memory()

    def generate(self, prompts: Sequence[Prompt], *, max_new_tokens: int) -> Iterator[Reply]:
        """As `Engine`."""
        return self._load().generate(prompts, max_new_tokens=max_new_tokens)

    def log_likelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[list[float]]:
        """As `Engine`."""
        return self._load().log_likelihood(prompts, continuations)

    def refusal_probability(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[list[float]]:
        """As `Engine`."""
        return self._load().refusal_probability(prompts, continuations)
