"""Command that makes training data from requests: `triples`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from derta.cli.verbs import options
from derta.cli.verbs.options import AllowEndpoint, AsJson, Env, Out


def triples(
    config: Annotated[Path, typer.Argument(help="YAML file with requests, models and judges (docs/triples.md).")],
    out: Out,
    settings: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="Value of the file, such as harmful.form=completing."),
    ] = [],
    env: Env = [],
    allow_endpoint: AllowEndpoint = [],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the calls, without any.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make triples and counter rows from harmful requests, by models.

    A model writes harmful responses, which a judge confirms; safe responses are a model's or from templates; and benign
    counterparts of the requests are written and answered. The folder --out has triples.jsonl and counter.jsonl for a
    recipe, and the ids of what was dropped with the reasons. Texts are never printed. Run the same command again to
    resume.

    Example: derta triples triples.yaml --out data/mine
    """
    from derta.cli.console import console_display, print_output
    from derta.config import load_triples_config
    from derta.pipeline.triples.formatting import plan_table, summary_lines
    from derta.pipeline.triples.making import make_triples
    from derta.pipeline.triples.planning import plan_triples

    loaded = load_triples_config(config, overrides=options.pairs(settings, option="--set"), env=env)
    if dry_run:
        plans = plan_triples(loaded, out=out, endpoints=allow_endpoint, env=env)
        print_output([one.model_dump() for one in plans], plan_table(plans), as_json=as_json)
        return
    summary = make_triples(loaded, out=out, endpoints=allow_endpoint, env=env, display=console_display())
    print_output(summary.model_dump(), *summary_lines(summary, folder=out), as_json=as_json)
