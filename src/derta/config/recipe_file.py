"""Loading of YAML recipe files, which can include other files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from derta.config.environment import expand_variables
from derta.errors import RecipeError

INCLUDE = "include"
MAX_NODES = 100_000
"""Maximum number of YAML values in a recipe, where each use of an alias counts as all values that it repeats."""


def read_values(path: Path, *, inside: tuple[Path, ...] = (), env: Collection[str] = ()) -> Any:
    """Load a YAML file; with a top-level `include: other.yaml`, load that file too and merge both.

    The path of an included file is relative to the including file, whose values take precedence. Mappings are merged
    key by key; lists and other values are replaced. `inside` has the paths of the including files, and `env` the
    environment variables that an `include` may use in addition to `DERTA_*`.

    Raises:
        RecipeError: a file is missing, is not YAML, is too large, or includes itself.
    """
    return _read(path, path, inside=inside, env=env)


def _read(file: Path, shown: Path, *, inside: tuple[Path, ...], env: Collection[str]) -> Any:
    """Load a file whose name in messages is `shown`."""
    try:
        values = parse_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{shown}: cannot read the recipe ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{shown}: cannot read the recipe ({error}); check the path") from error
    except ValueError as error:
        raise RecipeError(f"{shown}: expected YAML: {error}") from error
    if not isinstance(values, dict) or INCLUDE not in values:
        return values
    included = values.pop(INCLUDE)
    if not isinstance(included, str) or file.resolve() in inside:
        raise RecipeError(f"{shown}: `{INCLUDE}`: expected the name of another recipe file, got {included!r:.80}")
    target = file.parent / expand_variables(included, key=INCLUDE, env=env)
    return merge(_read(target, shown.parent / included, inside=(*inside, file.resolve()), env=env), values)


def parse_yaml(text: str) -> Any:
    """Parse a YAML document; a small text that expands to a huge one is refused before its values are built.

    >>> parse_yaml("{a: &list [1, 2], b: *list}")
    {'a': [1, 2], 'b': [1, 2]}

    Raises:
        ValueError: the text is not YAML, has an invalid value, is nested too deeply or has too many values.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count_nodes(node, {})
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:  # a date or a number that cannot exist is a ValueError
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    finally:
        loader.dispose()


def _count_nodes(node: yaml.Node, counts: dict[yaml.Node, int]) -> int:
    """Return the number of values in a node, with those of aliases.

    Raises:
        ValueError: there are more than `MAX_NODES`, or a node contains itself.
    """
    if node in counts:
        if not counts[node]:
            raise ValueError("an alias contains itself")
        return counts[node]
    counts[node], total = 0, 1
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        total += sum(_count_nodes(key, counts) + _count_nodes(value, counts) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        total += sum(_count_nodes(item, counts) for item in node.value)
    if total > MAX_NODES:
        raise ValueError(f"expected at most {MAX_NODES} values, got more; remove the aliases")
    counts[node] = total
    return total


def _check_keys(node: yaml.MappingNode) -> None:
    """Raise a ValueError for a key that a mapping has twice: YAML's parser would drop the first value."""
    keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    first: dict[tuple[str, str], yaml.ScalarNode] = {}
    for key in keys:
        if (one := first.setdefault((key.tag, key.value), key)) is not key:
            lines = f"{one.start_mark.line + 1} and {key.start_mark.line + 1}"
            raise ValueError(f"the key `{key.value:.60}` is there twice (lines {lines}); merge both, or remove one")


def merge(beneath: Any, above: Any) -> Any:
    """Merge mappings recursively, where values of `above` take precedence; other values are replaced.

    >>> merge({"train": {"epochs": 2, "bf16": True}, "seeds": [0, 1]}, {"train": {"epochs": 1}, "seeds": [2]})
    {'train': {'epochs': 1, 'bf16': True}, 'seeds': [2]}
    """
    if not isinstance(beneath, dict) or not isinstance(above, dict):
        return above
    return beneath | {key: merge(beneath.get(key), value) for key, value in above.items()}
