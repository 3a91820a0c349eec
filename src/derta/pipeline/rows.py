"""Frozen rows for other trainers (TRL, Axolotl, LLaMA-Factory): one epoch's `input_ids` and `labels`."""

from __future__ import annotations

import json
from pathlib import Path

from derta.config import Recipe
from derta.data.rows import check_row, draw_row
from derta.data.tree import branched
from derta.errors import DataError, RecipeError
from derta.files import write_text
from derta.methods import find_method, method_config
from derta.pipeline.data import prepare_data
from derta.pipeline.models import load_format
from derta.pipeline.run import check_recipe
from derta.protocols import Display


def export_rows(recipe: Recipe, *, method: str, seed: int, epoch: int, out: Path, display: Display = Display()) -> int:
    """Write the rows of one epoch, and return their number; `labels` are unshifted, -100 where nothing is learned.

    The rows of a tree are written one by one.
    """
    if recipe.train.rows.reference:
        raise RecipeError(
            "derta data: expected no train.reference, whose labels are dropped by batch, in training; leave it out"
        )
    found = find_method(method)
    if found.trainer is not None:
        raise DataError(
            f"{method}: expected a method that learns from rows, got one of {found.unit}; use `derta train`"
        )
    check_recipe(recipe.model_copy(update={"methods": (method,)}))
    chat, refusals = load_format(recipe)
    prepared = prepare_data(recipe)
    for note in prepared.notes:
        display.logger.info(note)
    config = method_config(found, recipe.train, model=recipe.model, seed=seed, output_dir=out)
    data = prepared.training_set(triples_per_unit=found.triples_per_unit, seed=seed)
    chosen = branched(
        list(found.dataset(data, chat=chat, refusals=refusals, config=config)), config.branches_per_triple
    )
    lines: list[str] = []
    with display.progress.task("rows", total=len(chosen)) as task:
        for number, instance in enumerate(chosen, start=1):
            row = check_row(draw_row(instance, config=config, seed=seed, epoch=epoch))
            lines.append(json.dumps({"id": row.id, "term": row.term, "input_ids": row.input_ids, "labels": row.labels}))
            task.update(number)
    write_text(out, "".join(line + "\n" for line in lines))
    display.logger.info("%d rows in %s", len(lines), out)
    return len(lines)
