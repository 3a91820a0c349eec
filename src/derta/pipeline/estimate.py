"""`derta run RECIPE --dry-run`: what a run would train on and what that would cost, with nothing written."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from derta.config import Recipe, TrainSection
from derta.data.methods import METHODS
from derta.data.preparation import PreparedData
from derta.pipeline.data import method_instances, method_pairs, prepare_data
from derta.pipeline.fine_tuning import check_rows, fine_tuning_attacks, read_data
from derta.pipeline.models import load_format
from derta.pipeline.run import check_recipe
from derta.protocols import Display

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


def dry_run(recipe: Recipe, *, display: Display = Display()) -> list[DryRun]:
    """Draw the rows of every method with the first seed, count them, and train on a few micro-batches."""
    check_recipe(recipe)
    seed = recipe.seeds[0]
    prepared = prepare_data(recipe)
    attack_data = read_data(recipe, prepared=prepared)
    for note in [*prepared.notes, *(data.note for data in attack_data.values())]:
        display.logger.info(note)
    check_rows(recipe, attack_data)
    found = [dry_method(recipe, method=method, seed=seed, prepared=prepared) for method in recipe.methods]
    for one in found:
        display.logger.info(told(one))
    if len(recipe.seeds) > 1:
        display.logger.info("The recipe has %d seeds: training takes that many times as long.", len(recipe.seeds))
    if attacks := fine_tuning_attacks(recipe):
        further = len(attacks) * len(recipe.methods) * len(recipe.seeds)
        display.logger.info("Attacks by fine-tuning are %d further trainings, which are not estimated.", further)
    return found


def dry_method(recipe: Recipe, *, method: str, seed: int, prepared: PreparedData) -> DryRun:
    """One method's figures."""
    from derta.train.memory import out_of_memory_told, reset_peak_memory, training_advice
    from derta.train.probe import probe

    train = recipe.train.model_copy(update={"save_steps": None, "report_to": "none"})
    reset_peak_memory()
    with TemporaryDirectory() as folder:
        trainer, planned = _planned(recipe, train, method=method, seed=seed, prepared=prepared, folder=Path(folder))
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


def _planned(
    recipe: Recipe, train: TrainSection, *, method: str, seed: int, prepared: PreparedData, folder: Path
) -> tuple[DertaTrainer | PairTrainer, Plan]:
    """A method's trainer and its plan; dpo's vanilla model is not there yet, but is as large as the recipe's."""
    chat, refusals = load_format(recipe)
    if METHODS[method].pairs:
        from derta.train.dpo import dpo_arguments, pair_trainer
        from derta.train.probe import plan_pairs

        on_pairs = pair_trainer(
            model=recipe.model,
            train=train,
            dpo=recipe.dpo,
            tokenizer=chat.tokenizer,
            pairs=method_pairs(prepared, method=method, chat=chat, refusals=refusals, seed=seed),
            start=None,
            arguments=dpo_arguments(train, recipe.dpo, seed=seed, folder=folder),
        )
        return on_pairs, plan_pairs(on_pairs)
    from derta.train.fit import build_trainer
    from derta.train.probe import plan

    on_rows = build_trainer(
        model=recipe.model,
        train=train,
        tokenizer=chat.tokenizer,
        instances=method_instances(prepared, method=method, chat=chat, refusals=refusals, seed=seed),
        refusal_ids=refusals.ids,
        seed=seed,
        checkpoints=folder,
    )
    return on_rows, plan(on_rows)


def told(one: DryRun) -> str:
    """One method's figures as a line."""
    minutes, seconds = divmod(round(one.seconds), 60)
    counted = "pairs" if METHODS[one.method].pairs else "rows"
    return (
        f"{one.method}: {one.rows:,} {counted}, {one.tokens:,} tokens ({one.labels:,} labelled), {one.steps:,} steps, "
        f"{one.padding:.1%} padding; by a probe on this machine, about {minutes:,} min {seconds} s of training "
        f"without loading and checkpoints, and {one.peak_gib} GiB at the peak."
    )
