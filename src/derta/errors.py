"""Error types and the formatting of error messages: the expected input, the actual input, and the fix, in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufdd0-\ufdef\ufeff"
    "\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)

_OWN_VERSIONS = ("inspect", "vllm")
"""Extras whose packages require other versions than those of constraints.txt."""


class DertaError(ValueError):
    r"""Base class of errors that the user can fix; the command line prints one line and exits with code 2.

    Do not raise it in a pydantic validator: pydantic converts every `ValueError` into a `ValidationError`.

    The message contains no control sequence: it quotes file names, data and servers' answers.

    >>> str(DertaError("expected a.json, got \x1b[2Jb.json"))
    'expected a.json, got ⟨U+001B⟩[2Jb.json'
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(escape_hidden(message))


class DataError(DertaError):
    """An invalid data file, or an invalid row in one.

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
    derta.errors.RecipeError: recipe: expected a mapping of recipe keys, got a list; see docs/cli.md

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
    """A model or tokenizer that cannot be loaded, or lacks a chat template, an EOS token or a refusal token.

    >>> from derta import load_engine
    >>> load_engine("no")
    Traceback (most recent call last):
    derta.errors.ModelError: no: expected a model folder or a hub id (org/name), found no such folder; check the path
    """


class RunError(DertaError):
    """A run folder of another recipe, or one that cannot be written.

    >>> from pathlib import Path
    >>> from derta import report
    >>> report(Path("nowhere"))
    Traceback (most recent call last):
    derta.errors.RunError: nowhere: expected a run's folder with a run.json, or folders of runs, found none
    """


class EngineError(DertaError):
    """An engine error: invalid options, a missing package, an unreachable server, or prompts without a reply.

    >>> from derta import load_engine
    >>> load_engine("org/name", engine="hff")
    Traceback (most recent call last):
    derta.errors.EngineError: unknown engine 'hff'; did you mean 'hf'?
    """


class ServerError(EngineError):
    """Servers that cannot be reached or have stopped answering; further requests would fail too.

    >>> issubclass(ServerError, EngineError)
    True
    """


def kind_of(value: object) -> str:
    """Return the kind of a value of a file, as the person who wrote the file names it, for an error message.

    >>> kind_of(None), kind_of("x"), kind_of(1.5), kind_of({}), kind_of([])
    ('nothing', 'a text', 'a number', 'an object', 'a list')
    """
    return next((name for kind, name in _KINDS if isinstance(value, kind)), f"a {type(value).__name__}")


_KINDS: tuple[tuple[Any, str], ...] = (
    (type(None), "nothing"),
    (bool, "true or false"),
    (str, "a text"),
    (int | float, "a number"),
    (list, "a list"),
    (tuple, "a list"),
    (dict, "an object"),
)
"""Kinds of values in JSON and YAML, with their names."""
_MOST = 40
"""Number of valid names from which on a message lists no more."""


def did_you_mean(name: str, valid_names: Iterable[str]) -> str:
    """Return a hint for an error message: the valid name closest to an invalid one, or the list of all valid names.

    >>> did_you_mean("divice", ["device", "dtype"]), did_you_mean("steam", ["device", "dtype"])
    ("did you mean 'device'?", 'known: device, dtype')
    """
    names = list(valid_names)
    near = get_close_matches(name, names, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return f"known: {', '.join(names[:_MOST])}{more}" if names else "there are none"


def install_advice(extra: str) -> str:
    """Return the command that installs one of the package's extras, for an error message.

    >>> install_advice("dpo")
    "run `pip install -c constraints.txt -e '.[dpo]'` in a clone of derta"
    """
    pinned = "" if extra in _OWN_VERSIONS else "-c constraints.txt "
    return f"run `pip install {pinned}-e '.[{extra}]'` in a clone of derta"


def escape_hidden(text: str) -> str:
    """Return a text with its control, bidirectional and other hidden characters replaced by their code points.

    Line breaks, tabs and joiners are valid and stay as they are.

    >>> escape_hidden("safe\u202egnp.exe")
    'safe⟨U+202E⟩gnp.exe'
    """
    return _HIDDEN.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text.replace("\r\n", "\n"))


def escape_entry(text: str) -> str:
    r"""Return a text as one entry of a log or an output: escaped, with its lines after the first indented.

    So no part of the text can be taken for another entry.

    >>> escape_entry("a.json: fine\nderta: finished")
    'a.json: fine\n  derta: finished'
    """
    return escape_hidden(text).replace("\n", "\n  ")


def escape_json(text: str) -> str:
    r"""Return JSON text in which hidden characters are JSON's escapes; its value is the same.

    >>> escape_json('{"name": "safe\u202egnp.exe"}')
    '{"name": "safe\\u202egnp.exe"}'
    """
    return _HIDDEN.sub(lambda match: json.dumps(match[0])[1:-1], text)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error means that the machine or a device ran out of memory.

    Some errors of torch have no type for this, so their message is searched.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    (True, True)
    """
    message = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in message or "allocate memory" in message
