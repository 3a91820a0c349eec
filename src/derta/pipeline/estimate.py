"""`derta estimate`: work, time and memory of a recipe's training; no output is written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from derta.chat import ChatFormat
from derta.config import Recipe, TrainSection
from derta.data.mixture import TrainingSet
from derta.data.preparation import PreparedData
from derta.methods import Method, TrainingEstimate, method_config, plan_training, shares_speed
from derta.methods import estimate as estimate_training
from derta.pipeline.data import prepare_data
from derta.pipeline.evaluate import craft_prompts
from derta.pipeline.fine_tuning import check_rows, fine_tuning_attacks, read_all_attack_data
from derta.pipeline.generate import check_decoding
from derta.pipeline.ingredients import ingredient_notes
from derta.pipeline.likelihoods import scored_data
from derta.pipeline.model_checks import check_compiler
from derta.pipeline.models import check_engine, load_format
from derta.pipeline.paths import expanded_paths
from derta.pipeline.plan import check_methods, check_recipe, read_recipe
from derta.pipeline.readiness import check_evaluation
from derta.pipeline.registry import Registry
from derta.pipeline.request_sources import limit_notes
from derta.pipeline.run_threshold import check_calibrations
from derta.pipeline.source_checks import licence_notes
from derta.pipeline.token_refusal import cost_note
from derta.pipeline.training import training_progress
from derta.pipeline.windows import fit_windows
from derta.protocols import Display

if TYPE_CHECKING:
    from derta.train.config import DertaConfig
    from derta.train.estimate import Plan, Speed


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

    What a run checks before training is checked first.

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
    check_engine(loaded)
    check_compiler(loaded)
    prepared = prepare_data(loaded, registry, display=display)
    check_calibrations(loaded, prepared, registry=registry, lengths=False)
    attack_data = read_all_attack_data(loaded, prepared=prepared)
    notes = [
        *prepared.notes,
        *ingredient_notes(loaded, registry.all_methods(loaded.methods), prepared=prepared),
        *limit_notes(loaded),
        *licence_notes(loaded),
    ]
    for note in [*notes, *(data.note for data in attack_data.values())]:
        display.logger.info(note)
    check_rows(loaded, attack_data)
    check_methods(loaded, registry, prepared=prepared)
    _check_prompts(loaded, prepared, registry)
    names = dict.fromkeys(map(registry.weights_of, loaded.methods))
    trained = [method for method in map(registry.method, names) if method.trains]
    probed = [method for method in trained if not method.own_refusals]
    estimates = estimate_methods(loaded, probed, prepared=prepared, display=display)
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


def _check_prompts(recipe: Recipe, prepared: PreparedData, registry: Registry) -> None:
    """Validate what a run needs after its training, as before a run: prompts, templates, judges and attackers."""
    crafted = craft_prompts(recipe, held_out=prepared.held_out_requests, seed=recipe.seeds[0], registry=registry)
    prompts = fit_windows(recipe, crafted, registry).prompts
    check_decoding(recipe.generate.engine, prompts)
    judges = {section.key: section.judge_names for section in recipe.evaluate}
    with TemporaryDirectory() as folder:  # a new run: nothing is complete
        homes = [Path(folder) / method for method in recipe.methods]
        check_evaluation(
            recipe, prompts, prepared=prepared, folder=Path(folder), homes=homes, registry=registry, judges=judges
        )


FORWARD_SHARE = 1 / 3
"""Share of a training step that is its forward pass: the backward pass computes two products for each one."""


def _token_note(
    recipe: Recipe, estimates: Sequence[MethodEstimate], *, prepared: PreparedData, registry: Registry
) -> str | None:
    """Format the cost of refusal probabilities by token, with the speed of the first estimate's training."""
    seconds = FORWARD_SHARE * estimates[0].seconds / estimates[0].tokens if estimates else None
    prompts = craft_prompts(recipe, held_out=prepared.held_out_requests, seed=recipe.seeds[0], registry=registry)
    return cost_note(recipe, prompts, scored_data(recipe, prepared), seconds_per_token=seconds)


class _Training(NamedTuple):
    """A training to estimate; `planned` is None if only the method's own trainer can count its work."""

    method: Method
    config: DertaConfig
    data: TrainingSet
    planned: Plan | None

    @property
    def largest(self) -> int:
        """Number of tokens of the largest micro-batch that is known."""
        return max((shape.padded for shape in self.planned.sampled), default=0) if self.planned else 0


def estimate_methods(
    recipe: Recipe, methods: Sequence[Method], *, prepared: PreparedData, display: Display = Display()
) -> list[MethodEstimate]:
    """Return the estimates of some methods; the models of their `init_from` need not exist, only the recipe's.

    Methods that train equally fast on equal rows share the probe of the one with the largest micro-batch.
    """
    chat, _ = load_format(recipe)
    found: dict[str, TrainingEstimate] = {}
    probed: list[tuple[_Training, Speed]] = []
    with TemporaryDirectory() as folder:
        trainings = _trainings(recipe, methods, prepared=prepared, folder=Path(folder), chat=chat, display=display)
        for one in sorted(trainings, key=lambda each: -each.largest):
            speeds = (speed for other, speed in probed if shares_speed(other[:2], one[:2]))
            speed = next(speeds, None) if one.planned else None
            if speed is not None and one.planned is not None:
                found[one.method.name] = TrainingEstimate(one.planned, speed.estimate(one.planned), speed)
                continue
            with training_progress(display, f"{one.method.name}: measuring steps", losses=False) as callback:
                estimated = found[one.method.name] = estimate_training(
                    one.method,
                    model=recipe.model.path,
                    config=one.config,
                    data=one.data,
                    tokenizer=chat.tokenizer,
                    lora=recipe.train.lora,
                    callbacks=[callback],
                )
            if estimated.speed is not None:
                probed.append((one, estimated.speed))
    return [_method_estimate(method, found[method.name]) for method in methods]


def _trainings(
    recipe: Recipe,
    methods: Sequence[Method],
    *,
    prepared: PreparedData,
    folder: Path,
    chat: ChatFormat,
    display: Display,
) -> list[_Training]:
    """Return the trainings of some methods, with their rows counted."""
    seed, trainings = recipe.seeds[0], list[_Training]()
    values = {name: value for name, value in recipe.train.settings.items() if not name.startswith("save_")}
    train = TrainSection.model_validate(values | {"report_to": "none", "lora": recipe.train.lora})
    with display.progress.task("counting rows and tokens", total=len(methods)) as task:
        for number, method in enumerate(methods, start=1):
            settings, out = recipe.settings_of(method.name), folder / method.name
            config = method_config(method, train, model=recipe.model, seed=seed, output_dir=out, settings=settings)
            data = prepared.training_set(triples_per_unit=method.triples_per_unit, seed=seed)
            planned = plan_training(method, config=config, data=data, tokenizer=chat.tokenizer)
            trainings.append(_Training(method, config, data, planned))
            task.update(number)
    return trainings


def _method_estimate(method: Method, found: TrainingEstimate) -> MethodEstimate:
    planned, estimated = found.plan, found.estimate
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
