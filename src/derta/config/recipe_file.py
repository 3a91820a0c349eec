"""A recipe's YAML as values: what it includes put beneath it, environment variables put in."""

from __future__ import annotations

from os.path import expandvars
from pathlib import Path
from typing import Any

import yaml

from derta.errors import RecipeError

INCLUDE = "include"


def read_values(path: Path, *, inside: tuple[Path, ...] = ()) -> Any:
    """Read a YAML file; a top-level `include: other.yaml` names a file beside it whose values it goes on from.

    Values of the including file win; mappings are merged key by key, lists and everything else are replaced.
    `inside` are the files that led here.

    Raises:
        RecipeError: a file is missing, not YAML, or includes itself.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot read the recipe ({error}); check the path") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: expected YAML: {' '.join(str(error).split())}") from error
    values = _expand(values)
    if not isinstance(values, dict) or INCLUDE not in values:
        return values
    included, own = values.pop(INCLUDE), values
    if not isinstance(included, str) or path.resolve() in inside:
        raise RecipeError(f"{path}: `{INCLUDE}`: expected the name of another recipe file, got {included!r:.80}")
    return merge(read_values(path.parent / included, inside=(*inside, path.resolve())), own)


def merge(beneath: Any, above: Any) -> Any:
    """Lay values over others; only mappings are merged.

    >>> merge({"train": {"epochs": 2, "bf16": True}, "seeds": [0, 1]}, {"train": {"epochs": 1}, "seeds": [2]})
    {'train': {'epochs': 1, 'bf16': True}, 'seeds': [2]}
    """
    if not isinstance(beneath, dict) or not isinstance(above, dict):
        return above
    return beneath | {key: merge(beneath.get(key), value) for key, value in above.items()}


def _expand(value: Any) -> Any:
    """Put environment variables into every text of a recipe."""
    if isinstance(value, dict):
        return {key: _expand(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_expand(one) for one in value]
    return expandvars(value) if isinstance(value, str) else value
