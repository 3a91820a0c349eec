"""What replies are worth, and what judges are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from derta.cli.verbs import options
from derta.cli.verbs.options import AsJson, EngineOption, JudgeEngine, JudgeName, JudgePath, OptionalOut, Prompts


def judge(
    file: Path,
    name: JudgeName,
    prompts: Prompts = None,
    out: OptionalOut = None,
    calibration: Annotated[Path | None, typer.Option(help="Also correct the rate for this judge's errors.")] = None,
    against: Annotated[str | None, typer.Option(help="Another judge: how far the two agree.")] = None,
    over_refusal: Annotated[
        bool, typer.Option("--over-refusal", help="The requests are harmless: tell partial refusals and answers too.")
    ] = False,
    judge_model: JudgePath = None,
    engine: JudgeEngine = "hf",
    engine_option: EngineOption = [],
    as_json: AsJson = False,
) -> None:
    """Judge replies: print the rate.

    The file holds our replies, rows of {question, response[, answer]}, or bare strings.

    Example: derta judge runs/gemma/derta-seed0/replies.jsonl --judge refusal --json
    """
    from derta.cli.console import console_display, print_found
    from derta.cli.tables import judged_json, judged_lines
    from derta.pipeline.calibrating import judge_with_checks
    from derta.pipeline.judge import find_judges

    model = options.engine_config(judge_model, engine, engine_option)
    first, second = find_judges(name, against, model=model)
    found = judge_with_checks(
        file,
        judge=first,
        against=second,
        calibration=calibration,
        over_refusal=over_refusal,
        prompts_path=prompts,
        out=out,
        display=console_display(),
    )
    print_found(judged_json(found), *judged_lines(found, first=name, second=against), as_json=as_json)


def calibrate(
    labels: Annotated[Path, typer.Option(help="CSV or JSONL with a question, a response and a label by people.")],
    name: JudgeName,
    out: OptionalOut = None,
    judge_model: JudgePath = None,
    engine: JudgeEngine = "hf",
    engine_option: EngineOption = [],
    as_json: AsJson = False,
) -> None:
    """Measure a judge against people's labels.

    Prints accuracy, precision, recall and Cohen's kappa with intervals, by attack and by class of reply.

    Example: derta calibrate --judge harm --labels labels.csv --out harm.calibration.json
    """
    from derta.cli.console import console_display, print_found
    from derta.cli.tables import calibration_table
    from derta.pipeline.calibrating import calibrate_file
    from derta.pipeline.judge import find_judge

    chosen = find_judge(name, model=options.engine_config(judge_model, engine, engine_option))
    found = calibrate_file(labels, judge=chosen, out=out, display=console_display())
    print_found(found.model_dump(), calibration_table(found), as_json=as_json)


def replay(folder: Path, as_json: AsJson = False) -> None:
    """Judge the paper's published outputs again: ours, the paper's figure, the difference.

    Example: derta replay $DERTA_DATA/published --json
    """
    from derta.cli.console import console_display, print_found
    from derta.cli.tables import curve_table, replay_table
    from derta.paper.replay import replay_folder

    rows = replay_folder(folder, display=console_display())
    print_found([row.model_dump() for row in rows], replay_table(rows), curve_table(rows), as_json=as_json)


def compare(
    first: Path,
    second: Path,
    name: JudgeName,
    prompts: Prompts = None,
    judge_model: JudgePath = None,
    engine: JudgeEngine = "hf",
    engine_option: EngineOption = [],
    as_json: AsJson = False,
) -> None:
    """Compare two models on the same prompts.

    Paired: how often only one of them, and the exact p-value.

    Example: derta compare runs/g/vanilla-seed0/replies.jsonl runs/g/derta-seed0/replies.jsonl --judge refusal
    """
    from derta.cli.console import console_display, print_found
    from derta.cli.tables import format_comparison
    from derta.pipeline.judge import compare_files, find_judge

    chosen = find_judge(name, model=options.engine_config(judge_model, engine, engine_option))
    found = compare_files(first, second, judge=chosen, prompts_path=prompts, display=console_display())
    print_found([one.model_dump() for one in found], *map(format_comparison, found), as_json=as_json)


def pairwise(
    first: Path,
    second: Path,
    judge_model: Annotated[str, typer.Option("--judge-model", help="The model that is asked which reply is better.")],
    engine: JudgeEngine = "hf",
    engine_option: EngineOption = [],
    prompts: Prompts = None,
    out: OptionalOut = None,
    as_json: AsJson = False,
) -> None:
    """Ask a model which of two replies is better.

    Each pair is asked about twice, with the places swapped; what the order decides is a tie, and a tie is half a win.

    Example: derta pairwise mine.jsonl alpaca_eval.json --judge-model org/judge --out preferences.jsonl
    """
    from derta.cli.console import console_display, print_found
    from derta.cli.tables import format_cell
    from derta.config import EngineConfig
    from derta.pipeline.pairwise import compare_pairwise

    settings = options.pairs(engine_option, option="--engine-option")
    model = EngineConfig(model=judge_model, engine=engine, settings=settings)
    found = compare_pairwise(first, second, model=model, prompts_path=prompts, out=out, display=console_display())
    lines = [*map(format_cell, (found.win_rate, found.order_decided))]
    if (wins := found.comparison) is not None:
        lines.append(f"won {wins.only_first}, lost {wins.only_second} of {wins.pairs}; p = {wins.p_value:.2g}")
    print_found({name: one and one.model_dump() for name, one in found._asdict().items()}, *lines, as_json=as_json)


def report(
    folders: Annotated[list[Path], typer.Argument(help="A run's folder, a folder of runs, or several runs to pool.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write; in place of the folder.")] = None,
    title: Annotated[str | None, typer.Option(help="In place of the runs' own.")] = None,
) -> None:
    """Write the report of a run again, or pool runs of several seeds.

    Only the files of the runs are read: neither the data nor the models need be there.

    Example: derta report runs/gemma
    """
    from derta.cli.console import print_result
    from derta.pipeline.report import report as write

    write(folders[0] if len(folders) == 1 else folders, title=title, out=out)
    print_result(str((out or folders[0]) / "report.html"))
