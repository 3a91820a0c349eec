"""Commands that train models: `demo`, `run`, `data`, `train` and `fine-tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from derta.cli.verbs import options
from derta.cli.verbs.options import (
    AllowEndpoint,
    AsJson,
    EngineName,
    EngineOption,
    Env,
    JudgeName,
    JudgePath,
    OptionalOut,
    Out,
    Seed,
    Settings,
)
from derta.errors import RunError
from derta.train.launch import require_single_process


def demo(
    out: Out = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 1,
    first_seed: Annotated[int, typer.Option(min=0, help="First seed; several processes can share --out.")] = 0,
    study: Annotated[
        str, typer.Option(help="Train a study's methods and attack adaptively: ablation, prefix, drift, price or all.")
    ] = "",
    methods: Annotated[str, typer.Option(help="Only these methods, separated by commas.")] = "",
    rotation: Annotated[
        int | None, typer.Option(help="Half of the benign families that is trained: 0 or 1 (default: seeds alternate).")
    ] = None,
    holding: Annotated[
        bool, typer.Option("--holding", help="Also train to repeat and translate forbidden text in the prompt.")
    ] = False,
    without: Annotated[
        str, typer.Option(help="Kinds left out of training, separated by commas: curse, poison, trap.")
    ] = "",
    fine_tuning: Annotated[
        bool, typer.Option("--fine-tuning", help="Also attack each tuned model by fine-tuning; takes twice as long.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train, attack and report on a synthetic dataset.

    Trains seven models and runs every attack, judged by ground truth. No download; takes minutes on two CPU cores.

    Example: derta demo --out runs/demo --seeds 3
    """
    from derta.cli.console import console_display, print_output
    from derta.demo.recipe import DemoOptions
    from derta.demo.run import run_demo
    from derta.metrics.glance import glance_lines, glance_values

    choices = DemoOptions(
        study=study or None,
        methods=options.names(methods),
        rotation=rotation,
        holding=holding,
        without=options.names(without),
        fine_tuning=fine_tuning,
    )
    seen = range(first_seed, first_seed + seeds)
    summary = run_demo(out, seeds=seen, options=choices, display=console_display())
    print_output(glance_values(summary, folder=out), *glance_lines(summary, folder=out), as_json=as_json)


def run(
    recipe: Path,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder.")] = None,
    settings: Settings = [],
    env: Env = [],
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Only count rows, tokens and steps, and estimate memory and time.")
    ] = False,
    allow_endpoint: AllowEndpoint = [],
    as_json: AsJson = False,
) -> None:
    """Run a recipe: train, attack, judge and report.

    An interrupted run resumes when you run the same command again. --dry-run writes nothing: it counts the training
    rows, and trains on a few micro-batches to estimate memory and time.

    Example: derta run recipes/gemma-270m.yaml --out runs/gemma --set train.max_steps=10
    """
    from derta.cli.console import console_display, print_output

    require_single_process("run")
    config = options.read_recipe(recipe, settings, env)
    if dry:
        from derta.pipeline.estimate import estimate
        from derta.pipeline.formatting import format_estimate

        estimates = estimate(config, display=console_display())
        print_output([row._asdict() for row in estimates], *map(format_estimate, estimates), as_json=as_json)
        return
    if out is None:
        raise RunError("run: expected --out RUN_FOLDER or --dry-run, got neither")
    from derta.metrics.glance import glance_lines, glance_values
    from derta.pipeline.run import run as run_recipe

    summary = run_recipe(config, out=out, endpoints=allow_endpoint, display=console_display())
    print_output(glance_values(summary, folder=out), *glance_lines(summary, folder=out), as_json=as_json)


def data(
    recipe: Path,
    method: Annotated[str | None, typer.Option(help="Training method whose rows to export.")] = None,
    out: OptionalOut = None,
    seed: Seed = 0,
    epoch: Annotated[int, typer.Option(min=0, help="Epoch whose random draws to export.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Number of epochs to export, from --epoch on.")] = 1,
    fmt: Annotated[
        str | None, typer.Option("--format", help="jsonl or datasets; default: datasets for --out without a suffix.")
    ] = None,
    settings: Settings = [],
    env: Env = [],
    audit: Annotated[
        bool, typer.Option("--audit", help="Check the triples instead; --out: what is found by row.")
    ] = False,
    judge: JudgeName = "harm",
    judge_model: JudgePath = None,
    engine: EngineName = "hf",
    engine_option: EngineOption = [],
    allow_endpoint: AllowEndpoint = [],
    as_json: AsJson = False,
) -> None:
    """Export a method's training rows for other trainers, or audit the triples.

    Writes rows with `input_ids` and `labels`, for any trainer that uses the labels as they are: one epoch, or --epochs,
    each with its own random draws, as JSONL or as a folder for `datasets.load_from_disk`.

    With --audit: what share of the safe responses refuse, and of the harmful ones are harmful, by the refusal judge and
    --judge; what each `policy` would do; and the names of the rows with a fault.

    Example: derta data recipes/gemma-270m.yaml --method derta --out rows.jsonl
    """
    from derta.cli.console import console_display, print_output

    config, display = options.read_recipe(recipe, settings, env), console_display()
    if audit and method is None:
        from derta.pipeline.audit import audit_recipe
        from derta.pipeline.audit_tables import audit_tables

        model = options.engine_config(judge_model, engine, engine_option)
        found = audit_recipe(config, judge=judge, model=model, endpoints=allow_endpoint, out=out, display=display)
        print_output(found.model_dump(mode="json", exclude={"rows"}), *audit_tables(found), as_json=as_json)
        return
    if audit or method is None or out is None:
        raise RunError("data: expected --method and --out, or --audit without --method; add what is missing")
    from derta.pipeline.method import export_rows

    count = export_rows(
        config,
        method=method,
        seed=seed,
        epoch=epoch,
        epochs=epochs,
        format=fmt,
        endpoints=allow_endpoint,
        out=out,
        display=display,
    )
    print_output({"out": str(out), "rows": count, "epochs": epochs}, as_json=as_json)


def train(
    recipe: Path,
    method: Annotated[str, typer.Option(help="A method of docs/methods.md, or one that the recipe defines.")],
    out: Out,
    seed: Seed = 0,
    init_from: Annotated[Path | None, typer.Option(help="dpo, balanced_dpo: tuned model to initialise from.")] = None,
    settings: Settings = [],
    env: Env = [],
    launch: Annotated[Path | None, typer.Option(help="Accelerate config, such as those of recipes/accelerate.")] = None,
    num_processes: Annotated[int | None, typer.Option(min=1, help="Default: that of the config.")] = None,
    allow_endpoint: AllowEndpoint = [],
    as_json: AsJson = False,
) -> None:
    """Fine-tune one model with one method.

    The output is a regular checkpoint or PEFT adapter. On several GPUs, add --launch recipes/accelerate/fsdp2.yaml.

    Example: derta train recipes/gemma-270m.yaml --method derta --out models/derta
    """
    from derta.cli.console import console_display, print_output
    from derta.cli.launch import is_main_process
    from derta.pipeline.method import check_training, prepare_launch, train_one

    config = options.read_recipe(recipe, settings, env)
    if launch is not None:
        from derta.train.launch import check_config, launch_again

        check_training(config, method=method, out=out, init_from=init_from)
        check_config(launch, num_processes=num_processes)
        display = console_display()
        if not prepare_launch(
            config,
            method=method,
            out=out,
            seed=seed,
            init_from=init_from,
            endpoints=allow_endpoint,
            display=display,
        ):
            return
        launch_again(launch, num_processes=num_processes)
    if num_processes is not None:
        raise RunError("--num-processes: expected --launch CONFIG with it, got none; add it")
    train_one(
        config,
        method=method,
        out=out,
        seed=seed,
        init_from=init_from,
        endpoints=allow_endpoint,
        is_main_process=is_main_process(),
        display=console_display(),
    )
    if is_main_process():
        print_output({"model": str(out)}, as_json=as_json)


def fine_tune(
    model: Annotated[str, typer.Argument(help="Model folder or hub id; with --adapter: its base model.")],
    out: Out,
    helpful: Annotated[list[Path], typer.Option(help="Benign data, in the formats of data.helpful in a recipe.")] = [],
    harmful: Annotated[list[Path], typer.Option(help="Triples; the model is trained on their harmful responses.")] = [],
    exclude: Annotated[list[Path], typer.Option(help="Evaluation requests, to exclude from training.")] = [],
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps; replaces pace.num_train_epochs.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="PEFT adapter of the model, which is trained further.")] = None,
    seed: Seed = 0,
    settings: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a value of pace, model or train.")
    ] = [],
    as_json: AsJson = False,
) -> None:
    """Attack a tuned model by fine-tuning it.

    Next-token loss on benign or harmful data, with the hyperparameters of Qi et al. (arXiv 2310.03693) for each. The
    output folder loads like the model. With train.save_strategy set, run the command again to resume.

    Example: derta fine-tune models/derta --helpful alpaca.json --steps 100 --exclude eval.jsonl --out models/attacked
    """
    from derta.cli.console import console_display, print_output
    from derta.pipeline.fine_tuning_folder import fine_tune_folder

    require_single_process("fine-tune")
    cost = fine_tune_folder(
        model,
        adapter=adapter,
        helpful=helpful,
        harmful=harmful,
        exclude=exclude,
        steps=steps,
        settings=options.pairs(settings, option="--set"),
        seed=seed,
        out=out,
        display=console_display(),
    )
    console_display().logger.info("%s: %s", out, cost)
    print_output({"model": str(out), "cost": str(cost)}, as_json=as_json)
