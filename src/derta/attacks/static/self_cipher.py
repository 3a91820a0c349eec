"""SelfCipher: a role-play of cipher experts, with demonstrations, where the cipher changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Literal

from derta.attacks.base import Attack, per_request
from derta.attacks.building import factory
from derta.attacks.prompts import craft_prompt, shipped_text, user
from derta.errors import DataError, RecipeError
from derta.records import Message, Prompt, Request
from derta.sources import read_entries, text_of_entry


def read_demonstrations(path: str | Path, *, count: int) -> list[str]:
    """The first `count` demonstrations of a user's file: strings, or rows with `user` and `assistant`.

    Raises:
        DataError: unreadable file, an entry without text, or fewer than `count`.
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
    """Ask plainly after a role-play in which both sides are said to speak a cipher.

    The role-play's text is our own and harmless; what makes it an attack are the demonstrations, which a user brings.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     demonstrations = Path(folder, "demonstrations.txt")
    ...     _ = demonstrations.write_text("How is soup made? Boil it.")
    ...     attack = self_cipher(demonstrations=demonstrations, count=1)
    >>> [message.role for message in attack.craft([Request(id="7", text="Why?")])[0].messages]
    ['system', 'user']

    Args:
        demonstrations: a `.json` list, `.jsonl`, `.csv`, or a text file with lines of ===== between them.
        count: how many of them are shown, from the first on.
        role: who gives the role-play: a system message, or, for templates that know none, the user before the request.

    Raises:
        RecipeError: fewer than one demonstration asked for.
        DataError: see `read_demonstrations`.

    Source: Yuan et al. 2023, arXiv 2308.06463 (there 3 demonstrations); five as in arXiv 2407.09121.
    """
    if count < 1:
        raise RecipeError(f"self_cipher: expected a count of at least 1, got {count}; the paper's is 5")
    texts = read_demonstrations(demonstrations, count=count)
    examples = "\n\n".join(f"Example {number}\n{text}" for number, text in enumerate(texts, start=1))
    role_play = shipped_text("self_cipher.txt").replace("@EXAMPLES@", examples)

    def craft_one(request: Request, rng: Random) -> Iterator[Prompt]:
        if role == "system":
            messages = (Message(role="system", content=role_play), *user(request.text))
        else:
            messages = user(f"{role_play}\n\n{request.text}")
        yield craft_prompt(request, attack="self_cipher", messages=messages)

    return per_request("self_cipher", craft_one)
