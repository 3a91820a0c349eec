"""A whole run: data, one model per method and seed, prompts, replies, verdicts, report. Killed anywhere, it goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from derta.config import Recipe
from derta.data.methods import METHODS
from derta.data.preparation import PreparedData
from derta.errors import DataError, RecipeError
from derta.judges import build_judge
from derta.metrics.rates import Measure
from derta.metrics.summarize import Outcome, summarize, transcripts
from derta.pipeline.data import input_files, prepare_data
from derta.pipeline.evaluate import craft_prompts, is_asked, reply_all, store_prompts
from derta.pipeline.fine_tuning import (
    COST,
    AttackData,
    FineTuningAttack,
    attacked_comparisons,
    check_rows,
    fine_tune,
    fine_tuning_attacks,
    read_data,
    told_cost,
)
from derta.pipeline.likelihoods import Scores, perplexity_notes, score_held_out
from derta.pipeline.models import LazyEngine, check_compiler, check_engine, check_trl, train_method
from derta.pipeline.search import check_decoding, check_searches, cost_notes, with_searched
from derta.pipeline.sections import judge_sections, token_limits
from derta.protocols import Display
from derta.records import Prompt, Suite
from derta.reporting import write_report
from derta.results import Summary
from derta.run_folder import open_run


class Answers(NamedTuple):
    """What one model of a run answered, its scores, and of an attacked one what its fine-tuning took, in a sentence."""

    outcome: Outcome
    scores: Scores
    cost: str | None = None


def model_folder(folder: Path, method: str, seed: int) -> Path:
    """Where the files of one method and seed lie."""
    return folder / f"{method}-seed{seed}"


class Planned(NamedTuple):
    """All of a run that is known before its first training step; `notes` say what was dropped."""

    prepared: PreparedData
    attacks: list[FineTuningAttack]
    attack_data: Mapping[str, AttackData]
    prompts: list[Prompt]
    notes: list[str]


def run_recipe(recipe: Recipe, *, folder: Path, display: Display = Display()) -> Summary:
    """Do everything a recipe says, or what is left of it, and write the report.

    Raises:
        RunError: the folder holds another recipe's run.
        DertaError: whatever is wrong with the data, the model or the recipe, before the first training step.
    """
    planned = plan_run(recipe, folder=folder, display=display)
    # a mistake told above leaves no folder behind that the mended recipe would not be let into
    open_run(folder, recipe=recipe.model_dump(mode="json"), inputs=input_files(recipe))
    prompts = store_prompts(folder / "prompts.jsonl", planned.prompts)
    answers = ask_all(folder, recipe, prompts, planned=planned, display=display)
    outcomes = [one.outcome for one in answers]
    costs = [one.cost for one in answers if one.cost]
    costs += [note for one in outcomes for note in cost_notes(one.prompts, model=f"{one.method}, seed {one.seed}")]
    scores = {(one.outcome.method, one.outcome.seed): one.scores for one in answers}
    summary = summarize(
        outcomes,
        title=recipe.title,
        recipe=recipe.title,
        measure_of=measure_of,
        pairs=attacked_comparisons(recipe.methods, [attack.label for attack in planned.attacks]),
        notes=[*planned.notes, *perplexity_notes(scores), *costs],
    )
    write_report(folder, summary, transcripts(outcomes))
    return summary


def plan_run(recipe: Recipe, *, folder: Path, display: Display) -> Planned:
    """Read a recipe's data and craft its prompts; where something is left to train, check that it can be trained."""
    check_recipe(recipe)
    prepared = prepare_data(recipe)
    attacks = fine_tuning_attacks(recipe)
    attack_data = read_data(recipe, prepared=prepared)
    notes = [*prepared.notes, *(data.note for data in attack_data.values())]
    for note in notes:
        display.logger.info(note)
    crafted = craft_prompts(recipe, held_out=prepared.held_out_requests, seed=recipe.seeds[0])
    check_decoding(recipe.generate.engine, crafted)
    models = [*recipe.methods, *(attack.place(method) for attack in attacks for method in recipe.methods)]
    homes = [model_folder(folder, model, seed) for model in models for seed in recipe.seeds]
    if not all((home / "model").exists() or (home / "scores.json").exists() for home in homes):
        check_engine(recipe)
        check_compiler(recipe)
        check_rows(recipe, attack_data)
    return Planned(prepared, attacks, attack_data, crafted, notes)


def ask_all(
    folder: Path, recipe: Recipe, prompts: Sequence[Prompt], *, planned: Planned, display: Display
) -> list[Answers]:
    """Tune every model and ask it everything, and then every attacked one."""
    return [
        *(
            ask_tuned(folder, recipe, prompts, method=method, seed=seed, prepared=planned.prepared, display=display)
            for method in recipe.methods
            for seed in recipe.seeds
        ),
        *(
            ask_attacked(
                folder, recipe, prompts, attack=attack, method=method, seed=seed, planned=planned, display=display
            )
            for attack in planned.attacks
            for method in recipe.methods
            for seed in recipe.seeds
        ),
    ]


def ask_tuned(
    folder: Path,
    recipe: Recipe,
    prompts: Sequence[Prompt],
    *,
    method: str,
    seed: int,
    prepared: PreparedData,
    display: Display,
) -> Answers:
    """Tune a model, unless it was asked all already, and ask it everything."""
    home = model_folder(folder, method, seed)
    if not is_asked(home, prompts):
        train_in(folder, recipe, method=method, seed=seed, prepared=prepared, display=display)
    return ask_model(recipe, prompts, label=method, seed=seed, home=home, prepared=prepared, display=display)


def ask_attacked(
    folder: Path,
    recipe: Recipe,
    prompts: Sequence[Prompt],
    *,
    attack: FineTuningAttack,
    method: str,
    seed: int,
    planned: Planned,
    display: Display,
) -> Answers:
    """Fine-tune a tuned model as the attack says, unless it was asked all already, and ask it everything again."""
    home, label = model_folder(folder, attack.place(method), seed), attack.label(method)
    prepared, cost_path = planned.prepared, home / COST
    if not is_asked(home, prompts):
        start = train_in(folder, recipe, method=method, seed=seed, prepared=prepared, display=display)
        data, what = planned.attack_data[attack.section.name], f"{label} seed {seed}"
        out = home / "model"
        fine_tune(
            recipe,
            attack,
            data=data,
            start=start,
            seed=seed,
            out=out,
            cost_path=cost_path,
            what=what,
            display=display,
        )
    answers = ask_model(recipe, prompts, label=label, seed=seed, home=home, prepared=prepared, display=display)
    told = f"{label}, seed {seed}: {told_cost(cost_path)}." if cost_path.exists() else None
    return answers._replace(cost=told)


def ask_model(
    recipe: Recipe,
    prompts: Sequence[Prompt],
    *,
    label: str,
    seed: int,
    home: Path,
    prepared: PreparedData,
    display: Display,
) -> Answers:
    """Ask the model in `home` everything, and judge it; what is there already is not asked again."""
    engine = LazyEngine(recipe, home / "model")
    own = with_searched(recipe, prompts, engine=engine, home=home, held_out=prepared.held_out_requests, display=display)
    replies = reply_all(
        engine,
        own,
        path=home / "replies.jsonl",
        max_new_tokens=token_limits(recipe, own),
        what=f"{label} seed {seed}: replies",
        display=display,
    )
    verdicts = judge_sections(recipe, own, replies=replies, home=home)
    scored = score_held_out(engine, recipe, prepared=prepared, path=home / "scores.json")
    engine.release()
    return Answers(Outcome(label, seed, own, replies, verdicts, scored.refusal_probability), scored)


def train_in(folder: Path, recipe: Recipe, *, method: str, seed: int, prepared: PreparedData, display: Display) -> Path:
    """Tune a model of the run; a method of pairs goes on from the vanilla model of its seed.

    That model is tuned, if it is not there, in the folder it has as a method; a recipe that does not list vanilla
    gets no evaluation of it.
    """
    out = model_folder(folder, method, seed) / "model"
    start = None
    if METHODS[method].pairs and not out.exists():
        start = train_in(folder, recipe, method="vanilla", seed=seed, prepared=prepared, display=display)
    return train_method(recipe, method=method, seed=seed, prepared=prepared, out=out, start=start, display=display)


def check_recipe(recipe: Recipe) -> None:
    """Fail before anything is read if a method or judge is unknown or not installed, or a needed list is empty."""
    for key, listed in (("methods", recipe.methods), ("seeds", recipe.seeds)):
        if not listed or len(set(listed)) < len(listed):
            raise RecipeError(f"{key}: expected at least one, each once, got {list(listed)}")
    for method in recipe.methods:
        if method not in METHODS:
            raise DataError(f"methods: expected some of {', '.join(METHODS)}, got {method!r}")
        if METHODS[method].pairs:
            check_trl(method)
    if recipe.train.lora is not None and recipe.train.lora.load_in_4bit:
        from derta.train.adapters import four_bit

        four_bit(recipe.train.lora)
    check_searches(recipe)
    for section in recipe.evaluate:
        for judge in section.judges:
            build_judge(judge)


def measure_of(judge: str, suite: Suite) -> Measure:
    """What a judge's rate counts; the same in every suite."""
    del suite
    return build_judge(judge).measures
