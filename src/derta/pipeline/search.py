"""Attacks from the command line: those that craft prompts at once, and those that ask engines on the way."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from derta.attacks import LED, SEARCHES, build_attack, build_search
from derta.attacks.attempts import Budget, add_costs, read_attempts, success_by_budget, total
from derta.attacks.base import as_suite
from derta.config import EngineConfig, EvaluationSection, Recipe
from derta.data.requests import load_requests
from derta.engines import check_settings, load_engine
from derta.errors import EngineError, RecipeError
from derta.files import read_records, write_records
from derta.formats.replies import Case
from derta.pipeline.data import section_requests
from derta.pipeline.evaluate import check_unique
from derta.pipeline.judge import JudgeModel, find_judge
from derta.protocols import Display, Engine, Means, Score
from derta.records import Cost, Prompt, Record, Request, short_hash


class EngineChoice(NamedTuple):
    """A model, the engine that runs it, and the engine's settings."""

    model: str
    engine: str
    settings: Mapping[str, Any]


class Helpers(NamedTuple):
    """Who takes part in a search: its target, its attacker, its judge."""

    target: EngineChoice | None = None
    attacker: EngineChoice | None = None
    judge: str | None = None
    judge_model: JudgeModel | None = None


class SearchSummary(Record):
    """What a search took, and how far each number of queries came."""

    prompts: int
    cost: Cost
    success_by_budget: tuple[Budget, ...]


def craft_file(name: str, options: Mapping[str, Any], *, requests: Path, fmt: str, seed: int, out: Path) -> int:
    """Write the prompts of an attack that asks nobody."""
    craft = build_attack(name, options)
    prompts = list(craft(load_requests(requests, format=fmt), target=None, rng=Random(seed)))  # noqa: S311
    write_records(out, prompts)
    return len(prompts)


def search_file(
    name: str,
    options: Mapping[str, Any],
    *,
    helpers: Helpers,
    requests: Path,
    fmt: str,
    seed: int,
    out: Path,
    display: Display = Display(),
) -> SearchSummary:
    """Search for the best prompts against a target; what was tried is kept beside them, in `<out>.tries.jsonl`.

    Raises:
        RecipeError: no target, an unknown option, or an attacker or judge that the search needs and was not given.
        RunError: the tries are those of another search.
    """
    if helpers.target is None:
        raise RecipeError(f"attack {name} asks the target on the way; expected --target MODEL, got none")
    search = build_search(name, options)
    asked = load_requests(requests, format=fmt)
    state = out.with_name(out.name + ".tries.jsonl")
    means = Means(
        target=_engine(helpers.target),
        attacker=None if helpers.attacker is None else _engine(helpers.attacker),
        score=None if helpers.judge is None else judge_score(helpers.judge, model=helpers.judge_model),
        state=state,
        key=_key(name, options, helpers=helpers, requests=asked, seed=seed),
    )
    prompts: list[Prompt] = []
    with display.progress.task(f"{name}: requests", total=len(asked)) as task:
        for prompt in search(asked, means=means, rng=Random(seed)):  # noqa: S311 - reproducible, not secret
            prompts.append(prompt)
            task.update(len({one.request_id for one in prompts}))
    write_records(out, prompts)
    tries = read_attempts(state, key=means.key)
    return SearchSummary(prompts=len(prompts), cost=total(tries), success_by_budget=tuple(success_by_budget(tries)))


def told_cost(cost: Cost) -> str:
    """A cost in words."""
    return (
        f"{cost.target_queries} queries of the target, {cost.attacker_queries} of the attacker, {cost.judge_queries} "
        f"of the judge, {cost.tokens} tokens, {cost.seconds:.0f} s"
    )


def told_search(summary: SearchSummary) -> str:
    """A search's summary in two lines."""
    found = ", ".join(f"{one.queries}: {one.found}/{one.requests}" for one in summary.success_by_budget)
    return f"{told_cost(summary.cost)}\nharmful by queries of the target: {found or 'not judged on the way'}"


def judge_score(name: str, *, model: JudgeModel | None = None) -> Score:
    """A judge as searches use it."""
    judging = find_judge(name, model=model)
    if judging.measures != "harmful":
        raise RecipeError(f"--judge: expected one that tells harm, such as harm or guideline, got {name!r}")
    return lambda prompts, replies: [*judging.judge([Case(*case) for case in zip(prompts, replies, strict=True)])]


def check_decoding(engine: str, prompts: Sequence[Prompt]) -> None:
    """Refuse prompts that bend decoding on an engine that would not heed it.

    Raises:
        EngineError: names the first.
    """
    bent = next((prompt.id for prompt in prompts if prompt.decoding is not None), None)
    if engine != "hf" and bent is not None:
        raise EngineError(f"engine {engine}: cannot bar tokens while decoding, as {bent!r} asks; use the engine hf")


def _engine(choice: EngineChoice) -> Engine:
    return load_engine(choice.model, engine=choice.engine, **choice.settings)


def _key(name: str, options: Mapping[str, Any], *, helpers: Helpers, requests: Sequence[Request], seed: int) -> str:
    """What tells this search from every other: a state file of another must not be gone on with."""
    asked = [request.model_dump_json() for request in requests]
    return short_hash(json.dumps([name, options, helpers, seed, asked], sort_keys=True, default=str))


def check_searches(recipe: Recipe) -> None:
    """Fail before anything is trained if a recipe's search has an option that cannot be, or lacks a helper.

    Raises:
        RecipeError: names the evaluation and what it lacks.
    """
    for section in recipe.evaluate:
        if section.attack not in SEARCHES:
            continue
        build_search(section.attack, section.options)
        taking_part = section.search
        if taking_part.attacker is not None:
            check_settings(taking_part.attacker.engine, taking_part.attacker.settings)
        if taking_part.judge is not None:
            judge_score(taking_part.judge, model=_judge_model(taking_part.judge_model))
        if section.attack in LED and (taking_part.judge is None or taking_part.attacker is None):
            raise RecipeError(f"evaluate: {section.attack} needs `search: {{attacker: {{model: ...}}, judge: ...}}`")


def with_searched(
    recipe: Recipe,
    prompts: Sequence[Prompt],
    *,
    engine: Engine,
    home: Path,
    held_out: Sequence[Request],
    display: Display = Display(),
) -> Sequence[Prompt]:
    """One model's prompts: those that all models get, and what a recipe's searches find against it, once.

    They are kept in `home/prompts.jsonl`, and what was tried beside them.
    """
    sections = [section for section in recipe.evaluate if section.attack in SEARCHES]
    path = home / "prompts.jsonl"
    if not sections:
        return prompts
    if not path.exists():
        seed = recipe.seeds[0]
        found = [
            one
            for section in sections
            for one in _search_section(section, engine=engine, home=home, held_out=held_out, seed=seed, display=display)
        ]
        check_unique([*prompts, *found])
        write_records(path, [*prompts, *found])
    return list(read_records(path, Prompt))


def _search_section(
    section: EvaluationSection,
    *,
    engine: Engine,
    home: Path,
    held_out: Sequence[Request],
    seed: int,
    display: Display,
) -> Iterable[Prompt]:
    taking_part, name = section.search, section.name or section.attack
    requests = section_requests(section, held_out=held_out, seed=seed)
    score = taking_part.judge and judge_score(taking_part.judge, model=_judge_model(taking_part.judge_model))
    means = Means(
        target=engine,
        attacker=taking_part.attacker and _engine(EngineChoice(*_parts(taking_part.attacker))),
        score=score or None,
        state=home / f"tries.{name}.jsonl",
        key=short_hash(section.model_dump_json(), str(seed)),
    )
    search = build_search(section.attack, section.options)
    with display.progress.task(f"{home.name}: {name}", total=len(requests)) as task:
        found: list[Prompt] = []
        for prompt in search(requests, means=means, rng=Random(seed)):  # noqa: S311 - reproducible, not secret
            found.append(prompt)
            task.update(len({one.request_id for one in found}))
    return found if section.name is None else as_suite(found, suite=section.suite, dataset=section.name)


def _parts(helper: EngineConfig) -> tuple[str, str, Mapping[str, Any]]:
    return helper.model, helper.engine, helper.settings


def _judge_model(helper: EngineConfig | None) -> JudgeModel | None:
    return None if helper is None else JudgeModel(*_parts(helper))


def cost_notes(prompts: Sequence[Prompt], *, model: str) -> list[str]:
    """What each search against a model took, in sentences."""
    spent: dict[str, list[Cost]] = {}
    for prompt in prompts:
        if prompt.cost is not None:
            spent.setdefault(prompt.attack, []).append(prompt.cost)
    return [f"{model}: {attack} took {told_cost(add_costs(costs))}." for attack, costs in spent.items()]
