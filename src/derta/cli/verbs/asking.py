"""Command that evaluates models as they are: `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from derta.cli.verbs import options
from derta.cli.verbs.options import AllowEndpoint, AsJson, Env, Out
from derta.errors import RecipeError
from derta.train.launch import require_single_process


def evaluate(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Folder, hub id, or NAME=folder or hub id.")],
    out: Out,
    preset: Annotated[str, typer.Option(help="quick or paper.")] = "quick",
    requests: Annotated[
        str | None,
        typer.Option(
            help="Harmful requests for the attacks, which you bring: FILE, FORMAT=FILE or the name of a data set."
        ),
    ] = None,
    over_refusal: Annotated[
        list[str],
        typer.Option(metavar="FILE", help="More benign requests, as in --requests."),
    ] = [],
    templates: Annotated[str | None, typer.Option(help="paper: texts of jailbreak_chat, which you bring.")] = None,
    demonstrations: Annotated[str | None, typer.Option(help="paper: texts of self_cipher, which you bring.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Requests of each attack and set.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Recipe whose evaluations replace the preset.")] = None,
    adapter: Annotated[str | None, typer.Option(help="PEFT adapter of the only MODEL.")] = None,
    settings: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Value of the run's recipe: generate.engine=vllm.")
    ] = [],
    env: Env = [],
    allow_endpoint: AllowEndpoint = [],
    as_json: AsJson = False,
) -> None:
    """Evaluate models that exist, without training, in a run folder with a report.

    Several models are compared with the first, prompt by prompt. The package has benign requests but no harmful ones:
    without --requests no attack is made. quick: direct, completing, and prefills of 10 and 50 % where the requests have
    harmful answers; 40 requests each, 128 tokens. paper: the paper's six attacks on all requests, 1,024 tokens. Both:
    the data set derta:ordinary_sorry and --over-refusal. Run the same command again to resume.

    Example: derta evaluate before=org/model after=org/model-AWQ --requests harmbench.csv --out runs/quantised
    """
    from derta.cli.console import console_display, print_output
    from derta.metrics.glance import glance_lines, glance_values
    from derta.pipeline.evaluating import Questions, evaluation_recipe, question_lines
    from derta.pipeline.run import run

    require_single_process("evaluate")
    files = {"templates": templates, "demonstrations": demonstrations}
    given = {name: path for name, path in files.items() if path is not None}
    asks = requests is not None or over_refusal or given or limit is not None or preset != "quick"
    if recipe is not None and asks:
        raise RecipeError("--recipe: expected no option of a preset with it, got one; use --set, or leave --recipe out")
    config = evaluation_recipe(
        models,
        questions=Questions(preset, requests, over_refusal, given, limit),
        recipe=None if recipe is None else options.read_recipe(recipe, [], env),
        adapter=adapter,
        settings=options.pairs(settings, option="--set"),
    )
    display = console_display()
    for line in [*question_lines(config), *config.notes]:
        display.logger.info(line)
    summary = run(config, out=out, endpoints=allow_endpoint, env=env, display=display)
    lines = glance_lines(summary, folder=out, differences=True)
    print_output(glance_values(summary, folder=out), *lines, as_json=as_json)
