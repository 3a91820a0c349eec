"""Commands that weigh the rates of a run's methods: `frontier`, and `gate` for continuous integration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from derta.cli.verbs.options import AsJson
from derta.errors import RecipeError


def frontier(
    folders: Annotated[list[Path], typer.Argument(help="Run folders; of a folder of runs, the seeds are pooled.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="SVG file for a plot.")] = None,
    over_refusal: Annotated[
        list[str], typer.Option("--over-refusal", metavar="NAME", help="Set of the over-refusal rate; default: all.")
    ] = [],
    name: Annotated[str | None, typer.Option("--judge", help="Judge of attack success; default: the first.")] = None,
    goals: Annotated[Path | None, typer.Option(help="Goal file (recipes/goals): also judge its goals.")] = None,
    method: Annotated[str | None, typer.Option(help="Judged method; default: that of the goal file.")] = None,
    by_set: Annotated[
        bool, typer.Option("--lengths", help="Show the length of answers on each benign set, with intervals.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show attack success against over-refusal and helpfulness, and which methods are dominated.

    Sets that not all methods have are left out and named. With --goals, print whether a method meets its goals.

    Example: derta frontier runs/gemma --over-refusal "XSTest safe" --out plot.svg --goals recipes/goals/gemma-270m.yaml
    """
    from derta.cli.console import print_output
    from derta.metrics.frontier_tables import axis_lines, frontier_tables, goal_lines, goal_table, length_table
    from derta.pipeline.frontier import frontier_of, goals_of, read_evaluated

    if method is not None and goals is None:
        raise RecipeError("--method: expected a goal file (--goals) whose method it replaces, got none")
    evaluated = read_evaluated(folders)
    result = frontier_of(evaluated, over_refusal=over_refusal, judge=name, out=out)
    lengths = length_table(result, by_set=by_set)
    lines = [*frontier_tables(result), *axis_lines(result), *([lengths] if lengths else [])]
    value = result.model_dump()
    if goals is not None:
        judged, results = goals_of(evaluated, goals, method=method)
        lines += [goal_table(results, method=judged.method), *goal_lines(results)]
        value["goals"] = [one.model_dump() for one in results]
    print_output(value, *lines, as_json=as_json)


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
