"""Conversations that are longer than a model's window: their oldest turns are left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from derta.chat import ChatFormat, encode_prompt
from derta.config import Recipe
from derta.errors import ModelError
from derta.pipeline.evaluate import token_limits
from derta.pipeline.models import shared_format
from derta.pipeline.readiness import asked_recipes
from derta.pipeline.registry import Registry
from derta.records import Message, Prompt


class FittedPrompts(NamedTuple):
    """Prompts that fit the windows of a run's models, as far as leaving out turns can achieve it, and a note on it."""

    prompts: list[Prompt]
    notes: list[str]


def fit_windows(recipe: Recipe, prompts: Sequence[Prompt], registry: Registry = Registry()) -> FittedPrompts:
    """Return the prompts of a run without the oldest turns of conversations that are too long for one of its models.

    All models get the same prompts, so the smallest window counts, with the tokens of the reply. System messages and
    the last turn of the user are never left out: a prompt that is too long with these alone stays as it is, and
    `model_checks.check_prompts` names it.
    """
    if not any(_oldest_end(prompt.messages or ()) for prompt in prompts):
        return FittedPrompts(list(prompts), [])
    limits = token_limits(recipe, prompts)
    windows = [window for asked in asked_recipes(recipe, registry) if (window := _window(asked)) is not None]
    fitted = [
        _fit(prompt, lambda one: all(_fits(one, *window, new_tokens=limits[one.id]) for window in windows))
        for prompt in prompts
    ]
    cut = sum(before is not after for before, after in zip(prompts, fitted, strict=True))
    note = f"{cut} conversations are longer than the window of a model: their oldest turns are left out for all models."
    return FittedPrompts(fitted, [note] if cut else [])


def without_oldest(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return a conversation without its oldest turn of the user and the answer to it; system messages stay.

    >>> roles = ("system", "user", "assistant", "user")
    >>> [one.role for one in without_oldest([Message(role=role, content="Bread?") for role in roles])]
    ['system', 'user']
    """
    start = _num_system(messages)
    return (*messages[:start], *messages[_oldest_end(messages) :])


def _num_system(messages: Sequence[Message]) -> int:
    return next((index for index, message in enumerate(messages) if message.role != "system"), len(messages))


def _oldest_end(messages: Sequence[Message]) -> int:
    """Return the index of the second turn of the user, where the conversation may begin; 0 without one."""
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    return users[1] if len(users) > 1 else 0


def _fit(prompt: Prompt, fits: Callable[[Prompt], bool]) -> Prompt:
    shorter = prompt
    while _oldest_end(shorter.messages or ()) and not fits(shorter):
        shorter = shorter.model_copy(update={"messages": without_oldest(shorter.messages or ())})
    return shorter


def _window(recipe: Recipe) -> tuple[ChatFormat, int] | None:
    """Return a model's chat format and its number of positions; None without a limit."""
    from derta.loading import load_config, position_limit

    limit = position_limit(load_config(recipe.model.path, trust_remote_code=recipe.model.trust_remote_code))
    return None if limit is None else (shared_format(recipe)[0], limit)


def _fits(prompt: Prompt, chat: ChatFormat, positions: int, *, new_tokens: int) -> bool:
    try:
        return len(encode_prompt(chat, prompt)) + new_tokens <= positions
    except ModelError:  # the template refuses it, which is an error of its own
        return True
