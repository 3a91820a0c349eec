"""Plan of a run: everything that is known and checked before its first training step."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from derta.config import THRESHOLD, OtherModel, Recipe, load_recipe, parse_recipe, recommended_method
from derta.data.preparation import PreparedData
from derta.engines import settings_of_text
from derta.errors import ModelError, RecipeError
from derta.methods import check_package, check_settings
from derta.pipeline.contents import ModelEntry, RunContents, section_judges
from derta.pipeline.data import hub_base, prepare_data
from derta.pipeline.evaluate import craft_prompts, is_complete, recipe_judges, sample_counts, sampling_notes
from derta.pipeline.fine_tuning import (
    AttackData,
    FineTuningAttack,
    attack_comparisons,
    check_rows,
    fine_tuning_attacks,
    read_all_attack_data,
)
from derta.pipeline.generate import check_decoding
from derta.pipeline.ingredients import check_counter, ingredient_notes, method_defaults
from derta.pipeline.model_checks import check_compiler, check_training
from derta.pipeline.models import check_engine
from derta.pipeline.readiness import check_evaluation
from derta.pipeline.registry import Registry
from derta.pipeline.request_sources import limit_notes
from derta.pipeline.run_threshold import check_calibrations, threshold_identity
from derta.pipeline.search import check_searches
from derta.pipeline.source_checks import licence_notes
from derta.pipeline.token_refusal import token_notes
from derta.pipeline.windows import fit_windows
from derta.protocols import Display, Judge
from derta.provenance import hash_value
from derta.records import Prompt
from derta.run_folder import DISTILLED, check_folder

TRAINING_KEYS = ("seeds", "model", "data", "train", "methods", "method_settings", "fine_tuning_attacks")
"""The keys of a recipe that its models depend on."""


class RunModel(NamedTuple):
    """A model of a run: a method with a seed, and optionally a fine-tuning attack on it."""

    method: str
    seed: int
    attack: FineTuningAttack | None = None

    @property
    def label(self) -> str:
        """Label of the model in the report."""
        return self.attack.label(self.method) if self.attack else self.method

    @property
    def folder(self) -> str:
        """Name of the model's folder in the run's folder."""
        return f"{self.attack.folder_prefix(self.method) if self.attack else self.method}-seed{self.seed}"

    def weights(self, registry: Registry) -> RunModel:
        """Return the model whose weights this one decodes: itself, unless its method only decodes."""
        return self._replace(method=registry.weights_of(self.method))

    @property
    def entry(self) -> ModelEntry:
        """Entry of the model in `run.json`."""
        attack = self.attack and self.attack.name
        return ModelEntry(label=self.label, seed=self.seed, folder=self.folder, fine_tuning=attack)


class RunPlan(NamedTuple):
    """Plan of a run: everything that is known before the first training step."""

    recipe: Recipe
    registry: Registry
    prepared: PreparedData
    models: list[RunModel]
    judges: dict[str, Judge]
    attack_data: Mapping[str, AttackData]
    prompts: list[Prompt]
    contents: RunContents


def plan_run(
    recipe: Recipe,
    *,
    folder: Path,
    registry: Registry,
    display: Display,
    training: Mapping[str, Any] | None = None,
) -> RunPlan:
    """Return the plan of a run: load its data, craft its prompts, and validate all models that are not trained yet.

    `training` are values that a run in the folder must have, so that nothing is distilled for another recipe there.
    """
    judges = check_recipe(recipe, registry)
    check_folder(folder, training=training)
    prepared = prepare_data(recipe, registry, distilled=folder / DISTILLED, display=display)
    attacks = fine_tuning_attacks(recipe)
    attack_data = read_all_attack_data(recipe, prepared=prepared)
    notes = [
        *prepared.notes,
        *ingredient_notes(recipe, registry.all_methods(recipe.methods), prepared=prepared),
        *limit_notes(recipe),
        *licence_notes(recipe),
        *(data.note for data in attack_data.values()),
    ]
    crafted = craft_prompts(recipe, held_out=prepared.held_out_requests, seed=recipe.seeds[0], registry=registry)
    prompts, cut = fit_windows(recipe, crafted, registry)
    notes += cut
    for note in notes:
        display.logger.info(note)
    check_decoding(recipe.generate.engine, prompts)
    untrained = [method for method in recipe.methods if not registry.method(method).trains]
    models = [
        RunModel(method, seed, attack)
        for attack in (None, *attacks)
        for method in recipe.methods
        for seed in (recipe.seeds[:1] if method in untrained else recipe.seeds)
        if attack is None or method not in untrained
    ]
    homes = [folder / model.folder for model in models]
    check_calibrations(
        recipe,
        prepared,
        registry=registry,
        lengths=not all(is_complete(one, prompts, sample_counts(recipe)) for one in homes),
    )
    if not all(
        (folder / model.weights(registry).folder / "model").exists() or (home / "scores.json").exists()
        for model, home in zip(models, homes, strict=True)
    ):
        check_engine(recipe)
        check_compiler(recipe)
        check_methods(recipe, registry, prepared=prepared)
        check_rows(recipe, attack_data)
    baseline = recipe.baseline or next((m for m in recipe.methods if m not in untrained), recipe.methods[0])
    contents = RunContents(
        title=recipe.title,
        models=tuple(
            one.entry.model_copy(
                update={
                    THRESHOLD: threshold_identity(recipe.threshold_of(one.method)),
                    "own_format": registry.weights_of(one.method) in recipe.models,
                }
            )
            for one in models
        ),
        measures={name: judge.measures for name, judge in judges.items()},
        sections=tuple(
            section_judges(section, samples=sample_counts(recipe)[section.key]) for section in recipe.evaluate
        ),
        questions=attack_comparisons(
            recipe.methods,
            [attack.label for attack in attacks],
            baseline=baseline,
            untrained=untrained,
        ),
        notes=(*recipe.notes, *notes, *sampling_notes(recipe), *token_notes(recipe)),
        refusal_words=recipe.model.refusal_words,
        baseline=baseline,
        recommended=recipe.recommended or recommended_method(recipe.methods, baseline=baseline),
    )
    check_evaluation(
        recipe,
        prompts,
        prepared=prepared,
        folder=folder,
        homes=homes,
        registry=registry,
        judges=contents.judges,
    )
    return RunPlan(recipe, registry, prepared, models, judges, attack_data, prompts, contents)


def read_recipe(recipe: Recipe | Mapping[str, Any] | Path | str, *, env: Collection[str] = ()) -> Recipe:
    """Return a recipe, parsed from its values or loaded from its file, that may use the variables in `env`.

    Raises:
        RecipeError: the file cannot be read, or a key or value is not valid.
    """
    if isinstance(recipe, Recipe):
        return recipe.allow_env(env)
    if isinstance(recipe, str | Path):
        return load_recipe(Path(recipe), env=env)
    return parse_recipe(dict(recipe), where="recipe").allow_env(env)


def check_recipe(recipe: Recipe, registry: Registry = Registry()) -> dict[str, Judge]:
    """Fail before any data is loaded if a name is unknown or not installed, or a required list is empty.

    Returns:
        The judges of the evaluations, by name; their models are not loaded yet.
    """
    for key, listed in (("methods", recipe.methods), ("seeds", recipe.seeds)):
        if not listed or len(set(listed)) < len(listed):
            raise RecipeError(f"{key}: expected at least one, each once, got {list(listed)}")
    for key, named in (("baseline", recipe.baseline), ("recommended", recipe.recommended)):
        if named is not None and named not in recipe.methods:
            raise RecipeError(f"{key}: expected one of the methods {', '.join(recipe.methods)}, got {named!r}")
    for name, model in recipe.models.items():
        _check_model(name, model)
    for method in registry.all_methods(recipe.methods):
        check_package(method)
        values = check_settings(method, recipe.train, recipe.settings_of(method.name))
        check_counter(recipe, method, values)
    for name in recipe.method_settings:
        registry.method(name)
    if recipe.train.lora is not None and recipe.train.lora.load_in_4bit:
        from derta.train.adapters import quantization

        quantization(four_bit=True)
    check_searches(recipe, registry)
    return recipe_judges(recipe, registry)


def _check_model(name: str, model: OtherModel) -> None:
    """Fail before any work starts if another model of a recipe, or its adapter, does not exist."""
    from derta.loading import check_model_path

    try:
        check_model_path(model.path, needs="config.json")
        if model.adapter is not None:
            check_model_path(model.adapter, needs="adapter_config.json")
    except ModelError as error:
        raise ModelError(f"methods: {name}: {error}") from error


def check_methods(recipe: Recipe, registry: Registry, *, prepared: PreparedData) -> None:
    """Validate the training of each method of a recipe, and of the methods that these are initialised from."""
    for method in registry.all_methods(recipe.methods):
        if method.trains:
            check_training(recipe, method, prepared=prepared)


def training_origin(
    plan: RunPlan, identities: Mapping[str, Mapping[str, str]], *, recipe: Recipe | None = None
) -> dict[str, Any]:
    """Return the part of a run that its trained models depend on: it cannot change in a run's folder.

    Evaluations and judges can; they count only by the requests that they remove from the training data. The values are
    those of `recipe`, by default the plan's.
    """
    values = trained_values(recipe or plan.recipe, plan.registry)
    data = hash_value([plan.prepared.identity(), {name: one.identity for name, one in plan.attack_data.items()}])
    methods = identities.get("methods")
    values |= hub_base(plan.recipe) | method_defaults(plan.registry.all_methods(plan.recipe.methods))
    return {**values, "training_data": data, **({"functions": {"methods": methods}} if methods else {})}


def trained_values(recipe: Recipe, registry: Registry) -> dict[str, Any]:
    """Return the keys of a recipe that its trained models depend on, without what concerns only decoding."""
    values = recipe.model_dump(mode="json", include=set(TRAINING_KEYS))
    names = dict.fromkeys(map(registry.weights_of, recipe.methods))
    if recipe.data.rewriter is not None:
        values["data"]["rewriter"]["settings"] = settings_of_text(recipe.data.rewriter.settings)
    values["methods"] = [name for name in names if registry.method(name).trains]  # others can be added later
    values["method_settings"] = {
        name: trained
        for name, each in values["method_settings"].items()
        if name not in registry.shared and ((trained := _without_threshold(each)) or not each)
    }
    return values


def _without_threshold(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != THRESHOLD}
