"""What replies are worth, and what judges are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from derta.cli.verbs import options
from derta.cli.verbs.options import AsJson, JudgeEngine, JudgeName, JudgePath, JudgeSettings


def judge(
    file: Path,
    name: JudgeName,
    prompts: Annotated[Path | None, typer.Option(help="The prompts of our replies, if not beside them.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write the verdicts.")] = None,
    calibration: Annotated[Path | None, typer.Option(help="Also correct the rate for this judge's errors.")] = None,
    against: Annotated[str | None, typer.Option(help="Another judge: how far the two agree.")] = None,
    over_refusal: Annotated[
        bool, typer.Option("--over-refusal", help="The requests are harmless: tell partial refusals and answers too.")
    ] = False,
    judge_model: JudgePath = None,
    engine: JudgeEngine = "hf",
    engine_option: JudgeSettings = [],
    as_json: AsJson = False,
) -> None:
    """Judge replies: print the rate.

    The file holds our replies, rows of {question, response[, answer]}, or bare strings.

    Example: derta judge runs/gemma/derta-seed0/replies.jsonl --judge refusal --json
    """
    from derta.cli.console import console_display, print_json, print_result
    from derta.cli.tables import agreement_table, format_cell
    from derta.pipeline.calibrating import agree_on_file, check_same_measure, corrected_cell, read_calibration
    from derta.pipeline.judge import find_judge, judge_file, over_refusal_file
    from derta.records import Verdict

    display, model = console_display(), options.engine_config(judge_model, engine, engine_option)
    chosen = find_judge(name, model=model)
    other = None if against is None else find_judge(against, model=model)
    if other is not None:
        check_same_measure(chosen, other)
    verdicts: list[Verdict] | None = None if other is None else []
    cells = [judge_file(file, judge=chosen, prompts_path=prompts, out=out, kept=verdicts, display=display)]
    if calibration is not None:
        cells.append(corrected_cell(cells[0], read_calibration(calibration, judge=name), display=display))
    if over_refusal:
        cells += over_refusal_file(file, prompts_path=prompts)
    shown: Any = cells[0].model_dump() if len(cells) == 1 else [cell.model_dump() for cell in cells]
    if not as_json:
        for cell in cells:
            print_result(format_cell(cell))
    if other is not None and verdicts is not None:
        found = agree_on_file(file, verdicts, second=other, prompts_path=prompts)
        rows = [
            {name: record.model_dump(exclude_none=True) for name, record in one._asdict().items()}
            for one in found.differing
        ]
        shown = {"cells": shown, "agreement": found.table._asdict(), "differing": rows}
        if not as_json:
            print_result(agreement_table(found.table, first=name, second=other.name))
            typer.echo("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), nl=False)
    if as_json:
        print_json(shown)


def calibrate(
    labels: Annotated[Path, typer.Option(help="CSV or JSONL with a question, a response and a label by people.")],
    name: JudgeName,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to keep the error rates.")] = None,
    judge_model: JudgePath = None,
    engine: JudgeEngine = "hf",
    engine_option: JudgeSettings = [],
    as_json: AsJson = False,
) -> None:
    """Measure a judge against people's labels.

    Prints accuracy, precision, recall and Cohen's kappa with intervals, by attack and by class of reply.

    Example: derta calibrate --judge harm --labels labels.csv --out harm.calibration.json
    """
    from derta.cli.console import console_display, print_json, print_result
    from derta.cli.tables import calibration_table
    from derta.pipeline.calibrating import calibrate_file
    from derta.pipeline.judge import find_judge

    chosen = find_judge(name, model=options.engine_config(judge_model, engine, engine_option))
    found = calibrate_file(labels, judge=chosen, out=out, display=console_display())
    if as_json:
        print_json(found.model_dump())
    else:
        print_result(calibration_table(found))


def replay(folder: Path, as_json: AsJson = False) -> None:
    """Judge the paper's published outputs again: ours, the paper's figure, the difference.

    Example: derta replay $DERTA_DATA/published --json
    """
    from derta.cli.console import console_display, print_json, print_result
    from derta.cli.tables import curve_table, replay_table
    from derta.pipeline.replay import replay_folder

    rows = replay_folder(folder, display=console_display())
    if as_json:
        print_json([row.model_dump() for row in rows])
    else:
        print_result(replay_table(rows))
        print_result(curve_table(rows))


def compare(
    first: Path,
    second: Path,
    name: JudgeName,
    prompts: Path | None = None,
    judge_model: JudgePath = None,
    engine: JudgeEngine = "hf",
    engine_option: JudgeSettings = [],
    as_json: AsJson = False,
) -> None:
    """Compare two models on the same prompts.

    Paired: how often only one of them, and the exact p-value.

    Example: derta compare runs/g/vanilla-seed0/replies.jsonl runs/g/derta-seed0/replies.jsonl --judge refusal
    """
    from derta.cli.console import console_display, print_json, print_result
    from derta.cli.tables import format_comparison
    from derta.pipeline.judge import compare_files, find_judge

    chosen = find_judge(name, model=options.engine_config(judge_model, engine, engine_option))
    found = compare_files(first, second, judge=chosen, prompts_path=prompts, display=console_display())
    if as_json:
        print_json([one.model_dump() for one in found])
        return
    for one in found:
        print_result(format_comparison(one))


def pairwise(
    first: Path,
    second: Path,
    judge_model: Annotated[str, typer.Option("--judge-model", help="The model that is asked which reply is better.")],
    engine: JudgeEngine = "hf",
    engine_option: JudgeSettings = [],
    prompts: Annotated[Path | None, typer.Option(help="The prompts of our replies, if not beside them.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to keep the preferences.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a model which of two replies is better.

    Each pair is asked about twice, with the places swapped; what the order decides is a tie, and a tie is half a win.

    Example: derta pairwise mine.jsonl alpaca_eval.json --judge-model org/judge --out preferences.jsonl
    """
    from derta.cli.console import console_display, print_json, print_result
    from derta.cli.tables import format_cell
    from derta.config import EngineConfig
    from derta.pipeline.pairwise import compare_pairwise

    settings = options.pairs(engine_option, option="--engine-option")
    model = EngineConfig(model=judge_model, engine=engine, settings=settings)
    found = compare_pairwise(first, second, model=model, prompts_path=prompts, out=out, display=console_display())
    if as_json:
        print_json({name: part and part.model_dump() for name, part in found._asdict().items()})
        return
    print_result(format_cell(found.win_rate))
    print_result(format_cell(found.order_decided))
    if (wins := found.comparison) is not None:
        print_result(f"won {wins.only_first}, lost {wins.only_second} of {wins.pairs}; p = {wins.p_value:.2g}")


def report(folder: Path) -> None:
    """Write a run's report again from its files.

    Example: derta report runs/gemma
    """
    from derta.cli.console import console_display
    from derta.pipeline.report import report as report_run
    from derta.pipeline.report import report_demo

    if report_demo(folder, display=console_display()) is None:
        report_run(folder)
    typer.echo(str(folder / "report.html"))
