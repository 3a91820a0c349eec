"""The command that judges a run for continuous integration: `gate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from derta.cli.verbs.options import AsJson


def gate(
    folders: Annotated[list[Path], typer.Argument(help="Run folder, or a folder of runs whose seeds are pooled.")],
    at_most: Annotated[
        list[str], typer.Option("--max", metavar="NAME=LIMIT[@METHOD]", help="Limit of an interval's upper end.")
    ] = [],
    at_least: Annotated[
        list[str], typer.Option("--min", metavar="NAME=LIMIT[@METHOD]", help="Limit of an interval's lower end.")
    ] = [],
    method: Annotated[str | None, typer.Option(help="Judged method; default: the one that the run recommends.")] = None,
    name: Annotated[str | None, typer.Option("--judge", help="Judge of attack success; default: the first.")] = None,
    junit: Annotated[Path | None, typer.Option(help="JUnit XML file to write.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check that a method keeps limits; exit code 1 if not, for continuous integration.

    A limit applies to the end of the 95 % interval: too few prompts to show it are a failure. Names are rates of
    `derta frontier` or one attack or data set of them (attack/prefill@50%); +0.02@base limits the paired difference
    from the method base. A measure that the run does not have is an error (exit code 2).

    Example: derta gate runs/gemma --max attack_success=0.05 --max over_refusal=+0.02@base --min helpfulness=0.9
    """
    from derta.cli.console import console_display, print_output
    from derta.metrics.gates import floor_line
    from derta.pipeline.gate import gate as judge_run

    result = judge_run(
        *folders, at_most=at_most, at_least=at_least, method=method, judge=name, junit=junit, display=console_display()
    )
    floors = [one.model_dump() for one in result.floors]
    value = {"method": result.method, "baseline": result.baseline, "passed": result.passed, "floors": floors}
    print_output(value, *map(floor_line, result.floors), as_json=as_json)
    if not result.passed:
        raise typer.Exit(1)
