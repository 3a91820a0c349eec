"""`derta estimate`: work, time and memory of a recipe's training; no output is written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from derta.config import Recipe, TrainSection
from derta.data.preparation import PreparedData
from derta.methods import Method, method_config
from derta.methods import estimate as estimate_training
from derta.pipeline.data import limit_notes, prepare_data
from derta.pipeline.evaluate import craft_prompts
from derta.pipeline.fine_tuning import check_rows, fine_tuning_attacks, read_all_attack_data
from derta.pipeline.ingredients import ingredient_notes
from derta.pipeline.likelihoods import scored_data
from derta.pipeline.models import load_format
from derta.pipeline.paths import expanded_paths
from derta.pipeline.plan import check_recipe, read_recipe
from derta.pipeline.registry import Registry
from derta.pipeline.run_threshold import check_calibrations
from derta.pipeline.token_refusal import cost_note
from derta.protocols import Display


class MethodEstimate(NamedTuple):
    """Estimate of one method's training: counted work, and `seconds` and `peak_gib` from a short probe.

    `rows` are in the method's `unit` (pairs for dpo), and `padding` is the fraction of padding tokens. `seconds`
    excludes loading the model, writing checkpoints and everything after training.
    """

    method: str
    unit: str
    rows: int
    tokens: int
    labels: int
    steps: int
    padding: float
    seconds: float
    peak_gib: float


def estimate(
    recipe: Recipe | Mapping[str, Any] | Path | str,
    *,
    methods: Mapping[str, Method] | None = None,
    env: Collection[str] = (),
    display: Display = Display(),
) -> list[MethodEstimate]:
    """Return an estimate for each method of a recipe, with its first seed: rows are drawn, counted and probed.

    >>> from tempfile import mkdtemp
    >>> from derta.demo.run import write_example
    >>> [result] = estimate(write_example(Path(mkdtemp()), methods=["derta"]))
    >>> result.method, result.steps, result.peak_gib > 0
    ('derta', 1, True)

    Args:
        recipe: A recipe, its values, or the path of its YAML file.
        methods: Custom methods by name, as for `derta.run`.
        env: Environment variables that the recipe may use in paths, as for `derta.run`.
        display: Shows notes.

    Raises:
        DertaError: an error in the data, the model or the recipe.
    """
    original = read_recipe(recipe, env=env)
    registry = Registry(methods=methods or {}).with_methods_of(original)
    with expanded_paths(original, registry) as paths:
        return _estimate(paths.recipe, registry, display)


def _estimate(loaded: Recipe, registry: Registry, display: Display) -> list[MethodEstimate]:
    check_recipe(loaded, registry)
    prepared = prepare_data(loaded, registry, display=display)
    check_calibrations(loaded, prepared, registry=registry, lengths=False)
    attack_data = read_all_attack_data(loaded, prepared=prepared)
    notes = [
        *prepared.notes,
        *ingredient_notes(loaded, registry.all_methods(loaded.methods), prepared=prepared),
        *limit_notes(loaded),
    ]
    for note in [*notes, *(data.note for data in attack_data.values())]:
        display.logger.info(note)
    check_rows(loaded, attack_data)
    names = dict.fromkeys(map(registry.weights_of, loaded.methods))
    trained = [method for method in map(registry.method, names) if method.trains]
    estimates = [estimate_method(loaded, method, prepared=prepared) for method in trained if not method.own_refusals]
    for method in trained:
        if method.own_refusals:
            display.logger.info("%s is not estimated: its pairs are replies of %s", method.name, method.init_from)
    if note := _token_note(loaded, estimates, prepared=prepared, registry=registry):
        display.logger.info(note)
    if len(loaded.seeds) > 1:
        display.logger.info("The recipe has %d seeds: training takes that many times as long.", len(loaded.seeds))
    if attacks := fine_tuning_attacks(loaded):
        further = len(attacks) * len(trained) * len(loaded.seeds)
        display.logger.info("Attacks by fine-tuning are %d further trainings, which are not estimated.", further)
    return estimates


FORWARD_SHARE = 1 / 3
"""Share of a training step that is its forward pass: the backward pass computes two products for each one."""


def _token_note(
    recipe: Recipe, estimates: Sequence[MethodEstimate], *, prepared: PreparedData, registry: Registry
) -> str | None:
    """Format the cost of refusal probabilities by token, with the speed of the first estimate's training."""
    seconds = FORWARD_SHARE * estimates[0].seconds / estimates[0].tokens if estimates else None
    prompts = craft_prompts(recipe, held_out=prepared.held_out_requests, seed=recipe.seeds[0], registry=registry)
    return cost_note(recipe, prompts, scored_data(recipe, prepared), seconds_per_token=seconds)


def estimate_method(recipe: Recipe, method: Method, *, prepared: PreparedData) -> MethodEstimate:
    """Return the estimate of one method; the model of its `init_from` need not exist, only the recipe's."""
    seed = recipe.seeds[0]
    values = {name: value for name, value in recipe.train.settings.items() if not name.startswith("save_")}
    train = TrainSection.model_validate(values | {"report_to": "none", "lora": recipe.train.lora})
    chat, _ = load_format(recipe)
    with TemporaryDirectory() as folder:
        settings = recipe.settings_of(method.name)
        config = method_config(method, train, model=recipe.model, seed=seed, output_dir=Path(folder), settings=settings)
        planned, estimated = estimate_training(
            method,
            model=recipe.model.path,
            config=config,
            data=prepared.training_set(triples_per_unit=method.triples_per_unit, seed=seed),
            tokenizer=chat.tokenizer,
            lora=train.lora,
        )
    return MethodEstimate(
        method.name,
        method.unit,
        planned.rows,
        planned.tokens,
        planned.labels,
        planned.steps,
        round(planned.padding, 4),
        round(estimated.seconds, 1),
        round(estimated.peak_bytes / 2**30, 2),
    )
