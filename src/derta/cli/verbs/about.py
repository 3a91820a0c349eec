"""Commands about recipes and names, without a model: `list`, `schema` and `check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from derta.cli.verbs import options
from derta.cli.verbs.options import AllowEndpoint, AsJson, Env, Settings


def list_(
    kind: Annotated[str, typer.Argument(help="attacks, judges, methods, formats or datasets.")],
    as_json: AsJson = False,
) -> None:
    """List attacks, judges, methods, formats or data sets.

    Prints each name with a sentence and its options and their defaults; for formats, the columns that are read.

    Example: derta list attacks
    """
    from derta.cli.console import print_output
    from derta.pipeline.listing import list_lines, list_names

    print_output([one.model_dump() for one in list_names(kind)], *list_lines(kind), as_json=as_json)


def schema(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; default: standard output.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the JSON schema of recipes, for editors.

    Editors with YAML support then complete and explain the keys of a recipe whose first line is
    `# yaml-language-server: $schema=derta.schema.json`. The output is JSON, with or without --json.

    Example: derta schema --out derta.schema.json
    """
    from derta.cli.console import print_json, print_result
    from derta.pipeline.recipe_schema import recipe_schema, write_schema

    if out is None:
        print_json(recipe_schema())
    else:
        write_schema(out)
        print_json({"schema": str(out)}) if as_json else print_result(str(out))


def check(
    recipe: Path,
    settings: Settings = [],
    env: Env = [],
    allow_endpoint: AllowEndpoint = [],
    as_json: AsJson = False,
) -> None:
    """Check a recipe: print all its faults, one a line.

    Checks keys, values and combinations, variables, files and their columns, names and options. It takes seconds and
    loads no model; `derta run --dry-run` also counts the data and estimates memory and time. The exit code is 2 if
    there is a fault.

    Example: derta check recipes/gemma-270m.yaml --set train.max_steps=10
    """
    from derta.cli.console import print_output
    from derta.pipeline.checking import check_lines, check_recipe_file

    overrides = options.pairs(settings, option="--set")
    result = check_recipe_file(recipe, overrides=overrides, env=env, endpoints=allow_endpoint)
    print_output(result.model_dump(), *check_lines(result), as_json=as_json)
    if result.faults:
        raise typer.Exit(2)
