"""All faults of a recipe file at once: names, values, combinations and files; no model and no torch is loaded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from derta.chat.templates import SHIPPED_TEMPLATES
from derta.config import (
    EvaluationSection,
    JudgeConfig,
    Recipe,
    RowConfig,
    Section,
    combination_faults,
    expand_section,
    expand_variables,
    setting_faults,
    unset_variables,
)
from derta.config.faults import parse_with_faults
from derta.config.recipe import recipe_values
from derta.engines import ENGINES, check_settings
from derta.errors import DertaError, EngineError, RecipeError, did_you_mean
from derta.loading import check_model_path
from derta.methods import Method, check_package
from derta.pipeline.ingredients import check_counter
from derta.pipeline.registry import Registry, check_servers
from derta.pipeline.source_checks import is_checked, prompts_fault, recipe_sources, source_fault
from derta.records import Record


class RecipeCheck(Record):
    """Result of a check: the faults, one line each, what was checked, and the sources whose rows were not read."""

    recipe: str
    faults: tuple[str, ...]
    methods: tuple[str, ...] = ()
    evaluations: int = 0
    sources: int = 0
    unread: tuple[str, ...] = ()


class _Paths(NamedTuple):
    recipe: Recipe
    faults: list[str]
    unset: frozenset[str]
    """Keys whose paths contain a variable that is not set."""


def check_recipe_file(
    path: Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    env: Collection[str] = (),
    endpoints: Collection[str] = (),
) -> RecipeCheck:
    """Return all faults of a recipe file that are visible without loading its data and its model.

    The settings of engines in this process, the number of rows, and what depends on the machine are checked by a run
    itself, before it trains.
    """
    try:
        values = recipe_values(path, overrides=overrides, env=env)
    except RecipeError as error:
        return RecipeCheck(recipe=str(path), faults=(str(error),))
    if not isinstance(values, dict):
        return RecipeCheck(recipe=str(path), faults=(f"{path}: expected a mapping of keys, got {values!r:.60}",))
    parsed = parse_with_faults(values)
    if parsed.recipe is None:
        return RecipeCheck(recipe=str(path), faults=tuple(parsed.faults))
    original = parsed.recipe.allow_env(env)
    registry, definitions = _registry(original)
    paths = _expand(original, registry, numbers=parsed.evaluate)
    recipe = paths.recipe
    sources = [one for one in recipe_sources(recipe, numbers=parsed.evaluate) if f"{one.key}.path" not in paths.unset]
    found = [
        *parsed.faults,
        *definitions,
        *paths.faults,
        *_model_faults(recipe, paths.unset),
        *_method_faults(recipe, registry),
        *(fault for one in sources if (fault := _at(one.key, source_fault(one.section, kind=one.kind)))),
        *_evaluation_faults(recipe, registry, numbers=parsed.evaluate, unset=paths.unset),
        *_faults_of(lambda: check_servers(recipe, endpoints)),
    ]
    return RecipeCheck(
        recipe=str(path),
        faults=tuple(dict.fromkeys(found)),
        methods=recipe.methods,
        evaluations=len(recipe.evaluate),
        sources=len(sources),
        unread=tuple(one.section.path for one in sources if not is_checked(one.section)),
    )


def _at(key: str, fault: str | None) -> str | None:
    return None if fault is None else f"`{key}`: {fault}"


def _faults_of(check: Callable[[], object]) -> Iterator[str]:
    try:
        check()
    except DertaError as error:
        yield str(error)


def _registry(recipe: Recipe) -> tuple[Registry, list[str]]:
    try:
        return Registry().with_methods_of(recipe), []
    except RecipeError as error:
        return Registry(), [str(error)]


def _expand(recipe: Recipe, registry: Registry, *, numbers: Sequence[int]) -> _Paths:
    """Expand the paths of a recipe; all variables that are not set are one fault each, with their keys."""
    faults: list[str] = []
    unset: dict[str, list[str]] = {}

    def expand(key: str, text: str) -> str:
        first, *rest = key.split(".")
        if first == "evaluate":  # with the number in the file
            key = ".".join([first, str(numbers[int(rest[0])]), *rest[1:]])
        if names := unset_variables(text):
            for name in names:
                unset.setdefault(name, []).append(key)
            return text
        try:
            return expand_variables(text, key=key, env=recipe.env)
        except RecipeError as error:
            faults.append(str(error))
            unset.setdefault("", []).append(key)
            return text

    def path_options(section: Section) -> Collection[str]:
        return registry.path_options(section) if isinstance(section, EvaluationSection) else ()

    expanded = expand_section(recipe, expand, path_options=path_options)
    for name, keys in unset.items():
        others = f" and {len(keys) - 1} other key{'s' if len(keys) > 2 else ''}" if len(keys) > 1 else ""
        if name:
            faults.append(f"`{keys[0]}`{others}: the environment variable {name} is not set; run `export {name}=PATH`")
    return _Paths(expanded, faults, frozenset(key for keys in unset.values() for key in keys))


def _model_faults(recipe: Recipe, unset: Collection[str]) -> Iterator[str]:
    model = recipe.model
    if model.path and "model.path" not in unset:
        yield from _prefixed("`model.path`", lambda: check_model_path(model.path, needs="config.json"))
    for name, other in recipe.models.items():
        if f"models.{name}.path" not in unset:
            yield from _prefixed(
                f"`methods`: {name}", lambda path=other.path: check_model_path(path, needs="config.json")
            )
        if other.adapter is not None and f"models.{name}.adapter" not in unset:
            yield from _prefixed(
                f"`methods`: {name}", lambda path=other.adapter: check_model_path(path, needs="adapter_config.json")
            )
    if (rewriter := recipe.data.rewriter) is not None:
        yield from _prefixed("`data.rewriter`", lambda: _check_engine(rewriter.engine, rewriter.settings))
        if rewriter.engine == "hf" and "data.rewriter.model" not in unset:
            yield from _prefixed("`data.rewriter`", lambda: check_model_path(rewriter.model, needs="config.json"))
    is_file = model.template.endswith((".jinja", ".j2")) or "/" in model.template
    if is_file and "model.template" not in unset and not Path(model.template).is_file():
        names = ", ".join(("auto", *SHIPPED_TEMPLATES))
        yield f"`model.template`: expected {names} or a Jinja file, found none at {model.template!r:.80}"


def _prefixed(where: str, check: Callable[[], object]) -> Iterator[str]:
    return (f"{where}: {fault}" for fault in _faults_of(check))


def _method_faults(recipe: Recipe, registry: Registry) -> Iterator[str]:
    """Yield the faults of the names of methods and seeds, of their settings, and of the packages that they need."""
    for key, listed in (("methods", recipe.methods), ("seeds", recipe.seeds)):
        if not listed or len(set(listed)) < len(listed):
            yield f"`{key}`: expected at least one, each once, got {list(listed)}"
    if recipe.baseline is not None and recipe.baseline not in recipe.methods:
        yield f"`baseline`: expected one of the methods {', '.join(recipe.methods)}, got {recipe.baseline!r}"
    methods: dict[str, Method] = {}
    defining = {name for name, each in recipe.method_settings.items() if "method" in each} | recipe.models.keys()
    undefined = defining - registry.defined.keys()
    for name in dict.fromkeys((*recipe.methods, *recipe.method_settings)):
        if name in undefined:
            continue  # because of another fault, which is reported
        try:
            methods |= {one.name: one for one in registry.chain(name)}
        except RecipeError as error:
            yield str(error)
    needed = {one.name for name in recipe.methods if name in methods for one in registry.chain(name)}
    for name, method in methods.items():
        overrides = recipe.settings_of(name)
        where = f"method_settings.{name}"
        wrong = [str(fault) for fault in setting_faults(overrides, where=where, own=method.own_settings)]
        yield from wrong
        if name not in needed or not method.trains:
            continue
        yield from _faults_of(lambda method=method: check_package(method))
        values = _with_defaults(recipe.train.settings, method.defaults)
        if not wrong:
            yield from map(str, combination_faults(values, overrides, where=where))
            merged = {**values, **overrides}
            yield from _faults_of(lambda method=method, merged=merged: check_counter(recipe, method, merged))


def _with_defaults(train: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training settings with a method's own defaults, where a setting has its general default."""
    general = vars(RowConfig())
    return {**train, **{name: value for name, value in own.items() if train.get(name) == general.get(name)}}


def _evaluation_faults(
    recipe: Recipe, registry: Registry, *, numbers: Sequence[int], unset: Collection[str]
) -> Iterator[str]:
    """Yield the faults of the evaluations: attacks and options, judges and their models, files of prompts, names."""
    seen: dict[Any, int] = {}
    judges: dict[str, JudgeConfig] = {}
    for number, section in zip(numbers, recipe.evaluate, strict=True):
        where = f"evaluate.{number}"
        if section.key in seen:
            yield f"`{where}`: has the attack, suite and name of `evaluate.{seen[section.key]}`; give each a `name`"
        seen.setdefault(section.key, number)
        if section.prompts is None:
            if not any(key.startswith(f"{where}.options.") for key in unset):
                yield from _prefixed(f"`{where}`", lambda section=section: _check_attack(section, recipe, registry))
        elif f"{where}.prompts" not in unset and (fault := prompts_fault(section.prompts)):
            yield f"`{where}.prompts`: {fault}"
        if section.requests == "held_out" and not recipe.data.held_out_requests:
            yield f"`{where}.requests`: held_out needs `data.held_out_requests` above 0, got 0; set it"
        for judge in section.judges:
            yield from _prefixed(f"`{where}.judges`", lambda judge=judge: _check_judge(judge, registry))
            if judges.setdefault(judge.name, judge) != judge:
                yield f"`{where}.judges`: expected one model for {judge.name!r}, got two; give each section the same"


def _check_attack(section: EvaluationSection, recipe: Recipe, registry: Registry) -> None:
    """Validate an attack with its options and the models of its search, without loading an engine."""
    attack, models = registry.attack(section, refusal_words=recipe.model.refusal_words), section.search
    if (attack.needs_attacker and models.attacker is None) or (attack.needs_judge and models.judge is None):
        raise RecipeError(f"{section.attack} needs `search: {{attacker: {{model: ...}}, judge: ...}}`")
    if models.attacker is not None:
        _check_engine(models.attacker.engine, models.attacker.settings)
    if models.judge_config is not None:
        _check_judge(models.judge_config, registry)


def _check_judge(config: JudgeConfig, registry: Registry) -> None:
    in_process = config.model is not None and config.engine != "api"
    registry.judge(config.model_copy(update={"model": "", "engine": "api", "settings": {}}) if in_process else config)
    if in_process:
        _check_engine(config.engine, {})


def _check_engine(engine: str, settings: Mapping[str, Any]) -> None:
    """Validate the name of an engine, and the settings of one whose module imports no torch."""
    if engine not in ENGINES:
        raise EngineError(f"unknown engine {engine!r}; {did_you_mean(engine, ENGINES)}")
    if engine == "api":
        check_settings(engine, settings)


def check_lines(result: RecipeCheck) -> list[str]:
    """Return the lines that a check prints: a fault each, or what was checked.

    >>> check_lines(RecipeCheck(recipe="a.yaml", faults=(), methods=("derta",), sources=2, unread=("org/name",)))
    ['a.yaml: no fault found (1 method, 0 evaluations, 2 sources); not read: org/name']
    """
    if result.faults:
        return [*result.faults]
    counts = (("method", len(result.methods)), ("evaluation", result.evaluations), ("source", result.sources))
    checked = ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts)
    unread = f"; not read: {', '.join(result.unread)}" if result.unread else ""
    return [f"{result.recipe}: no fault found ({checked}){unread}"]
