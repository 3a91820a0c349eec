"""Griffe extension of the documentation site: examples of a docstring become code blocks, instead of quotations."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^( *)(>>> .*(?:\n(?! *\n).+)*)", re.MULTILINE)


def fence_examples(text: str) -> str:
    r"""Return a docstring with its examples as code blocks of Markdown.

    >>> fence_examples("Bake.\n\n>>> bake()\n'bread'\n\nSlowly.")
    "Bake.\n\n```pycon\n>>> bake()\n'bread'\n```\n\nSlowly."
    """
    return _EXAMPLE.sub(lambda match: f"{match[1]}```pycon\n{match[0]}\n{match[1]}```", text)


class Examples(griffe.Extension):
    """Fence the examples of every docstring when an object is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Replace the text of the object's docstring."""
        if obj.docstring:
            obj.docstring.value = fence_examples(obj.docstring.value)
