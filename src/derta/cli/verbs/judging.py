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
    from derta.pipeline.calibrating import (
        agree_on_file,
        agreement_table,
        check_same_measure,
        corrected_cell,
        read_calibration,
    )
    from derta.pipeline.judge import find_judge, judge_file, over_refusal_file, told
    from derta.records import Verdict

    model = options.judge_model(judge_model, engine, engine_option)
    chosen = find_judge(name, model=model)
    other = None if against is None else find_judge(against, model=model)
    if other is not None:
        check_same_measure(chosen, other)
    verdicts: list[Verdict] | None = None if other is None else []
    cells = [judge_file(file, judge=chosen, prompts_path=prompts, out=out, kept=verdicts)]
    if calibration is not None:
        cells.append(corrected_cell(cells[0], read_calibration(calibration, judge=name)))
    if over_refusal:
        cells += over_refusal_file(file, prompts_path=prompts)
    shown: Any = cells[0].model_dump() if len(cells) == 1 else [cell.model_dump() for cell in cells]
    if not as_json:
        for cell in cells:
            typer.echo(told(cell))
    if other is not None and verdicts is not None:
        from derta.cli.console import results

        found = agree_on_file(file, verdicts, second=other, prompts_path=prompts)
        rows = [
            {name: record.model_dump(exclude_none=True) for name, record in one._asdict().items()}
            for one in found.differing
        ]
        shown = {"cells": shown, "agreement": found.table._asdict(), "differing": rows}
        if not as_json:
            results.print(agreement_table(found.table, first=name, second=other.name))
            typer.echo("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), nl=False)
    if as_json:
        options.print_json(shown)


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
    from derta.cli.console import results
    from derta.pipeline.calibrating import calibrate_file, calibration_table
    from derta.pipeline.judge import find_judge

    chosen = find_judge(name, model=options.judge_model(judge_model, engine, engine_option))
    found = calibrate_file(labels, judge=chosen, out=out)
    if as_json:
        options.print_json(found.model_dump())
    else:
        results.print(calibration_table(found))


def replay(folder: Path, as_json: AsJson = False) -> None:
    """Judge the paper's published outputs again: ours, the paper's figure, the difference.

    Example: derta replay $DERTA_DATA/published --json
    """
    from derta.cli.console import results
    from derta.pipeline.replay import curve_table, replay_folder, replay_table

    rows = replay_folder(folder)
    if as_json:
        options.print_json([row.model_dump() for row in rows])
    else:
        results.print(replay_table(rows))
        results.print(curve_table(rows))


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
    from derta.pipeline.judge import compare_files, find_judge

    chosen = find_judge(name, model=options.judge_model(judge_model, engine, engine_option))
    found = compare_files(first, second, judge=chosen, prompts_path=prompts)
    if as_json:
        options.print_json([one.model_dump() for one in found])
        return
    for one in found:
        typer.echo(
            f"{one.name} ({one.measure}): {one.first_value:.1%} against {one.second_value:.1%} of {one.pairs} pairs; "
            f"only the first {one.only_first}, only the second {one.only_second}; p = {one.p_value:.2g}, "
            f"corrected {one.p_holm:.2g}"
        )


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
    from derta.pipeline.judge import told
    from derta.pipeline.pairwise import compare_pairwise

    model = options.judge_model(judge_model, engine, engine_option)
    found = compare_pairwise(first, second, model=model, prompts_path=prompts, out=out)
    if as_json:
        options.print_json({name: part and part.model_dump() for name, part in found._asdict().items()})
        return
    typer.echo(told(found.win_rate))
    typer.echo(told(found.order_decided))
    if (wins := found.comparison) is not None:
        typer.echo(f"won {wins.only_first}, lost {wins.only_second} of {wins.pairs}; p = {wins.p_value:.2g}")


def report(folder: Path) -> None:
    """Write a run's report again from its files.

    Example: derta report runs/gemma
    """
    from derta.pipeline.report import write_again

    write_again(folder)
    typer.echo(str(folder / "report.html"))
