"""Attacks on request files, and a recipe's search attacks, which find prompts for each model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from os.path import isfile
from pathlib import Path
from typing import Any, NamedTuple

from derta.attacks import Attack, build_attack
from derta.attacks.attempts import Budget, add_costs, read_attempts, success_by_budget, total
from derta.attacks.prompts import as_suite
from derta.attacks.search import as_judge
from derta.config import EngineConfig, EvaluationSection, Recipe
from derta.data.requests import load_requests
from derta.engines import check_settings
from derta.errors import RecipeError
from derta.files import read_records, write_records, write_text
from derta.judges import judge_producer
from derta.locks import check_output, lock
from derta.pipeline.judge import engine_loader, find_judge
from derta.pipeline.registry import Registry
from derta.pipeline.request_sources import section_requests
from derta.pipeline.resuming import check_unique
from derta.protocols import Display, Engine, EngineLoader, Judge, ProgressTask
from derta.provenance import Producer, file_hashes, hash_value
from derta.records import Cost, Prompt, Record, Request, short_hash

SEARCHES = "searches.json"
"""A model's file with the provenance of its searched prompts."""


class SearchModels(NamedTuple):
    """Models and judge of a search attack; None: not used."""

    target: EngineConfig | None = None
    attacker: EngineConfig | None = None
    judge: str | None = None
    judge_model: EngineConfig | None = None


class SearchSummary(Record):
    """Summary of a search attack: its cost, and the success rate by number of queries."""

    prompts: int
    cost: Cost
    success_by_budget: tuple[Budget, ...]


def attack_file(
    name: str,
    options: Mapping[str, Any],
    *,
    requests: Path,
    out: Path,
    models: SearchModels = SearchModels(),
    fmt: str = "auto",
    seed: int = 0,
    display: Display = Display(),
) -> SearchSummary:
    """Write an attack's prompts for a file of requests; a search stores its attempts in `<out>.attempts.jsonl`.

    Raises:
        RecipeError: an unknown attack or option, or a search without its target, attacker or judge.
        RunError: the attempts file belongs to another search.
    """
    check_output(out, [requests, *_option_files(options)])
    attack = build_attack(name, options)
    if attack.searches:
        return _search_file(attack, models=models, requests=requests, fmt=fmt, seed=seed, out=out, display=display)
    if any(models):
        raise RecipeError(f"attack {name} queries no model; remove --target, --attacker, --judge and --judge-model")
    prompts = attack.craft(load_requests(requests, format=fmt), seed=seed)
    _write_prompts(out, prompts)
    return SearchSummary(prompts=len(prompts), cost=Cost(), success_by_budget=())


def _search_file(
    attack: Attack, *, models: SearchModels, requests: Path, fmt: str, seed: int, out: Path, display: Display
) -> SearchSummary:
    if models.target is None:
        raise RecipeError(f"attack {attack.name} queries the target while it searches; expected --target MODEL")
    request_list = list(load_requests(requests, format=fmt))
    judge = None if models.judge is None else check_search_judge(find_judge(models.judge, model=models.judge_model))
    state = out.with_name(out.name + ".attempts.jsonl")
    target = engine_loader(models.target)
    attacker = None if models.attacker is None else engine_loader(models.attacker)
    with lock(state):
        searched = attack.search(
            request_list,
            target=target(),
            attacker=None if attacker is None else attacker(),
            judge=judge,
            state=state,
            key=hash_value(_producers(target.producer(), attacker, judge, attack.options)),
            seed=seed,
        )
        with display.progress.task(f"{attack.name}: requests", total=len(request_list)) as task:
            prompts = _collect(searched, task)
        _write_prompts(out, prompts)
    attempts = read_attempts(state)
    budgets = tuple(success_by_budget(attempts))
    return SearchSummary(prompts=len(prompts), cost=total(attempts), success_by_budget=budgets)


def _producers(
    target: Producer, attacker: EngineLoader | None, judge: Judge | None, options: Mapping[str, Any]
) -> list[object]:
    """Return the provenance of a search: its models, its judge, and the content of the files in its options."""
    return [
        dict(target),
        None if attacker is None else dict(attacker.producer()),
        None if judge is None else judge_producer(judge),
        [*file_hashes(_option_files(options)).values()],
    ]


def _option_files(options: Mapping[str, Any]) -> list[Path]:
    return [Path(value) for value in options.values() if isinstance(value, str | Path) and isfile(value)]  # noqa: PTH113


def _write_prompts(out: Path, prompts: Sequence[Prompt]) -> None:
    """Write an attack's prompts; a file of prompts that is there is replaced, any other is refused."""
    with lock(out):
        if out.stat().st_size:
            for _ in islice(read_records(out, Prompt), 1):
                pass
        write_records(out, prompts)


def _collect(prompts: Iterable[Prompt], task: ProgressTask) -> list[Prompt]:
    """Return the prompts as a list, with progress by request."""
    collected: list[Prompt] = []
    for prompt in prompts:
        collected.append(prompt)
        task.update(len({one.request_id for one in collected}))
    return collected


def format_cost(cost: Cost) -> str:
    """Return a cost as text."""
    return (
        f"{cost.target_queries} queries of the target, {cost.attacker_queries} of the attacker, {cost.judge_queries} "
        f"of the judge, {cost.tokens} tokens, {cost.seconds:.0f} s"
    )


def check_search_judge(judge: Judge) -> Judge:
    """Return the judge if it is valid for a search.

    Raises:
        RecipeError: it does not measure harm.
    """
    as_judge(judge)
    return judge


def check_searches(recipe: Recipe, registry: Registry = Registry()) -> None:
    """Validate the options and models of a recipe's search attacks before anything is trained.

    Raises:
        RecipeError: an option is not valid or a model is missing; the message names the evaluation.
    """
    for section in _search_sections(recipe, registry):
        attack, models = registry.attack(section), section.search
        if models.attacker is not None:
            check_settings(models.attacker.engine, models.attacker.settings)
        _search_judge(section, registry)
        if (attack.needs_attacker and models.attacker is None) or (attack.needs_judge and models.judge is None):
            raise RecipeError(f"evaluate: {section.attack} needs `search: {{attacker: {{model: ...}}, judge: ...}}`")


def _search_sections(recipe: Recipe, registry: Registry) -> list[EvaluationSection]:
    return [one for one in recipe.evaluate if one.prompts is None and registry.attack(one).searches]


def _search_judge(section: EvaluationSection, registry: Registry) -> Judge | None:
    """Return the judge that guides an evaluation's search, or None."""
    config = section.search.judge_config
    return None if config is None else check_search_judge(registry.judge(config))


def add_searched_prompts(
    recipe: Recipe,
    prompts: Sequence[Prompt],
    *,
    engine: Engine,
    target: Producer,
    home: Path,
    held_out: Sequence[Request],
    registry: Registry = Registry(),
    display: Display = Display(),
) -> Sequence[Prompt]:
    """Return one model's prompts: those of all models, and those that search attacks find for this one.

    They are computed once and cached in `home/prompts.jsonl`, with the attempts next to it. `target` is the engine's
    producer.
    """
    stored = searched_prompts(recipe, prompts, target=target, home=home, held_out=held_out, registry=registry)
    if stored is not None:
        return stored
    results: list[Prompt] = []
    keys = _search_keys(recipe, target=target, held_out=held_out, registry=registry)
    for section in _search_sections(recipe, registry):
        requests = section_requests(section, held_out=held_out, seed=recipe.seeds[0])
        name = _search_name(section)
        with display.progress.task(f"{home.name}: {name}", total=len(requests)) as task:
            searched = _search(
                section, requests, engine, home, registry=registry, key=keys[name], seed=recipe.seeds[0], task=task
            )
        results += searched if section.name is None else as_suite(searched, suite=section.suite, dataset=name)
    check_unique([*prompts, *results])
    write_records(home / "prompts.jsonl", [*prompts, *results])
    write_text(home / SEARCHES, json.dumps(_searches(prompts, keys), indent=2) + "\n")
    return [*prompts, *results]


def searched_prompts(
    recipe: Recipe,
    prompts: Sequence[Prompt],
    *,
    target: Producer,
    home: Path,
    held_out: Sequence[Request],
    registry: Registry = Registry(),
) -> Sequence[Prompt] | None:
    """Return one model's prompts as an earlier run stored them; None if they must be searched for, or again.

    Without a search in the recipe, these are the prompts of all models.
    """
    keys = _search_keys(recipe, target=target, held_out=held_out, registry=registry)
    path, searches_path = home / "prompts.jsonl", home / SEARCHES
    if not keys:
        path.unlink(missing_ok=True)  # of a search that the recipe has no more; the attempts are kept
        return prompts
    if not path.exists() or not searches_path.exists():
        return None
    if json.loads(searches_path.read_text(encoding="utf-8")) != _searches(prompts, keys):
        return None
    return list(read_records(path, Prompt))


def _searches(prompts: Sequence[Prompt], keys: Mapping[str, str]) -> dict[str, object]:
    return {"prompts": short_hash(*(prompt.model_dump_json() for prompt in prompts)), "searches": dict(keys)}


def _search_name(section: EvaluationSection) -> str:
    return section.name or section.attack


def _search_keys(
    recipe: Recipe, *, target: Producer, held_out: Sequence[Request], registry: Registry
) -> dict[str, str]:
    """Return a hash of all that each search against a model depends on, by its name."""
    keys: dict[str, str] = {}
    for section in _search_sections(recipe, registry):
        attacker = None if section.search.attacker is None else engine_loader(section.search.attacker)
        requests = section_requests(section, held_out=held_out, seed=recipe.seeds[0])
        keys[_search_name(section)] = hash_value(
            [
                section.model_dump(mode="json"),
                registry.attack(section).identity,
                [request.model_dump(mode="json") for request in requests],
                _producers(target, attacker, _search_judge(section, registry), section.options),
            ]
        )
    return keys


def _search(
    section: EvaluationSection,
    requests: Sequence[Request],
    engine: Engine,
    home: Path,
    *,
    registry: Registry,
    key: str,
    seed: int,
    task: ProgressTask,
) -> list[Prompt]:
    attacker = section.search.attacker
    prompts = registry.attack(section).search(
        requests,
        target=engine,
        attacker=None if attacker is None else engine_loader(attacker)(),
        judge=_search_judge(section, registry),
        state=home / f"attempts.{_search_name(section)}.{key}.jsonl",
        key=key,
        seed=seed,
    )
    return _collect(prompts, task)


def search_notes(prompts: Iterable[Prompt], *, model: str) -> list[str]:
    """Return notes on the cost of each search against a model."""
    spent: dict[str, list[Cost]] = {}
    for prompt in prompts:
        if prompt.cost is not None:
            spent.setdefault(prompt.attack, []).append(prompt.cost)
    return [f"{model}: {attack} took {format_cost(add_costs(costs))}." for attack, costs in spent.items()]
