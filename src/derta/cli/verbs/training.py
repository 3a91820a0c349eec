"""From data to a report: `demo`, `run`, and the stages that make models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from derta.cli.verbs import options
from derta.cli.verbs.options import AsJson, Out, Seed, Settings
from derta.errors import RunError
from derta.train.launch import require_single_process


def demo(
    out: Out = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1)] = 1,
    fine_tuning: Annotated[
        bool, typer.Option("--fine-tuning", help="Attack each tuned model by fine-tuning, too; takes twice as long.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train and attack a made-up world, and report.

    Needs no download, takes minutes on two cores: six models, every attack, ground truth for a judge.

    Example: derta demo --out runs/demo --seeds 3
    """
    from derta.cli.console import console_display, print_found
    from derta.demo.run import run_demo

    display = console_display()
    summary = run_demo(out, seeds=range(seeds), fine_tuning=fine_tuning, display=display)
    display.logger.info("report: %s", out / "report.html")
    print_found(summary.model_dump(), as_json=as_json)


def run(
    recipe: Path,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run's folder.")] = None,
    settings: Settings = [],
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Count rows, tokens and steps, estimate memory and time.")
    ] = False,
    allow_endpoint: Annotated[
        list[str], typer.Option(metavar="HOST", help="A server that the recipe may use and that a key may be sent to.")
    ] = [],
    as_json: AsJson = False,
) -> None:
    """Do all that a recipe says.

    Trains each method, attacks, judges and reports. Run it again to go on where it stopped. With --dry-run nothing is
    written: the rows are drawn and counted, and a few micro-batches are trained on to estimate memory and time.

    Example: derta run recipes/gemma-270m.yaml --out runs/gemma --set train.max_steps=10
    """
    from derta.cli.console import console_display, print_found

    require_single_process("run")
    loaded = options.read_recipe(recipe, settings)
    if dry:
        from derta.cli.tables import format_estimate
        from derta.pipeline.estimate import estimate

        found = estimate(loaded, display=console_display())
        print_found([one._asdict() for one in found], *map(format_estimate, found), as_json=as_json)
        return
    if out is None:
        raise RunError("run: expected --out, the run's folder, or --dry-run; got neither")
    from derta.pipeline.run import run as run_recipe

    summary = run_recipe(loaded, out=out, endpoints=allow_endpoint, display=console_display())
    print_found(summary.model_dump(), as_json=as_json)


def data(
    recipe: Path,
    method: Annotated[str, typer.Option(help="The method whose rows are drawn.")],
    out: Out,
    seed: Seed = 0,
    epoch: int = 0,
    settings: Settings = [],
) -> None:
    """Export a method's rows for other trainers.

    One epoch as frozen `input_ids`/`labels` lines, for any trainer that honours labels.

    Example: derta data recipes/gemma-270m.yaml --method derta --out rows.jsonl
    """
    from derta.cli.console import console_display
    from derta.pipeline.method import export_rows

    loaded = options.read_recipe(recipe, settings)
    export_rows(loaded, method=method, seed=seed, epoch=epoch, out=out, display=console_display())


def train(
    recipe: Path,
    method: Annotated[str, typer.Option(help="vanilla, vanilla_half, harmful_prefix, rto, derta or dpo.")],
    out: Out,
    seed: Seed = 0,
    init_from: Annotated[Path | None, typer.Option(help="The tuned model that dpo starts from: vanilla's.")] = None,
    settings: Settings = [],
    launch: Annotated[
        Path | None, typer.Option(help="Train in several processes, by a config of recipes/accelerate.")
    ] = None,
    num_processes: Annotated[int | None, typer.Option(min=1, help="In place of the config's.")] = None,
) -> None:
    """Tune one model with one method.

    The folder loads like any checkpoint or adapter. On several GPUs: --launch recipes/accelerate/fsdp2.yaml.

    Example: derta train recipes/gemma-270m.yaml --method derta --out models/derta
    """
    from derta.cli.console import console_display
    from derta.cli.launch import is_main_process
    from derta.pipeline.method import check_training, train_one

    loaded = options.read_recipe(recipe, settings)
    if launch is not None:
        from derta.train.launch import launch_again

        check_training(loaded, method=method, out=out, init_from=init_from)
        launch_again(launch, num_processes=num_processes)
    if num_processes is not None:
        raise RunError("--num-processes: expected --launch CONFIG beside it, got none; add it")
    train_one(
        loaded,
        method=method,
        out=out,
        seed=seed,
        init_from=init_from,
        is_main_process=is_main_process(),
        display=console_display(),
    )


def fine_tune(
    model: Annotated[str, typer.Argument(help="A model folder or hub id; of an adapter: its base model.")],
    out: Out,
    helpful: Annotated[list[Path], typer.Option(help="Benign data, read as a recipe's data.helpful.")] = [],
    harmful: Annotated[list[Path], typer.Option(help="Triples, whose harmful answers are learned.")] = [],
    exclude: Annotated[list[Path], typer.Option(help="Requests that must not be trained on: those to be asked.")] = [],
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps, in place of pace.num_train_epochs.")
    ] = None,
    adapter: Annotated[Path | None, typer.Option(help="An adapter on the model, which is tuned on.")] = None,
    seed: Seed = 0,
    settings: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="A key of pace or model, or one of train that is heeded."),
    ] = [],
) -> None:
    """Attack a tuned model by fine-tuning it.

    Plain next-token loss, on benign or on harmful data; the pace is that of Qi et al. (arXiv 2310.03693) for either.
    The folder loads as the model does. Run it again to go on where it stopped, if train.save_strategy is set.

    Example: derta fine-tune models/derta --helpful alpaca.json --steps 100 --exclude asked.jsonl --out models/attacked
    """
    from derta.cli.console import console_display
    from derta.pipeline.fine_tuning_folder import fine_tune_folder

    require_single_process("fine-tune")
    told = fine_tune_folder(
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
    console_display().logger.info("%s: %s", out, told)
