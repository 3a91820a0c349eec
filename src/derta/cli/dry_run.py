"""`derta run RECIPE --dry-run`: what a run would train on and what that would cost, with nothing written."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from derta.cli.console import say
from derta.cli.fine_tuning import check_rows, fine_tuning_attacks, read_data
from derta.cli.models import load_format
from derta.cli.prepare import Prepared, method_instances, method_pairs, prepare_data
from derta.cli.run import check_recipe
from derta.data.methods import METHODS
from derta.recipe import Recipe, TrainSection

if TYPE_CHECKING:
    from derta.train.dpo import PairTrainer
    from derta.train.probe import Plan
    from derta.train.trainer import DertaTrainer


class DryRun(NamedTuple):
    """One method's training, counted out; `seconds` and `peak_gib` are estimates from a short probe.

    `padding` is the share of tokens that fill sequences up. `seconds` leaves out loading the model, writing checkpoints
    and everything after training. Of a method of pairs (dpo) `rows` are pairs, and the model probed is the recipe's.
    """

    method: str
    rows: int
    tokens: int
    labels: int
    steps: int
    padding: float
    seconds: float
    peak_gib: float


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
        say(told(one, saved=recipe.train.save_steps is not None))
    if len(recipe.seeds) > 1:
        say(f"The recipe has {len(recipe.seeds)} seeds: training takes that many times as long.")
    if attacks := fine_tuning_attacks(recipe):
        further = len(attacks) * len(recipe.methods) * len(recipe.seeds)
        say(f"Attacks by fine-tuning are {further} further trainings, which are not estimated.")
    return found


def dry_method(recipe: Recipe, *, method: str, seed: int, prepared: Prepared) -> DryRun:
    """One method's figures."""
    from derta.train.memory import out_of_memory_told, reset_peak_memory, training_advice
    from derta.train.probe import probe

    train = recipe.train.model_copy(update={"save_steps": None, "report_to": "none"})
    build = _pairs_to_train if METHODS[method].pairs else _rows_to_train
    reset_peak_memory()
    with TemporaryDirectory() as folder:
        trainer, planned = build(recipe, train, method=method, seed=seed, prepared=prepared, folder=Path(folder))
        net: Any = trainer.model
        with out_of_memory_told(partial(training_advice, train, net)):
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


def _rows_to_train(
    recipe: Recipe, train: TrainSection, *, method: str, seed: int, prepared: Prepared, folder: Path
) -> tuple[DertaTrainer, Plan]:
    from derta.train.fit import build_trainer
    from derta.train.probe import plan

    chat, refusals = load_format(recipe)
    trainer = build_trainer(
        model=recipe.model,
        train=train,
        tokenizer=chat.tokenizer,
        instances=method_instances(prepared, method=method, chat=chat, refusals=refusals, seed=seed),
        refusal_ids=refusals.ids,
        seed=seed,
        checkpoints=folder,
    )
    return trainer, plan(trainer)


def _pairs_to_train(
    recipe: Recipe, train: TrainSection, *, method: str, seed: int, prepared: Prepared, folder: Path
) -> tuple[PairTrainer, Plan]:
    """The vanilla model, which the method goes on from, is not there yet: it is as large as the recipe's."""
    from derta.train.dpo import dpo_arguments, pair_trainer
    from derta.train.probe import plan_pairs

    chat, refusals = load_format(recipe)
    trainer = pair_trainer(
        model=recipe.model,
        train=train,
        dpo=recipe.dpo,
        tokenizer=chat.tokenizer,
        pairs=method_pairs(prepared, method=method, chat=chat, refusals=refusals, seed=seed),
        start=None,
        arguments=dpo_arguments(train, recipe.dpo, seed=seed, folder=folder),
    )
    return trainer, plan_pairs(trainer)


def told(one: DryRun, *, saved: bool = False) -> str:
    """One method's figures as a line; `saved` says that checkpoints will be written on the way."""
    minutes, seconds = divmod(round(one.seconds), 60)
    counted = "pairs" if METHODS[one.method].pairs else "rows"
    return (
        f"{one.method}: {one.rows:,} {counted}, {one.tokens:,} tokens ({one.labels:,} labelled), {one.steps:,} steps, "
        f"{one.padding:.1%} padding; about {minutes:,} min {seconds} s of training"
        f"{' and the writing of checkpoints' if saved else ''}, and {one.peak_gib} GiB at the peak, by a probe on this "
        "machine."
    )
