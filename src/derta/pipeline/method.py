"""One method outside a run: its model (`derta train`), or its rows for other trainers (`derta data`)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path

from derta.config import Recipe
from derta.data.preparation import PreparedData
from derta.data.rows import check_row, draw_row
from derta.data.tree import expand_branches
from derta.errors import DataError, RecipeError
from derta.locks import check_output
from derta.pipeline.data import hub_base, input_files, prepare_data
from derta.pipeline.ingredients import ingredient_notes, method_defaults
from derta.pipeline.models import check_init_from, load_format, recipe_config, train_method
from derta.pipeline.own_refusals import own_training_set, train_on_own_refusals
from derta.pipeline.paths import expanded_paths
from derta.pipeline.plan import check_recipe
from derta.pipeline.registry import Registry, check_rewriter
from derta.pipeline.row_files import EpochRow, row_format, write_rows
from derta.protocols import Display
from derta.provenance import model_files
from derta.run_folder import DISTILLED, check_new_model, record_origin


def check_training(recipe: Recipe, *, method: str, out: Path, init_from: Path | None = None) -> Recipe:
    """Return a recipe with only one method, after all checks that need no data; its paths are not expanded.

    Raises:
        RecipeError: an unknown method, or a missing or unexpected `init_from`.
        RunError: `out` is a model that no training can resume.
    """
    registry, recipe = Registry().with_methods_of(recipe), _only(recipe, method)
    _check_trains(registry, method)
    with expanded_paths(recipe, registry) as paths:
        check_recipe(paths.recipe, registry)
    check_init_from(registry.method(method), init_from)
    check_new_model(out)
    return recipe


def _check_trains(registry: Registry, method: str) -> None:
    if (base := registry.weights_of(method)) != method:
        raise RecipeError(
            f"{method}: expected a method that trains, got one that decodes the models of {base}; use {base}"
        )


def _only(recipe: Recipe, method: str) -> Recipe:
    return recipe.model_copy(update={"methods": (method,), "baseline": None, "recommended": None})


def train_one(
    recipe: Recipe,
    *,
    method: str,
    out: Path,
    seed: int = 0,
    init_from: Path | None = None,
    endpoints: Collection[str] = (),
    is_main_process: bool = True,
    display: Display = Display(),
) -> Path:
    """Train the model of one method of a recipe, resumably, and return its folder.

    Its data is that of a run of the recipe: with `match_instances`, n depends on whether the recipe has vanilla.

    Args:
        recipe: The recipe.
        method: The method's name.
        out: The output folder of the model.
        seed: The random seed.
        init_from: The folder of the tuned model to initialise from, if the method needs one.
        endpoints: Hosts that keys may be sent to, if the recipe's `data.rewriter` is served.
        is_main_process: True in the one process that records the model's origin.
        display: Shows progress.
    """
    methods = (*recipe.methods, method)
    recipe = check_training(recipe, method=method, out=out, init_from=init_from)
    registry = Registry().with_methods_of(recipe)
    definition = registry.method(method)
    check_rewriter(recipe, endpoints)
    overrides = {"seed": seed, "init_from": None if init_from is None else str(init_from)}
    with ExitStack() as stack:
        paths = stack.enter_context(expanded_paths(recipe, registry))
        distilled = out.with_name(f"{out.name}.{DISTILLED}")
        prepared = _prepare_for(paths.recipe, methods, registry, distilled=distilled, display=display)
        inputs = input_files(paths.recipe)
        data = prepared.training_set(triples_per_unit=definition.triples_per_unit, seed=seed)
        origin = recipe.model_dump(mode="json") | overrides | hub_base(paths.recipe)
        origin |= {"training_data": data.identity()} | method_defaults([definition])
        inputs += [] if init_from is None else model_files(init_from)
        stack.enter_context(
            record_origin(out, recipe=origin, inputs=inputs, name_of=paths.name, is_main_process=is_main_process)
        )
        train = train_on_own_refusals if definition.own_refusals else train_method
        return train(
            paths.recipe,
            method=definition,
            seed=seed,
            prepared=prepared,
            out=out,
            init_from=init_from,
            display=display,
        )


def prepare_launch(
    recipe: Recipe,
    *,
    method: str,
    out: Path,
    seed: int = 0,
    init_from: Path | None = None,
    endpoints: Collection[str] = (),
    display: Display = Display(),
) -> bool:
    """Generate the replies that a training needs, in this process, before it is launched in several.

    Returns:
        Whether training is left. It is not if the method trains on own refusals, and there are none.
    """
    registry = Registry().with_methods_of(recipe)
    definition = registry.method(method)
    distills = any(source.answers == "model" for source in (*recipe.data.helpful, *recipe.data.counter))
    if not (distills or definition.own_refusals or recipe.data.rewriter is not None):
        return True
    check_rewriter(recipe, endpoints)
    with expanded_paths(recipe, registry) as paths:
        distilled = out.with_name(f"{out.name}.{DISTILLED}")
        prepared = _prepare_for(paths.recipe, (*recipe.methods, method), registry, distilled=distilled, display=display)
        if not definition.own_refusals or init_from is None:
            return True
        data = own_training_set(
            paths.recipe,
            method=definition,
            seed=seed,
            prepared=prepared,
            out=out,
            init_from=init_from,
            display=display,
        )
    return data is not None


def _prepare_for(
    recipe: Recipe, methods: Sequence[str], registry: Registry, *, distilled: Path, display: Display
) -> PreparedData:
    recipe = recipe.model_copy(update={"methods": methods})
    return prepare_data(recipe, registry, distilled=distilled, display=display)


def export_rows(
    recipe: Recipe,
    *,
    method: str,
    seed: int,
    epoch: int,
    out: Path,
    epochs: int = 1,
    format: str | None = None,
    endpoints: Collection[str] = (),
    display: Display = Display(),
) -> int:
    """Write the rows of some epochs, and return their number.

    `labels` are unshifted, -100 at positions without a loss. The rows of a tree are written separately. With several
    epochs, each row has its epoch, and those of an epoch follow each other.

    Args:
        recipe: The recipe.
        method: The method's name.
        seed: The random seed.
        epoch: The first epoch whose random draws are written.
        out: The output file, or the folder of a data set.
        epochs: The number of epochs.
        format: `jsonl` or `datasets`; by default a data set for a name without suffix.
        endpoints: Hosts that keys may be sent to, if the recipe's `data.rewriter` is served.
        display: Shows progress.
    """
    if recipe.train.rows.reference:
        raise RecipeError(
            "derta data: expected no train.reference, because it drops labels by batch, in training; remove it"
        )
    check_rewriter(recipe, endpoints)
    chosen = row_format(out, format)
    registry = Registry().with_methods_of(recipe)
    with expanded_paths(recipe, registry) as paths:
        check_output(out, input_files(paths.recipe))
        rows = _drawn_rows(
            paths.recipe,
            registry,
            method=method,
            seed=seed,
            epochs=range(epoch, epoch + epochs),
            out=out,
            display=display,
        )
        count = write_rows(out, rows, format=chosen, with_epoch=epochs > 1)
    display.logger.info("%d rows in %s", count, out)
    return count


def _drawn_rows(
    recipe: Recipe, registry: Registry, *, method: str, seed: int, epochs: range, out: Path, display: Display
) -> Iterator[EpochRow]:
    """Yield the rows of each epoch, drawn one by one from the encoded data."""
    _check_trains(registry, method)
    definition = registry.method(method)
    if definition.trainer is not None:
        raise DataError(
            f"{method}: expected a method that trains on rows, got one of {definition.unit}; use `derta train`"
        )
    check_recipe(_only(recipe, method), registry)
    chat, refusals = load_format(recipe)
    distilled = out.with_name(f"{out.stem}.{DISTILLED}")
    prepared = _prepare_for(recipe, (*recipe.methods, method), registry, distilled=distilled, display=display)
    for note in [*prepared.notes, *ingredient_notes(recipe, [definition], prepared=prepared)]:
        display.logger.info(note)
    config = recipe_config(recipe, definition, seed=seed, output_dir=out)
    data = prepared.training_set(triples_per_unit=definition.triples_per_unit, seed=seed)
    encoded = expand_branches(
        list(definition.dataset(data, chat=chat, refusals=refusals, config=config)), config.branches_per_triple
    )
    with display.progress.task("rows", total=len(encoded) * len(epochs)) as task:
        for number, (epoch, instance) in enumerate(product(epochs, encoded), start=1):
            yield epoch, check_row(draw_row(instance, config=config, seed=seed, epoch=epoch))
            task.update(number)
