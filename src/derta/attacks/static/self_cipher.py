"""SelfCipher: a role-play of cipher experts with demonstrations, in plain text rather than a real cipher."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Literal

from derta.attacks.base import Attack, per_request
from derta.attacks.building import factory
from derta.attacks.prompts import after_context, craft_prompt, shipped_text
from derta.errors import DataError, RecipeError
from derta.records import Message, Prompt, Request
from derta.sources import read_entries, text_of_entry


def read_demonstrations(path: str | Path, *, count: int) -> list[str]:
    """Load the first `count` demonstrations from a user's file: strings, or rows with `user` and `assistant`.

    Raises:
        DataError: unreadable file, entry without text, or fewer than `count` entries.
    """
    entries = read_entries(path)
    if len(entries) < count:
        raise DataError(
            f"{path}: expected at least {count} demonstrations, got {len(entries)}; add some, or lower `count`"
        )
    texts: list[str] = []
    for number, entry in enumerate(entries[:count], start=1):
        where = f"{path}, demonstration {number}"
        if isinstance(entry, dict):
            prompt = text_of_entry(entry, fields=("user",), where=where)
            texts.append(f"User: {prompt}\nExpert: {text_of_entry(entry, fields=('assistant',), where=where)}")
        else:
            texts.append(text_of_entry(entry, fields=("user and assistant",), where=where))
    return texts


@factory
def self_cipher(*, demonstrations: str | Path, count: int = 5, role: Literal["system", "user"] = "system") -> Attack:
    """Prompt with the request after a role-play in which both sides supposedly speak a cipher.

    The text of the role-play is ours and harmless. The attack depends on the demonstrations, which the user provides.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     demonstrations = Path(folder, "demonstrations.txt")
    ...     _ = demonstrations.write_text("How is soup made? Boil it.")
    ...     attack = self_cipher(demonstrations=demonstrations, count=1)
    >>> [message.role for message in attack.craft([Request(id="7", text="Why?")])[0].messages]
    ['system', 'user']

    Args:
        demonstrations: A `.json` list, `.jsonl`, `.csv`, or a text file with lines of ===== between them.
        count: The number of demonstrations in the prompt, from the start of the file.
        role: The role of the role-play's message: `system`, or `user` (in front of the request) for chat templates
            without a system role.

    Raises:
        RecipeError: `count` is below 1.
        DataError: see `read_demonstrations`.

    Source: Yuan et al. 2023, arXiv 2308.06463 (there 3 demonstrations); five as in arXiv 2407.09121.
    """
    if count < 1:
        raise RecipeError(f"self_cipher: expected a count of at least 1, got {count}; the default is 5")
    texts = read_demonstrations(demonstrations, count=count)
    examples = "\n\n".join(f"Example {number}\n{text}" for number, text in enumerate(texts, start=1))
    role_play = shipped_text("self_cipher.txt").replace("@EXAMPLES@", examples)

    def craft_one(request: Request, rng: Random) -> Iterator[Prompt]:
        if role == "system":
            messages = _with_system(role_play, request.conversation)
        else:
            messages = after_context(request, f"{role_play}\n\n{request.text}")
        yield craft_prompt(request, attack="self_cipher", messages=messages)

    return per_request("self_cipher", craft_one)


def _with_system(text: str, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return a conversation with a system prompt, below the one that it has: templates take a single one, first."""
    if messages[0].role == "system":
        text, messages = f"{messages[0].content}\n\n{text}", messages[1:]
    return (Message(role="system", content=text), *messages)
