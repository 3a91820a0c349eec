"""`derta run RECIPE --dry-run`: what a run would train on and what that would cost, with nothing written."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from derta.config import Recipe, TrainSection
from derta.data.preparation import PreparedData
from derta.methods import estimate, find_method, method_config
from derta.pipeline.data import prepare_data
from derta.pipeline.fine_tuning import check_rows, fine_tuning_attacks, read_data
from derta.pipeline.models import load_format
from derta.pipeline.run import check_recipe
from derta.protocols import Display


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
    """One method's figures; the model that it starts from is not there yet, but is as large as the recipe's."""
    found = find_method(method)
    quiet = {name: value for name, value in recipe.train.settings.items() if not name.startswith("save_")}
    train = TrainSection.model_validate(quiet | {"report_to": "none", "lora": recipe.train.lora})
    chat, _ = load_format(recipe)
    with TemporaryDirectory() as folder:
        settings = recipe.method_settings.get(method)
        config = method_config(found, train, model=recipe.model, seed=seed, output_dir=Path(folder), settings=settings)
        planned, estimated = estimate(
            found,
            model=recipe.model.path,
            config=config,
            data=prepared.training_set(triples_per_unit=found.triples_per_unit, seed=seed),
            tokenizer=chat.tokenizer,
            lora=train.lora,
        )
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
    minutes, seconds = divmod(round(one.seconds), 60)
    counted = find_method(one.method).unit
    return (
        f"{one.method}: {one.rows:,} {counted}, {one.tokens:,} tokens ({one.labels:,} labelled), {one.steps:,} steps, "
        f"{one.padding:.1%} padding; by a probe on this machine, about {minutes:,} min {seconds} s of training "
        f"without loading and checkpoints, and {one.peak_gib} GiB at the peak."
    )
