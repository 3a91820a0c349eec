"""Loading of YAML recipe files, with included files and environment variables."""

from __future__ import annotations

from os.path import expandvars
from pathlib import Path
from typing import Any

import yaml

from derta.errors import RecipeError

INCLUDE = "include"


def read_values(path: Path, *, inside: tuple[Path, ...] = ()) -> Any:
    """Load a YAML file; with a top-level `include: other.yaml`, load that file too and merge both.

    The path of an included file is relative to the including file, whose values take precedence. Mappings are merged
    key by key; lists and other values are replaced. `inside` has the paths of the including files.

    Raises:
        RecipeError: a file is missing, is not YAML, or includes itself.
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
    included = values.pop(INCLUDE)
    if not isinstance(included, str) or path.resolve() in inside:
        raise RecipeError(f"{path}: `{INCLUDE}`: expected the name of another recipe file, got {included!r:.80}")
    return merge(read_values(path.parent / included, inside=(*inside, path.resolve())), values)


def merge(beneath: Any, above: Any) -> Any:
    """Merge mappings recursively, where values of `above` take precedence; other values are replaced.

    >>> merge({"train": {"epochs": 2, "bf16": True}, "seeds": [0, 1]}, {"train": {"epochs": 1}, "seeds": [2]})
    {'train': {'epochs': 1, 'bf16': True}, 'seeds': [2]}
    """
    if not isinstance(beneath, dict) or not isinstance(above, dict):
        return above
    return beneath | {key: merge(beneath.get(key), value) for key, value in above.items()}


def _expand(value: Any) -> Any:
    """Expand environment variables in all strings of a recipe."""
    if isinstance(value, dict):
        return {key: _expand(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item) for item in value]
    return expandvars(value) if isinstance(value, str) else value
