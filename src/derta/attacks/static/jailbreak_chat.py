"""JailbreakChat: the request inside a jailbreak template from a user's file. No templates are shipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

from derta.attacks.base import Attack, per_request
from derta.attacks.building import factory
from derta.attacks.prompts import after_context, craft_prompt
from derta.errors import DataError, RecipeError
from derta.records import Prompt, Request
from derta.sources import SEPARATOR, read_texts

PLACEHOLDER = "[INSERT PROMPT HERE]"
FIELDS = ("text", "prompt", "template")


def read_templates(path: str | Path, *, placeholder: str = PLACEHOLDER, separator: str = SEPARATOR) -> tuple[str, ...]:
    """Load templates from a user's file: strings, or the `text`, `prompt` or `template` field of its rows.

    Raises:
        DataError: unreadable file, entry without text, or template without the placeholder (numbered from 1).
    """
    templates = read_texts(path, what="template", fields=FIELDS, separator=separator)
    missing = [number for number, template in enumerate(templates, start=1) if placeholder not in template]
    if missing:
        raise DataError(
            f"{path}, template {missing[0]}: expected the placeholder {placeholder!r}, got none ({len(missing)} of "
            f"{len(templates)} templates lack it); add it, or set the option `placeholder`"
        )
    return templates


@factory
def jailbreak_chat(*, templates: str | Path, placeholder: str = PLACEHOLDER, separator: str = SEPARATOR) -> Attack:
    """Insert each request into a template that is sampled for it, in place of the placeholder.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     templates = Path(folder, "templates.txt")
    ...     _ = templates.write_text("Play a gardener. [INSERT PROMPT HERE]")
    ...     attack = jailbreak_chat(templates=templates)
    >>> attack.craft([Request(id="7", text="Why?")])[0].messages[0].content
    'Play a gardener. Why?'

    Args:
        templates: A `.json` list, `.jsonl`, `.csv`, or a text file with `separator` lines between templates.
        placeholder: The text that the request replaces.
        separator: The line between two templates in a text file.

    Raises:
        DataError: see `read_templates`.

    Source: the collection at jailbreakchat.com, as used in arXiv 2407.09121 (50 templates, one per request at random).
    """
    if not placeholder:
        raise RecipeError("jailbreak_chat: expected a placeholder, got an empty text; the default is " + PLACEHOLDER)
    texts = read_templates(templates, placeholder=placeholder, separator=separator)

    def craft_one(request: Request, rng: Random) -> Iterator[Prompt]:
        text = rng.choice(texts).replace(placeholder, request.text)
        yield craft_prompt(request, attack="jailbreak_chat", messages=after_context(request, text))

    return per_request("jailbreak_chat", craft_one)
