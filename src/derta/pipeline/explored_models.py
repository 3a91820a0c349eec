"""Models and example prompts of `derta explore`: folders of models, adapters and runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from derta.engines import load_engine
from derta.errors import ModelError
from derta.files import read_records
from derta.loading import base_of_adapter, is_adapter
from derta.protocols import Display
from derta.records import Message, Prompt

if TYPE_CHECKING:
    from derta.engines.hf_engine import HfEngine

PER_CELL = 5
"""Number of a run's prompts of each attack or data set that are examples."""


class Example(NamedTuple):
    """A prompt of a run to start from; `banned` are the texts that its attack bans."""

    name: str
    messages: tuple[Message, ...]
    prefill: str
    banned: tuple[str, ...]


def find_models(paths: Sequence[str]) -> dict[str, str]:
    """Return the models of folders and hub ids, by short and unique names.

    A folder of a run has several models: its `*/model`. A model's folder of a run has one.

    >>> find_models(["runs/a/derta-seed0/model", "org/name"])
    {'derta-seed0': 'runs/a/derta-seed0/model', 'org/name': 'org/name'}
    >>> [*find_models(["a/derta-seed0/model", "b/derta-seed0/model"])]
    ['a/derta-seed0', 'b/derta-seed0']

    Raises:
        ModelError: a model is given twice.
    """
    found = [str(model) for path in paths for model in _models_in(path)]
    if twice := [path for path, number in Counter(found).items() if number > 1]:
        raise ModelError(f"{twice[0]}: expected each model once, got it twice; remove one")
    names = [_name_parts(path) for path in found]
    return {_unique(parts, names): path for parts, path in zip(names, found, strict=True)}


def _models_in(path: str) -> Sequence[str | Path]:
    folder = Path(path)
    if not folder.is_dir() or (folder / "config.json").is_file() or is_adapter(folder):
        return [path]
    inside = [folder / "model"] if (folder / "model").is_dir() else sorted(folder.glob("*/model"))
    return inside or [path]


def _name_parts(path: str) -> list[str]:
    """Return the parts of a path that name its model, without the folder `model` of a run; a hub id is one part."""
    if not Path(path).exists() and path.count("/") == 1:
        return [path]
    parts = [part for part in Path(path).parts if part not in ("/", ".")]
    return parts[:-1] if len(parts) > 1 and parts[-1] == "model" else parts or [path]


def _unique(parts: Sequence[str], others: Sequence[Sequence[str]]) -> str:
    """Return the shortest end of a path that no other path has."""
    for length in range(1, len(parts) + 1):
        if sum(one[-length:] == parts[-length:] for one in others) == 1:
            return "/".join(parts[-length:])
    return "/".join(parts)


def load_models(
    models: Mapping[str, str],
    *,
    base: str | None = None,
    settings: Mapping[str, Any] | None = None,
    display: Display = Display(),
) -> dict[str, HfEngine]:
    """Load each model into an engine; an adapter is loaded on its base model.

    Args:
        models: Folders and hub ids by name (see `find_models`).
        base: Base model of adapters, instead of the one that each of them names.
        settings: Settings of the engine `hf`, such as `dtype`.
        display: Shows the number of loaded models.

    Raises:
        ModelError: a model cannot be loaded, or `base` is given without an adapter.
        EngineError: an unknown setting.
    """
    adapters = {path for path in models.values() if is_adapter(Path(path))}
    if base is not None and not adapters:
        raise ModelError(f"--base {base}: expected an adapter's folder among the models, got none; remove the option")
    engines: dict[str, HfEngine] = {}
    with display.progress.task("loading models", total=len(models)) as task:
        for name, path in models.items():
            found = {"adapter": path} if path in adapters else {}
            source = (base or base_of_adapter(Path(path))) if path in adapters else path
            engine: Any = load_engine(source, engine="hf", **found, **(settings or {}))
            engines[name] = engine
            task.update(len(engines))
    return engines


def prompts_of_run(models: Mapping[str, str]) -> Path | None:
    """Return the prompts of the run that the first model belongs to, or None."""
    first = Path(next(iter(models.values())))
    path = first.parent.parent / "prompts.jsonl"
    return path if first.name == "model" and path.is_file() else None


def example_prompts(path: Path) -> list[Example]:
    """Load the first chat prompts of each attack and data set of a file, in their order; those with tools are left out.

    Raises:
        DataError: the file cannot be read, or is no file of prompts.
    """
    examples: dict[str, list[Example]] = {}
    for prompt in read_records(path, Prompt):
        messages = prompt.messages or ()
        is_plain = all(one.role != "tool" and one.tool_calls is None for one in messages) and prompt.tools is None
        found = examples.setdefault(prompt.cell, [])
        if not messages or not is_plain or len(found) == PER_CELL or prompt.prefill_in == "thought":
            continue
        banned = prompt.decoding.banned if prompt.decoding else ()
        found.append(Example(f"{prompt.cell}: {prompt.request_id}", messages, prompt.prefill or "", banned))
    return [one for found in examples.values() for one in found]
