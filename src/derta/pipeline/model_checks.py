"""Checks of a run's models before any is trained: their settings on this machine, the template, and the positions."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from derta.chat import TemplateSupport, encode_after, encode_prompt
from derta.config import Recipe
from derta.data.preferences import EncodedPair, cut_pair
from derta.data.preparation import PreparedData
from derta.data.rows import Instance, max_tokens
from derta.engines.token_io import check_encoded
from derta.errors import DataError, ModelError, RecipeError
from derta.methods import Method
from derta.pipeline.models import recipe_config, shared_format
from derta.records import Prompt


def check_compiler(recipe: Recipe) -> None:
    """Fail before any work starts if there is no C++ compiler; accelerators need none."""
    from torch.accelerator import is_available

    compiler = os.environ.get("CXX", "g++")
    if recipe.train.rows.compile_layers and not is_available() and shutil.which(compiler) is None:
        raise RecipeError(
            f"train.compile_layers: expected a C++ compiler, found no {compiler}; install it, or set it to false"
        )


def check_training(recipe: Recipe, method: Method, *, prepared: PreparedData) -> None:
    """Validate, before any model is trained, the config of a method on this machine and the lengths of its rows.

    Raises:
        RecipeError: an option that this machine lacks, such as a logger of `report_to`.
        DataError: a row is longer than the model's positions, or there are no counter examples to refuse.
    """
    if method.own_refusals and not prepared.counter:
        raise DataError(f"{method.name}: expected counter examples, got none; set `data.counter`")
    if method.own_refusals and method.init_from is None:
        raise RecipeError(f"{method.name}: expected `init_from`, the method whose refusals it unlearns, got none")
    seed = recipe.seeds[0]
    config = recipe_config(recipe, method, seed=seed, output_dir=Path("model"))
    from derta.loading import load_config, position_limit

    limit = position_limit(load_config(recipe.model.path, trust_remote_code=recipe.model.trust_remote_code))
    if limit is None or limit >= config.max_length:
        return
    from derta.train.inputs import check_longest

    chat, refusals = shared_format(recipe)
    data = prepared.training_set(triples_per_unit=method.triples_per_unit, seed=seed)
    rows = method.dataset(data, chat=chat, refusals=refusals, config=config)
    for row in rows:
        if isinstance(row, Instance):
            check_longest(row.id, max_tokens(row, config=config), limit=limit)
        elif isinstance(row, EncodedPair):
            check_longest(row.id, cut_pair(row, max_length=config.max_length).longest, limit=limit)


def check_prompts(recipe: Recipe, prompts: Sequence[Prompt], *, new_tokens: Mapping[str, int]) -> None:
    """Validate, before any model is trained, that its template and its positions admit the prompts of a run.

    Args:
        recipe: The recipe.
        prompts: The prompts, also those of likelihoods.
        new_tokens: Number of tokens after each prompt, by id.

    Raises:
        ModelError: the chat template refuses a prompt or leaves out a part of it, or it is too long; the message names
            it.
    """
    from derta.loading import load_config, position_limit

    if not prompts:
        return
    chat, _ = shared_format(recipe)
    support = TemplateSupport(chat)
    config = load_config(recipe.model.path, trust_remote_code=recipe.model.trust_remote_code)
    positions, embeddings = position_limit(config), int(config.get_text_config().vocab_size)
    for prompt in prompts:
        name = f"prompt {prompt.id!r}"
        try:
            token_ids = encode_prompt(chat, prompt)
            left_out = support.left_out(prompt.messages, prompt.tools) if prompt.messages else None
        except ModelError as error:
            raise ModelError(f"{name}: {error}") from error
        if left_out is not None:
            raise ModelError(f"{name}: {left_out}")
        new = new_tokens[prompt.id]
        check_encoded(chat, name, token_ids, new_tokens=new, positions=positions, embeddings=embeddings)


def check_scored(recipe: Recipe, texts: Sequence[tuple[Prompt, str]]) -> None:
    """Validate that the template and the positions of a recipe's model admit prompts with the answers to score.

    Raises:
        ModelError: the chat template refuses one, or it is too long; the message names it.
    """
    if not texts:
        return
    chat, refusals = shared_format(recipe)
    longest = max(map(len, refusals.forms))
    word = longest if longest > 1 else 0  # scored after the answer, as tokens of their own
    lengths = {prompt.id: len(encode_after(chat, prompt, text).response_ids) + word for prompt, text in texts if text}
    check_prompts(recipe, [prompt for prompt, _ in texts], new_tokens=Counter(lengths))
