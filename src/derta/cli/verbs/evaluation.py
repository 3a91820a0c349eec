"""Commands that judge replies, compare models and write reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from derta.cli.verbs import options
from derta.cli.verbs.options import (
    AsJson,
    EngineName,
    EngineOption,
    JudgeName,
    JudgePath,
    OptionalJudge,
    OptionalOut,
    Prompts,
    Redact,
)
from derta.cli.verbs.viewing import NoOpen, Port, serve_labels
from derta.errors import RecipeError


def judge(
    path: Annotated[Path, typer.Argument(help="Run, folder of one of its models, or file of replies.")],
    name: OptionalJudge = None,
    prompts: Prompts = None,
    out: OptionalOut = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Also print the rate corrected for judge errors on other replies.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Labels of some of these replies (derta label): also print the rate with them.")
    ] = None,
    against: Annotated[str | None, typer.Option(help="Second judge: also print the agreement of both.")] = None,
    over_refusal: Annotated[
        bool, typer.Option("--over-refusal", help="The requests are harmless: also print partial refusals and answers.")
    ] = False,
    pool: Annotated[bool, typer.Option("--pool", help="Pool attacks and harmless requests in one rate.")] = False,
    refusal_word: Annotated[
        list[str],
        typer.Option(help="Refusal word of the models, for malformed refusals (default: the run's; Sorry)."),
    ] = [],
    judge_model: JudgePath = None,
    engine: EngineName = "hf",
    engine_option: EngineOption = [],
    as_json: AsJson = False,
) -> None:
    """Judge replies and print the rates.

    Of a run, each attack and data set has a rate for each method, seeds pooled. Other files contain rows of {question,
    response[, answer]}, texts, or a published format of docs/replies.md; columns that are not read are named, and a
    file with several models or attacks has a rate of each.

    Example: derta judge runs/gemma --json

    Example: derta judge runs/gemma/derta-seed0 --judge refusal
    """
    from derta.cli.console import console_display, print_output
    from derta.metrics.tables import cells_table
    from derta.pipeline.calibrating import judge_with_checks
    from derta.pipeline.formatting import judged_json, judged_lines
    from derta.pipeline.judge import find_judges
    from derta.pipeline.run_paths import is_run, replies_of

    model = options.engine_config(judge_model, engine, engine_option)
    words = options.refusal_words(refusal_word, judges=[name, against], path=path)
    first, second = (None, None) if name is None else find_judges(name, against, model=model, refusal_words=words)
    if first is None or name is None or is_run(path):
        from derta.pipeline.run_cells import judge_run

        given = {"--prompts": prompts, "--out": out, "--calibration": calibration, "--labels": labels}
        given |= {"--against": against, "--over-refusal": over_refusal, "--pool": pool}
        given |= {"--judge-model": judge_model if first is None else None}
        options.refuse_for_a_run(path, given)
        cells = judge_run(path, judge=first, display=console_display())
        print_output([cell.model_dump() for cell in cells], cells_table(cells), as_json=as_json)
        return
    result = judge_with_checks(
        replies_of(path),
        judge=first,
        against=second,
        calibration=calibration,
        labels=labels,
        over_refusal=over_refusal,
        pool=pool,
        prompts_path=prompts,
        out=out,
        display=console_display(),
    )
    print_output(judged_json(result), *judged_lines(result, first=name, second=against), as_json=as_json)


def label(
    path: Annotated[Path, typer.Argument(help="File of replies, or folder of a run with one model's replies.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV file to fill in.")] = Path("labels.csv"),
    sample: Annotated[int, typer.Option(help="Number of replies to label.")] = 100,
    seed: options.Seed = 0,
    measure: Annotated[str, typer.Option(help="Meaning of the label: harmful, refused or correct.")] = "harmful",
    prompts: Prompts = None,
    page: Annotated[bool, typer.Option("--page", help="Label the replies on a local page, with three keys.")] = False,
    port: Port = 0,
    no_open: NoOpen = False,
    as_json: AsJson = False,
) -> None:
    """Write a random sample of replies to label for `derta judge --labels`.

    The file has the whole text of requests and replies; nothing of it is printed. Fill in its last column in order (1
    or 0), or label on a page that shows one reply after the other, without its model, and saves each label. An existing
    file keeps its labels; a larger --sample adds rows.

    Example: derta label runs/gemma/derta-seed0 --sample 100 --out labels.csv --page
    """
    from derta.cli.console import console_display, print_output
    from derta.pipeline.labelling import parse_measure, write_label_file
    from derta.ui.server import check_installed

    if page:
        check_installed()
    display = console_display()
    result = write_label_file(
        path,
        out=out,
        sample=sample,
        seed=seed,
        measure=parse_measure(measure),
        prompts_path=prompts,
        display=display,
    )
    line = f"{result.out}: {result.rows} rows ({result.added} new), {result.labelled} labelled"
    print_output({**result._asdict(), "out": str(result.out)}, line, as_json=as_json)
    if page:
        serve_labels(result.out, parse_measure(measure), port=port, open_page=not no_open)


def calibrate(
    labels: Annotated[Path, typer.Option(help="File with replies and human labels: docs/replies.md.")],
    name: JudgeName,
    prompts: Prompts = None,
    out: OptionalOut = None,
    judge_model: JudgePath = None,
    engine: EngineName = "hf",
    engine_option: EngineOption = [],
    as_json: AsJson = False,
) -> None:
    """Measure a judge's accuracy against human labels.

    Prints accuracy, precision, recall and Cohen's kappa with intervals: overall, by attack and by class of reply.

    Example: derta calibrate --judge harm --labels labels.csv --out harm.calibration.json
    """
    from derta.cli.console import console_display, print_output
    from derta.metrics.tables import calibration_table
    from derta.pipeline.calibrating import calibrate_file
    from derta.pipeline.judge import find_judge

    judge = find_judge(name, model=options.engine_config(judge_model, engine, engine_option))
    result = calibrate_file(labels, judge=judge, prompts_path=prompts, out=out, display=console_display())
    print_output(result.model_dump(), calibration_table(result), as_json=as_json)


def replay(folder: Path, as_json: AsJson = False) -> None:
    """Judge the paper's published outputs next to its figures.

    Example: derta replay $DERTA_DATA/published --json
    """
    from derta.cli.console import console_display, print_output
    from derta.paper.replay import replay_folder
    from derta.paper.tables import curve_table, replay_table

    rows = replay_folder(folder, display=console_display())
    print_output([row.model_dump() for row in rows], replay_table(rows), curve_table(rows), as_json=as_json)


def compare(
    first: Annotated[Path, typer.Argument(help="Run, or the first model: its folder or file of replies.")],
    second: Annotated[Path | None, typer.Argument(help="The second model; of a run none.")] = None,
    name: OptionalJudge = None,
    prompts: Prompts = None,
    judge_model: JudgePath = None,
    engine: EngineName = "hf",
    engine_option: EngineOption = [],
    as_json: AsJson = False,
) -> None:
    """Compare a run's methods with its baseline, or two models on the same prompts.

    For each attack and data set: both rates, their difference with its 95 % interval, the exact paired p-value, and
    that corrected by Holm for all of them. Replies of others are paired by request and prompt, or by id; see
    docs/replies.md.

    Example: derta compare runs/gemma

    Example: derta compare runs/g/vanilla-seed0 runs/g/derta-seed0 --judge refusal
    """
    from derta.cli.console import console_display, print_output
    from derta.metrics.tables import comparisons_table, format_comparison
    from derta.pipeline.comparing import compare_files
    from derta.pipeline.judge import find_judge
    from derta.pipeline.run_cells import compare_run
    from derta.pipeline.run_paths import replies_of

    model = options.engine_config(judge_model, engine, engine_option)
    words = options.refusal_words([], judges=[name], path=first)
    judge = None if name is None else find_judge(name, model=model, refusal_words=words)
    if second is None:
        options.refuse_for_a_run(first, {"--prompts": prompts, "--judge-model": judge_model if judge is None else None})
        baseline, comparisons = compare_run(first, judge=judge, display=console_display())
        lines = [comparisons_table(comparisons, baseline=baseline)]
    else:
        if judge is None:
            raise RecipeError(
                "compare: expected --judge NAME with two models, got none; only a run has its own verdicts"
            )
        paths = replies_of(first), replies_of(second)
        comparisons = compare_files(*paths, judge=judge, prompts_path=prompts, display=console_display())
        lines = [*map(format_comparison, comparisons)]
    print_output([row.model_dump() for row in comparisons], *lines, as_json=as_json)


def pairwise(
    first: Path,
    second: Path,
    judge_model: Annotated[str, typer.Option("--judge-model", help="Model that is prompted for the better reply.")],
    engine: EngineName = "hf",
    engine_option: EngineOption = [],
    prompts: Prompts = None,
    out: OptionalOut = None,
    as_json: AsJson = False,
) -> None:
    """Let a judge model choose the better of two replies.

    Each pair is judged in both orders. If the verdict depends on the order, it is a tie; a tie counts as half a win.

    Example: derta pairwise mine.jsonl alpaca_eval.json --judge-model org/judge --out preferences.jsonl
    """
    from derta.cli.console import console_display, print_output
    from derta.config import EngineConfig
    from derta.metrics.tables import format_cell
    from derta.pipeline.pairwise import compare_pairwise

    settings = options.pairs(engine_option, option="--engine-option")
    model = EngineConfig(model=judge_model, engine=engine, settings=settings)
    result = compare_pairwise(first, second, model=model, prompts_path=prompts, out=out, display=console_display())
    lines = [*map(format_cell, (result.win_rate, result.order_decided))]
    if (wins := result.comparison) is not None:
        lines.append(f"won {wins.only_first}, lost {wins.only_second} of {wins.pairs}; p = {wins.p_value:.2g}")
    print_output({name: row and row.model_dump() for name, row in result._asdict().items()}, *lines, as_json=as_json)


def report(
    folders: Annotated[list[Path], typer.Argument(help="Run folder, folder of runs, or several runs to pool.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Output folder; default: the run folder.")] = None,
    title: Annotated[str | None, typer.Option(help="Report title; default: the title of the run.")] = None,
    redact: Redact = False,
    as_json: AsJson = False,
) -> None:
    """Rebuild the report of a run, or pool runs of several seeds.

    Reads only the files in the run folders; neither the data nor the models are needed. Verdicts there by an older
    version of a judge without a model are replaced by those of today, and kept as *.superseded.jsonl.

    Example: derta report runs/gemma
    """
    from derta.cli.console import console_display, print_output
    from derta.metrics.glance import glance_lines, glance_values
    from derta.pipeline.report import report as write

    source = folders[0] if len(folders) == 1 else folders
    summary = write(source, title=title, out=out, redact=redact, display=console_display())
    home = out or folders[0]
    print_output(glance_values(summary, folder=home), *glance_lines(summary, folder=home), as_json=as_json)
