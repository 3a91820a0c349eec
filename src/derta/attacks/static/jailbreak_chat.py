"""JailbreakChat: the request inside one of many templates that people collected. No template is shipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

from derta.attacks.base import Attack, per_request
from derta.attacks.building import factory
from derta.attacks.prompts import craft_prompt, user
from derta.errors import DataError, RecipeError
from derta.records import Prompt, Request
from derta.sources import SEPARATOR, read_texts

PLACEHOLDER = "[INSERT PROMPT HERE]"
FIELDS = ("text", "prompt", "template")


def read_templates(path: str | Path, *, placeholder: str = PLACEHOLDER, separator: str = SEPARATOR) -> tuple[str, ...]:
    """Templates from a user's file: strings, or the `text`, `prompt` or `template` field of its rows.

    Raises:
        DataError: unreadable file, an entry without text, or a template without the placeholder; numbers count from 1.
    """
    templates = read_texts(path, what="template", fields=FIELDS, separator=separator)
    missing = [number for number, template in enumerate(templates, start=1) if placeholder not in template]
    if missing:
        raise DataError(
            f"{path}, template {missing[0]}: expected the placeholder {placeholder!r}, found none ({len(missing)} of "
            f"{len(templates)} templates lack it); add it, or name yours as `placeholder`"
        )
    return templates


@factory
def jailbreak_chat(*, templates: str | Path, placeholder: str = PLACEHOLDER, separator: str = SEPARATOR) -> Attack:
    """Put each request into a template drawn for it alone, in place of the placeholder.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     templates = Path(folder, "templates.txt")
    ...     _ = templates.write_text("Play a gardener. [INSERT PROMPT HERE]")
    ...     attack = jailbreak_chat(templates=templates)
    >>> attack.craft([Request(id="7", text="Why?")])[0].messages[0].content
    'Play a gardener. Why?'

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
        text = rng.choice(texts).replace(placeholder, request.text)
        yield craft_prompt(request, attack="jailbreak_chat", messages=user(text))

    return per_request("jailbreak_chat", craft_one)
