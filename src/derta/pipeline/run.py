"""A whole run: data, a model per method and seed, prompts, replies, verdicts, report; a stopped run resumes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from derta.config import Recipe
from derta.errors import RunError
from derta.methods import Method
from derta.pipeline.contents import write_contents
from derta.pipeline.data import input_files, model_inputs, other_model_files, training_files
from derta.pipeline.details import keep_training_log
from derta.pipeline.evaluate import is_current, judge_models, recorded_weights, samplings, token_limits
from derta.pipeline.fine_tuning import COST_FILE, fine_tune
from derta.pipeline.generate import expected_replies, generate_missing
from derta.pipeline.likelihoods import score_held_out, scored_data
from derta.pipeline.models import train_method
from derta.pipeline.own_refusals import train_on_own_refusals
from derta.pipeline.paths import ExpandedRecipe, expanded_paths
from derta.pipeline.plan import RunModel, RunPlan, plan_run, read_recipe, trained_values, training_origin
from derta.pipeline.registry import AttackLike, JudgeLike, Registry, check_servers
from derta.pipeline.report import report
from derta.pipeline.resuming import Expected, store_prompts, supersede
from derta.pipeline.run_threshold import Decoding
from derta.pipeline.search import add_searched_prompts, searched_prompts
from derta.pipeline.token_refusal import TokenScoring
from derta.protocols import Display
from derta.provenance import Producer, file_hashes
from derta.records import Prompt, Reply, ReplyKey
from derta.results import Summary
from derta.run_folder import open_run


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
        loaded, folder=folder, registry=registry, display=display, training=trained_values(original, registry)
    )
    # after all checks: else the folder of a refused recipe would refuse the corrected one
    identities = registry.identities(loaded)
    origin = original.model_dump(mode="json") | ({"functions": identities} if identities else {})
    training = training_origin(plan, identities, recipe=original)
    inputs, fixed = input_files(loaded), training_files(loaded)
    with open_run(folder, recipe=origin, training=training, inputs=inputs, fixed=fixed, name_of=paths.name):
        write_contents(folder, plan.contents)
        store_prompts(folder / "prompts.jsonl", plan.prompts)
        model_files = [*model_inputs(loaded), *other_model_files(loaded)]
        base_files = file_hashes(model_files)
        for model in plan.models:
            generate_replies(plan, model, folder=folder, display=display)
            if file_hashes(model_files) != base_files:
                raise RunError(
                    f"{loaded.asking(model.method).model.path}: expected the same files during the whole run, but they "
                    f"have changed, so {model.label} seed {model.seed} may be of either version; start again with "
                    "another --out"
                )
        homes = {f"{model.label} seed {model.seed}": folder / model.folder for model in plan.models}
        for name in plan.contents.measures:
            # popped: the model of a judge, if it has one, is released before the next is loaded
            judge = plan.judges.pop(name)
            judge_models(judge, homes, folder=folder, judges=plan.contents.judges, display=display)
        return report(folder, display=display)


def generate_replies(plan: RunPlan, model: RunModel, *, folder: Path, display: Display) -> None:
    """Train a model, run the recipe's search attacks on it, generate its replies and compute its scores."""
    recipe, home = plan.recipe, folder / model.folder
    weights = folder / model.weights(plan.registry).folder
    out = weights / "model" if plan.registry.method(model.method).trains else None
    data = scored_data(recipe, plan.prepared)
    recorded = recorded_weights(home) if out is not None and not out.exists() else {}
    asked = recipe.asking(plan.registry.weights_of(model.method))
    decoding = Decoding.of(
        recipe, plan.prepared, method=model.method, seed=model.seed, home=home, registry=plan.registry
    )
    producer = decoding.engine(asked, out, recorded=recorded).producer() | recorded
    stored = searched_prompts(
        recipe,
        plan.prompts,
        target=producer,
        home=home,
        held_out=plan.prepared.held_out_requests,
        registry=plan.registry,
    )
    scores = data.provenance(producer)
    if (
        stored is not None
        and is_current(home, _expected(recipe, stored, producer), scores=scores)
        # deleted weights are not trained again for a heat map
        and (recorded or TokenScoring.of(recipe, data, stored, producer=producer, home=home).is_complete())
    ):
        return
    path = train_model(plan, model, folder=folder, display=display)
    if path is not None:
        keep_training_log(path)
    engine = decoding.engine(asked, path)
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
    scoring = TokenScoring.of(recipe, data, prompts, producer=producer, home=home)
    name = f"{model.label} seed {model.seed}"
    scoring.score(engine, description=f"{name}: refusal probabilities by token", display=display)
    engine.release()


def _expected(recipe: Recipe, prompts: Sequence[Prompt], producer: Producer) -> dict[ReplyKey, Expected]:
    return expected_replies(
        prompts,
        producer=producer,
        max_new_tokens=token_limits(recipe, prompts),
        samplings=samplings(recipe, prompts),
    )


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
