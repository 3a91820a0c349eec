"""`derta run RECIPE --dry-run`: what a run would train on and what that would cost, with nothing written."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from derta.cli.console import say
from derta.cli.fine_tuning import check_rows, fine_tuning_attacks, read_data
from derta.cli.models import load_format
from derta.cli.prepare import Prepared, method_instances, prepare_data
from derta.cli.run import check_recipe
from derta.data.methods import METHODS
from derta.recipe import Recipe


class DryRun(NamedTuple):
    """One method's training, counted out; `seconds` and `peak_gib` are estimates from a short probe.

    `padding` is the share of tokens that fill sequences up. `seconds` leaves out loading the model and everything
    after training. A method of pairs (dpo) has no rows and is not probed.
    """

    method: str
    rows: int | None
    tokens: int | None
    labels: int | None
    steps: int | None
    padding: float | None
    seconds: float | None
    peak_gib: float | None


def dry_run(recipe: Recipe) -> list[DryRun]:
    """Draw the rows of every method with the first seed, count them, and train on a few micro-batches."""
    check_recipe(recipe)
    seed = recipe.seeds[0]
    prepared = prepare_data(recipe)
    attack_data = read_data(recipe, prepared=prepared)
    for note in [*prepared.notes, *(data.note for data in attack_data.values())]:
        say(note)
    check_rows(recipe, attack_data)
    found = [dry_method(recipe, method=method, seed=seed, prepared=prepared) for method in recipe.methods]
    for one in found:
        say(told(one))
    if len(recipe.seeds) > 1:
        say(f"The recipe has {len(recipe.seeds)} seeds: training takes that many times as long.")
    if attacks := fine_tuning_attacks(recipe):
        further = len(attacks) * len(recipe.methods) * len(recipe.seeds)
        say(f"Attacks by fine-tuning are {further} further trainings, which are not estimated.")
    return found


def dry_method(recipe: Recipe, *, method: str, seed: int, prepared: Prepared) -> DryRun:
    """One method's figures."""
    if METHODS[method].pairs:
        return DryRun(method, None, None, None, None, None, None, None)
    from derta.train.fit import build_trainer
    from derta.train.memory import out_of_memory_told, reset_peak_memory, training_advice
    from derta.train.probe import plan, probe

    chat, refusals = load_format(recipe)
    chosen = method_instances(prepared, method=method, chat=chat, refusals=refusals, seed=seed)
    train = recipe.train.model_copy(update={"save_steps": None, "report_to": "none"})
    reset_peak_memory()
    with TemporaryDirectory() as folder:
        trainer = build_trainer(
            model=recipe.model,
            train=train,
            tokenizer=chat.tokenizer,
            instances=chosen,
            refusal_ids=refusals.ids,
            seed=seed,
            checkpoints=Path(folder),
        )
        planned = plan(trainer)
        with out_of_memory_told(partial(training_advice, train, trainer.net)):
            estimated = probe(trainer, planned)
    return DryRun(
        method,
        planned.rows,
        planned.tokens,
        planned.labels,
        planned.steps,
        round(planned.padding, 4),
        round(estimated.seconds, 1),
        round(estimated.peak_bytes / 2**30, 2),
    )


def told(one: DryRun) -> str:
    """One method's figures as a line."""
    if one.rows is None or one.tokens is None or one.seconds is None:
        return f"{one.method}: trains on pairs after vanilla; not estimated."
    minutes, seconds = divmod(round(one.seconds), 60)
    return (
        f"{one.method}: {one.rows:,} rows, {one.tokens:,} tokens ({one.labels:,} labelled), {one.steps:,} steps, "
        f"{one.padding:.1%} padding; about {minutes:,} min {seconds} s of training and {one.peak_gib} GiB at the peak, "
        "by a probe on this machine."
    )
