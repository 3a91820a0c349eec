"""Errors of the user in one line: what was expected, what came, what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufdd0-\ufdef\ufeff"
    "\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)


class DertaError(ValueError):
    """A mistake the user can fix; the command line prints it as one line and exits with code 2.

    Pydantic turns a `ValueError` of a validator into a `ValidationError`: validators of ours raise no `DertaError`.

    >>> issubclass(DertaError, ValueError)
    True
    """


class DataError(DertaError):
    """A data file, or a row of it, is not what a reader expects.

    >>> from derta import load_triples
    >>> load_triples("nowhere.jsonl")
    Traceback (most recent call last):
    derta.errors.DataError: nowhere.jsonl: cannot read it (No such file or directory); check the path
    """


class RecipeError(DertaError):
    """An unknown key or an invalid value in a recipe or a configuration.

    >>> from derta.config import parse_recipe
    >>> parse_recipe([], where="recipe")
    Traceback (most recent call last):
    derta.errors.RecipeError: recipe: expected a mapping of recipe keys, got list; see `derta run --help`

    Attributes:
        reason: The message without the key.
        key: Name of the invalid setting; several names are separated by commas. None if the error concerns none.
    """

    def __init__(self, reason: str, *, key: str | None = None) -> None:
        super().__init__(reason if key is None else f"{key}: {reason}")
        self.reason = reason
        self.key = key

    def within(self, section: str) -> RecipeError:
        """Return the error as reported for a section of a recipe.

        >>> str(RecipeError("expected 1 or more, got 0", key="max_steps").within("train"))
        '`train.max_steps`: expected 1 or more, got 0'
        >>> str(RecipeError("expected a mapping, got a list").within("train"))
        '`train`: expected a mapping, got a list'
        """
        name = section if self.key is None else f"{section}.{self.key}"
        return RecipeError(self.reason, key=f"`{name}`")


class ModelError(DertaError):
    """A model or tokenizer folder lacks what a stage needs (template, EOS, refusal token).

    >>> from derta import load_engine
    >>> load_engine("no")
    Traceback (most recent call last):
    derta.errors.ModelError: no: expected a model folder or a hub id (org/name), found no such folder; check the path
    """


class RunError(DertaError):
    """A run folder belongs to another recipe, or cannot be written.

    >>> from pathlib import Path
    >>> from derta import report
    >>> report(Path("nowhere"))
    Traceback (most recent call last):
    derta.errors.RunError: nowhere: expected a run's folder with a run.json, or folders of runs, found none
    """


class EngineError(DertaError):
    """A served model cannot be reached, refuses, or leaves prompts unanswered; or an engine's package is missing.

    >>> from derta import load_engine
    >>> load_engine("org/name", engine="hff")
    Traceback (most recent call last):
    derta.errors.EngineError: unknown engine 'hff'; did you mean 'hf'?
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Offer the known name that is nearest to an unknown one, or else all of them.

    >>> did_you_mean("divice", ["device", "dtype"]), did_you_mean("steam", ["device", "dtype"])
    ("did you mean 'device'?", 'known: device, dtype')
    """
    names = list(known)
    near = get_close_matches(name, names, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(names)}" if names else "there are none"


def escape_hidden(text: str) -> str:
    """Name the characters that hide, reorder or break text; line breaks, tabs and joiners stay.

    >>> escape_hidden("safe\u202egnp.exe")
    'safe⟨U+202E⟩gnp.exe'
    """
    return _HIDDEN.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text.replace("\r\n", "\n"))


def is_out_of_memory(error: Exception) -> bool:
    """Whether a machine or a device had no memory left, which torch tells by words alone in some of its errors.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    (True, True)
    """
    told = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in told or "allocate memory" in told
