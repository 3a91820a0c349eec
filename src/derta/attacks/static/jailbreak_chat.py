"""JailbreakChat: the request inside one of many templates that people collected. No template is shipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

from derta.attacks.base import craft_prompt, fill, per_request, user
from derta.errors import DataError, RecipeError
from derta.protocols import Attack
from derta.records import Prompt, Request
from derta.sources import SEPARATOR, read_entries, text_of

PLACEHOLDER = "[INSERT PROMPT HERE]"
FIELDS = ("text", "prompt", "template")


def read_templates(path: Path, *, placeholder: str = PLACEHOLDER, separator: str = SEPARATOR) -> list[str]:
    """Templates from a user's file: strings, or the `text`, `prompt` or `template` field of its rows.

    Raises:
        DataError: unreadable file, an entry without text, or a template without the placeholder; numbers count from 1.
    """
    entries = enumerate(read_entries(path, separator=separator), start=1)
    templates = [text_of(entry, fields=FIELDS, where=f"{path}, template {number}") for number, entry in entries]
    bare = [number for number, template in enumerate(templates, start=1) if placeholder not in template]
    if bare:
        raise DataError(
            f"{path}, template {bare[0]}: expected the placeholder {placeholder!r}, found none ({len(bare)} of "
            f"{len(templates)} templates lack it); add it, or name yours as `placeholder`"
        )
    return templates


def jailbreak_chat(*, templates: Path, placeholder: str = PLACEHOLDER, separator: str = SEPARATOR) -> Attack:
    """Put each request into a template drawn for it alone, wherever the placeholder stands.

    Args:
        templates: a `.json` list, `.jsonl`, `.csv`, or a text file with `separator` lines between templates.
        placeholder: what the request replaces.
        separator: a line that parts two templates of a text file.

    Raises:
        DataError: see `read_templates`.

    Source: the collection at jailbreakchat.com, as used in arXiv 2407.09121 (50 templates, one at random a question).
    """
    if not placeholder:
        raise RecipeError("jailbreak_chat: expected a placeholder, got an empty text; the usual one is " + PLACEHOLDER)
    texts = read_templates(templates, placeholder=placeholder, separator=separator)

    def craft_one(request: Request, rng: Random) -> Iterator[Prompt]:
        text = fill(rng.choice(texts), placeholder, request.text)
        yield craft_prompt(request, attack="jailbreak_chat", messages=user(text))

    return per_request(craft_one)
