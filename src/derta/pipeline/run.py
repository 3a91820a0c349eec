"""A whole run: data, a model per method and seed, prompts, replies, verdicts, report; a stopped run resumes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from derta.config import THRESHOLD, Recipe, SectionKey, load_recipe, parse_recipe
from derta.data.preparation import PreparedData
from derta.errors import RecipeError, RunError
from derta.methods import Method, check_package, check_settings
from derta.pipeline.data import hub_base, input_files, limit_notes, model_inputs, prepare_data, training_files
from derta.pipeline.evaluate import (
    craft_prompts,
    is_complete,
    is_current,
    judge_models,
    recipe_judges,
    recorded_weights,
    token_limits,
)
from derta.pipeline.fine_tuning import (
    COST_FILE,
    AttackData,
    FineTuningAttack,
    attack_comparisons,
    check_rows,
    fine_tune,
    fine_tuning_attacks,
    read_all_attack_data,
)
from derta.pipeline.generate import check_decoding, expected_replies, generate_missing
from derta.pipeline.ingredients import check_counter, ingredient_notes, method_defaults
from derta.pipeline.likelihoods import score_held_out, scored_data
from derta.pipeline.model_checks import check_compiler, check_training
from derta.pipeline.models import check_engine, train_method
from derta.pipeline.own_refusals import train_on_own_refusals
from derta.pipeline.paths import ExpandedRecipe, expanded_paths
from derta.pipeline.readiness import check_evaluation
from derta.pipeline.registry import AttackLike, JudgeLike, Registry, check_servers
from derta.pipeline.report import ModelEntry, RunContents, SectionJudges, report, write_contents
from derta.pipeline.resuming import Expected, store_prompts, supersede
from derta.pipeline.run_threshold import (
    Decoding,
    check_calibrations,
    threshold_identity,
)
from derta.pipeline.search import add_searched_prompts, check_searches, searched_prompts
from derta.protocols import Display, Judge
from derta.provenance import Producer, file_hashes, hash_value
from derta.records import Prompt, Reply, ReplyKey
from derta.results import Summary
from derta.run_folder import DISTILLED, check_folder, open_run

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


def run(
    recipe: Recipe | Mapping[str, Any] | Path | str,
    *,
    out: Path | str,
    attacks: Mapping[str, AttackLike] | None = None,
    judges: Mapping[str, JudgeLike] | None = None,
    methods: Mapping[str, Method] | None = None,
    endpoints: Collection[str] = (),
    env: Collection[str] = (),
    display: Display = Display(),
) -> Summary:
    """Run a recipe, or resume its run, and write the report.

    >>> from tempfile import mkdtemp
    >>> from derta.demo.run import write_example
    >>> recipe = write_example(Path(mkdtemp()))
    >>> summary = run(recipe, out=recipe.parent / "run", judges={"short": lambda prompt, reply: len(reply.text) < 9})
    >>> sorted({(cell.method, cell.suite) for cell in summary.cells if cell.judge == "steps"})
    [('base', 'attack')]

    Args:
        recipe: A recipe, its values, or the path of its YAML file.
        out: The run's folder; a stopped run in it is resumed.
        attacks: Custom attacks by their name in the recipe: attacks, factories or functions of a request (see
            `derta.attacks.from_function`).
        judges: Custom judges by name: judges, or functions of a prompt and a reply (see
            `derta.judges.from_function`).
        methods: Custom methods by name (see `derta.methods.Method`).
        endpoints: Hosts that keys may be sent to, if the recipe names servers. This machine needs no permission.
        env: Environment variables that the recipe may use in paths and as a key, in addition to `DERTA_*` and
            `OPENAI_API_KEY`.
        display: Shows progress and notes; by default there is no output.

    Returns:
        The contents of `summary.json`.

    Raises:
        RunError: the folder holds another recipe's run.
        DertaError: an error in the data, the model or the recipe, before the first training step.
    """
    loaded = read_recipe(recipe, env=env)
    registry = Registry(attacks or {}, judges or {}, methods or {}).with_methods_of(loaded)
    check_servers(loaded, endpoints)
    with expanded_paths(loaded, registry) as paths:
        return _run(paths, original=loaded, folder=Path(out), registry=registry, display=display)


def _run(paths: ExpandedRecipe, *, original: Recipe, folder: Path, registry: Registry, display: Display) -> Summary:
    """Run a recipe with expanded paths; the manifest contains the `original` recipe."""
    loaded = paths.recipe
    plan = plan_run(
        loaded, folder=folder, registry=registry, display=display, training=_trained_values(original, registry)
    )
    # after all checks: else the folder of a refused recipe would refuse the corrected one
    identities = registry.identities(loaded)
    origin = original.model_dump(mode="json") | ({"functions": identities} if identities else {})
    training = training_origin(plan, identities, recipe=original)
    inputs, fixed = input_files(loaded), training_files(loaded)
    with open_run(folder, recipe=origin, training=training, inputs=inputs, fixed=fixed, name_of=paths.name):
        write_contents(folder, plan.contents)
        store_prompts(folder / "prompts.jsonl", plan.prompts)
        base_files = file_hashes(model_inputs(loaded))
        for model in plan.models:
            generate_replies(plan, model, folder=folder, display=display)
            if file_hashes(model_inputs(loaded)) != base_files:
                raise RunError(
                    f"{loaded.model.path}: expected the same files during the whole run, but they have changed, so "
                    f"{model.label} seed {model.seed} may be of either version; start again with another --out"
                )
        homes = {f"{model.label} seed {model.seed}": folder / model.folder for model in plan.models}
        for name in plan.contents.measures:
            # popped: the model of a judge, if it has one, is released before the next is loaded
            judge = plan.judges.pop(name)
            judge_models(judge, homes, folder=folder, judges=plan.contents.judges, display=display)
        return report(folder, display=display)


def training_origin(
    plan: RunPlan, identities: Mapping[str, Mapping[str, str]], *, recipe: Recipe | None = None
) -> dict[str, Any]:
    """Return the part of a run that its trained models depend on: it cannot change in a run's folder.

    Evaluations and judges can; they count only by the requests that they remove from the training data. The values are
    those of `recipe`, by default the plan's.
    """
    values = _trained_values(recipe or plan.recipe, plan.registry)
    data = hash_value([plan.prepared.identity(), {name: one.identity for name, one in plan.attack_data.items()}])
    methods = identities.get("methods")
    values |= hub_base(plan.recipe) | method_defaults(plan.registry.all_methods(plan.recipe.methods))
    return {**values, "training_data": data, **({"functions": {"methods": methods}} if methods else {})}


def _trained_values(recipe: Recipe, registry: Registry) -> dict[str, Any]:
    """Return the keys of a recipe that its trained models depend on, without what concerns only decoding."""
    values = recipe.model_dump(mode="json", include=set(TRAINING_KEYS))
    values["methods"] = list(dict.fromkeys(map(registry.weights_of, recipe.methods)))
    values["method_settings"] = {
        name: trained
        for name, each in values["method_settings"].items()
        if name not in registry.shared and ((trained := _without_threshold(each)) or not each)
    }
    return values


def _without_threshold(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != THRESHOLD}


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
        *(data.note for data in attack_data.values()),
    ]
    for note in notes:
        display.logger.info(note)
    prompts = craft_prompts(recipe, held_out=prepared.held_out_requests, seed=recipe.seeds[0], registry=registry)
    check_decoding(recipe.generate.engine, prompts)
    untrained = [method for method in recipe.methods if not registry.method(method).trains]
    models = [
        RunModel(method, seed, attack)
        for attack in (None, *attacks)
        for method in recipe.methods
        for seed in recipe.seeds
        if attack is None or method not in untrained
    ]
    homes = [folder / model.folder for model in models]
    check_calibrations(recipe, prepared, registry=registry, lengths=not all(is_complete(one, prompts) for one in homes))
    if not all(
        (folder / model.weights(registry).folder / "model").exists() or (home / "scores.json").exists()
        for model, home in zip(models, homes, strict=True)
    ):
        check_engine(recipe)
        check_compiler(recipe)
        check_methods(recipe, registry, prepared=prepared)
        check_rows(recipe, attack_data)
    contents = RunContents(
        title=recipe.title,
        models=tuple(
            one.entry.model_copy(update={THRESHOLD: threshold_identity(recipe.threshold_of(one.method))})
            for one in models
        ),
        measures={name: judge.measures for name, judge in judges.items()},
        sections=tuple(section_judges(section.key, section.judge_names) for section in recipe.evaluate),
        questions=attack_comparisons(
            recipe.methods,
            [attack.label for attack in attacks],
            baseline=recipe.baseline or next((m for m in recipe.methods if m not in untrained), recipe.methods[0]),
            untrained=untrained,
        ),
        notes=(*recipe.notes, *notes),
        refusal_words=recipe.model.refusal_words,
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


def check_methods(recipe: Recipe, registry: Registry, *, prepared: PreparedData) -> None:
    """Validate the training of each method of a recipe, and of the methods that these are initialised from."""
    for method in registry.all_methods(recipe.methods):
        if method.trains:
            check_training(recipe, method, prepared=prepared)


def section_judges(key: SectionKey, judges: tuple[str, ...]) -> SectionJudges:
    """Return an evaluation's key and judges in the format of `run.json`."""
    suite, attack, name = key
    return SectionJudges.model_validate({"suite": suite, "attack": attack, "name": name, "judges": judges})


def generate_replies(plan: RunPlan, model: RunModel, *, folder: Path, display: Display) -> None:
    """Train a model, run the recipe's search attacks on it, generate its replies and compute its scores."""
    recipe, home = plan.recipe, folder / model.folder
    weights = folder / model.weights(plan.registry).folder
    out = weights / "model" if plan.registry.method(model.method).trains else None
    data = scored_data(recipe, plan.prepared)
    recorded = recorded_weights(home) if out is not None and not out.exists() else {}
    decoding = Decoding.of(
        recipe, plan.prepared, method=model.method, seed=model.seed, home=home, registry=plan.registry
    )
    producer = decoding.engine(recipe, out, recorded=recorded).producer() | recorded
    stored = searched_prompts(
        recipe,
        plan.prompts,
        target=producer,
        home=home,
        held_out=plan.prepared.held_out_requests,
        registry=plan.registry,
    )
    scores = data.provenance(producer)
    if stored is not None and is_current(home, _expected(recipe, stored, producer), scores=scores):
        return
    path = train_model(plan, model, folder=folder, display=display)
    engine = decoding.engine(recipe, path)
    if decoding.is_missing(engine):
        found = decoding.calibrate(engine, model=f"{model.label} seed {model.seed}")
        display.logger.info("%s seed %d: refusal threshold %g", model.label, model.seed, found.threshold)
    producer = engine.producer()
    prompts = add_searched_prompts(
        recipe,
        plan.prompts,
        engine=engine,
        target=producer,
        home=home,
        held_out=plan.prepared.held_out_requests,
        registry=plan.registry,
        display=display,
    )
    expected = _expected(recipe, prompts, producer)
    path = home / "replies.jsonl"
    if old := supersede(path, Reply, expected):
        display.logger.info("%s: %d replies to other prompts or with other settings are superseded", path, old)
    generate_missing(
        lambda: engine,
        prompts,
        path=path,
        expected=expected,
        description=f"{model.label} seed {model.seed}: replies",
        display=display,
    )
    same = [folder / one.folder for one in plan.models if one.weights(plan.registry) == model.weights(plan.registry)]
    score_held_out(engine, data, producer=producer, home=home, others=same)
    engine.release()


def _expected(recipe: Recipe, prompts: Sequence[Prompt], producer: Producer) -> dict[ReplyKey, Expected]:
    return expected_replies(prompts, producer=producer, max_new_tokens=token_limits(recipe, prompts))


def train_model(plan: RunPlan, model: RunModel, *, folder: Path, display: Display) -> Path | None:
    """Train a model of the run if it does not exist yet, and return its folder; None for the baseline without training.

    The model that it is initialised from is trained first, in the folder of its method; it is evaluated only if the
    recipe lists that method.
    """
    model = model.weights(plan.registry)
    out = folder / model.folder / "model"
    if not plan.registry.method(model.method).trains:
        return None
    if model.attack is not None:
        cost_path = out.with_name(COST_FILE)
        if not (out.exists() and cost_path.exists()):
            init_from = train_model(plan, model._replace(attack=None), folder=folder, display=display)
            assert init_from is not None  # noqa: S101 - a model that is not trained is not attacked
            fine_tune(
                plan.recipe,
                model.attack,
                data=plan.attack_data[model.attack.section.name],
                init_from=init_from,
                seed=model.seed,
                out=out,
                cost_path=cost_path,
                description=f"{model.label} seed {model.seed}",
                display=display,
            )
        return out
    init_from, method = None, plan.registry.method(model.method)
    if method.init_from is not None and not out.exists():
        init_from = train_model(plan, model._replace(method=method.init_from), folder=folder, display=display)
    train = train_on_own_refusals if method.own_refusals else train_method
    return train(
        plan.recipe,
        method=method,
        seed=model.seed,
        prepared=plan.prepared,
        out=out,
        init_from=init_from,
        display=display,
    )


def check_recipe(recipe: Recipe, registry: Registry = Registry()) -> dict[str, Judge]:
    """Fail before any data is loaded if a name is unknown or not installed, or a required list is empty.

    Returns:
        The judges of the evaluations, by name; their models are not loaded yet.
    """
    for key, listed in (("methods", recipe.methods), ("seeds", recipe.seeds)):
        if not listed or len(set(listed)) < len(listed):
            raise RecipeError(f"{key}: expected at least one, each once, got {list(listed)}")
    if recipe.baseline is not None and recipe.baseline not in recipe.methods:
        raise RecipeError(f"baseline: expected one of the methods {', '.join(recipe.methods)}, got {recipe.baseline!r}")
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
