"""Valid names of a recipe: built-in ones, and a caller's custom attacks, judges and methods."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any, cast

from derta.attacks import ATTACKS, Attack, build_attack
from derta.attacks.refusal_words import with_refusal_words
from derta.config import EngineConfig, EvaluationSection, JudgeConfig, Recipe, is_allowed
from derta.engines.endpoints import KEY_VARIABLE, check_endpoints, user_endpoints
from derta.errors import DataError, EngineError, RecipeError, did_you_mean
from derta.judges import JUDGES, from_function, identify_judge, uses_model
from derta.judges.base import FunctionJudge
from derta.methods import METHODS, Method, find_method
from derta.pipeline.judge import find_judge
from derta.protocols import Judge, JudgeFunction
from derta.records import NAME, NAME_LETTERS, REFUSAL_WORDS

AttackLike = Attack | Callable[..., Any]
JudgeLike = Judge | JudgeFunction


@dataclass(frozen=True, slots=True)
class Registry:
    """Custom attacks, judges and methods of a caller, by their names in a recipe, and methods that a recipe defines.

    A recipe is untrusted input: its names are looked up here and among the built-in ones, and never imported. `defined`
    also has the recipe's other models, as methods that do not train. `shared`
    has the defined methods that only decode, with the method whose models they decode.
    """

    attacks: Mapping[str, AttackLike] = field(default_factory=dict[str, AttackLike])
    judges: Mapping[str, JudgeLike] = field(default_factory=dict[str, JudgeLike])
    methods: Mapping[str, Method] = field(default_factory=dict[str, Method])
    defined: Mapping[str, Method] = field(default_factory=dict[str, Method])
    shared: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        _check_names("attacks", self.attacks, ATTACKS)
        _check_names("judges", self.judges, JUDGES)
        _check_names("methods", self.methods, METHODS)
        for name, method in cast("Mapping[str, Any]", self.methods).items():
            if not isinstance(method, Method):
                raise RecipeError(f"methods: expected {name!r} to be a derta.Method, got {type(method).__name__}")
            if method.name != name:
                raise RecipeError(f"methods: expected {method.name!r} under that name, got {name!r}; rename it")

    def method(self, name: str) -> Method:
        """Return a method by name.

        Raises:
            RecipeError: unknown name; the message suggests the nearest.
        """
        try:
            return find_method(name, {**self.methods, **self.defined})
        except RecipeError as error:
            raise RecipeError(f"methods: {error}") from error

    def with_methods_of(self, recipe: Recipe) -> Registry:
        """Return the registry with the methods that a recipe's `method_settings` define from others, and its `models`.

        Raises:
            RecipeError: a name that is taken or invalid, or a base that does not exist or does not train.
        """
        settings = {name: each for name, each in recipe.method_settings.items() if "method" in each}
        _check_names("methods", recipe.models, {*METHODS, *self.methods, *settings})
        others = {name: replace(METHODS["base"], name=name) for name in recipe.models}
        shared = {name: str(each["method"]) for name, each in settings.items() if recipe.only_decodes(name)}
        trained = {name: self._define(name, each) for name, each in settings.items() if name not in shared}
        registry = replace(self, defined=trained | others) if trained or others else self
        decoding = {name: registry._decode(name, base) for name, base in shared.items()}
        registry = replace(registry, defined=trained | others | decoding, shared=shared) if decoding else registry
        for name in settings:
            registry.chain(name)
        return registry

    def _decode(self, name: str, base: str) -> Method:
        """Return the method of a name under which the models of another method are decoded."""
        _check_names("method_settings", {name: base}, {*METHODS, *self.methods})
        try:
            return replace(find_method(base, {**self.methods, **self.defined}), name=name)
        except RecipeError as error:
            raise RecipeError(f"method_settings.{name}.method: {error}") from error

    def weights_of(self, name: str) -> str:
        """Return the name of the method whose models a method decodes: its own, or that of the method it shares."""
        return self.shared.get(name, name)

    def _define(self, name: str, settings: Mapping[str, Any]) -> Method:
        where = f"method_settings.{name}"
        _check_names("method_settings", {name: settings}, {*METHODS, *self.methods})
        try:
            base = find_method(str(settings["method"]), self.methods)
        except RecipeError as error:
            raise RecipeError(f"{where}.method: {error}") from error
        if not base.trains:
            raise RecipeError(f"{where}.method: expected a method that trains, got {base.name!r}; choose another")
        init_from = settings.get("init_from", base.init_from)
        return replace(base, name=name, init_from=None if init_from is None else str(init_from))

    def chain(self, name: str) -> list[Method]:
        """Return a method, the method whose model initialises it, the one that initialises that, and so on.

        For a method that only decodes, it is the chain of the method whose models it decodes.

        >>> [method.name for method in Registry().chain("dpo")]
        ['dpo', 'vanilla']

        Raises:
            RecipeError: an unknown method, one that does not train, or a chain that leads back to itself.
        """
        methods = [self.method(self.weights_of(name))]
        while (start := methods[-1].init_from) is not None:
            where = f"method_settings.{methods[-1].name}.init_from"
            if start in (one.name for one in methods):
                raise RecipeError(f"{where}: expected a method that is trained before, got {start!r}; choose another")
            if start in self.shared:
                raise RecipeError(
                    f"{where}: expected a method that trains, got {start!r}, which decodes the models of "
                    f"{self.shared[start]!r}; use that"
                )
            try:
                methods.append(self.method(start))
            except RecipeError as error:
                raise RecipeError(f"{where}: {error}") from error
            if not methods[-1].trains:
                raise RecipeError(f"{where}: expected a method that trains, got {start!r}; leave it out")
        return methods

    def all_methods(self, names: Iterable[str]) -> list[Method]:
        """Return some methods and those that they are initialised from, each once."""
        methods = [method for name in names for method in self.chain(name)]
        return list({method.name: method for method in methods}.values())

    def triples_per_unit(self, names: Iterable[str]) -> int:
        """Return the largest `triples_per_unit` of the methods to train and of those that they are initialised from.

        >>> [Registry().triples_per_unit(names) for names in (["derta"], ["derta", "dpo"], ["base"])]
        [1, 2, 0]
        """
        return max((one.triples_per_unit for one in self.all_methods(names) if one.trains), default=0)

    def attack(self, section: EvaluationSection, *, refusal_words: Sequence[str] = REFUSAL_WORDS) -> Attack:
        """Return the attack of an evaluation, built with its options.

        Built-in attacks on refusals attack all of the recipe's refusal words, unless their options name others.

        Raises:
            RecipeError: an unknown attack or option (the message suggests the nearest), or a name that does not match.
        """
        options = with_refusal_words(section.attack, section.options, refusal_words=refusal_words)
        attack = build_attack(section.attack, options, extra=self.attacks)
        if attack.name != section.attack:
            raise RecipeError(f"attacks: expected {attack.name!r} under that name, got {section.attack!r}; rename it")
        return attack

    def path_options(self, section: EvaluationSection) -> list[str]:
        """Return the names of an attack's options that are paths, by their annotation; none for an unknown attack."""
        attack: object = self.attacks.get(section.attack, ATTACKS.get(section.attack))
        if section.prompts is not None or isinstance(attack, Attack) or not callable(attack):
            return []
        return [name for name, one in signature(attack).parameters.items() if "Path" in str(one.annotation)]

    def judge(self, config: JudgeConfig, *, refusal_words: Sequence[str] = REFUSAL_WORDS) -> Judge:
        """Return the judge of a recipe's entry; its model, if it uses one, is loaded on first use.

        The built-in refusal judge detects malformed refusals by the recipe's refusal words.

        Raises:
            DataError: an unknown judge, a missing model, or a custom judge with another name.
            EngineError: an unknown engine, or a setting that it does not have.
        """
        if config.name not in self.judges and config.name not in JUDGES:
            raise DataError(f"unknown judge {config.name!r}; {did_you_mean(config.name, [*self.judges, *JUDGES])}")
        if config.name in self.judges:
            if config.model is not None:
                raise DataError(f"judge {config.name!r} uses no model; remove its model")
            return self._user_judge(config.name)
        if config.model is None and uses_model(config.name):
            raise DataError(
                f"judge {config.name!r} uses a model, and the recipe names none; write {{name: {config.name}, "
                "model: ...}"
            )
        return find_judge(config.name, model=config.engine_config, refusal_words=refusal_words)

    def _user_judge(self, name: str) -> Judge:
        judge = self.judges[name]
        if isinstance(judge, FunctionJudge):
            return replace(judge, name=name)
        if not isinstance(judge, Judge):
            if not callable(cast("object", judge)):
                raise DataError(
                    f"judges: {name}: expected a judge or a function of a prompt and its reply, got {judge!r:.60}"
                )
            return from_function(judge, name=name)
        if judge.name != name:
            raise DataError(f"judges: expected {judge.name!r} under that name, got {name!r}; rename it")
        return judge

    def identities(self, recipe: Recipe) -> dict[str, dict[str, str]]:
        """Return the identities of the custom attacks, judges and methods in a recipe, for the run's manifest.

        Raises:
            RunError: one has neither source code nor a `version`.
        """
        attacks = {
            f"{section.attack} of {section.name}" if section.name else section.attack: self.attack(section).identity
            for section in recipe.evaluate
            if section.prompts is None and section.attack in self.attacks
        }
        named = {config.name for config in judge_configs(recipe) if config.name in self.judges}
        judges = {name: identify_judge(self._user_judge(name)) for name in sorted(named)}
        used = [one.name for one in self.all_methods(recipe.methods)]
        used += [str(each["method"]) for each in recipe.method_settings.values() if "method" in each]
        methods = {name: self.methods[name].identity for name in used if name in self.methods}
        named_kinds = (("attacks", attacks), ("judges", judges), ("methods", methods))
        return {kind: identities for kind, identities in named_kinds if identities}


def _check_names(kind: str, registered: Any, reserved: Collection[str]) -> None:
    if not isinstance(registered, Mapping):
        raise RecipeError(f"{kind}: expected a mapping by name, got {type(registered).__name__}")
    for name in cast("Mapping[str, object]", registered):
        if not NAME.fullmatch(name):
            raise RecipeError(f"{kind}: expected a name of {NAME_LETTERS}, got {name!r:.60}; choose another")
        if name in reserved:
            raise RecipeError(f"{kind}: expected a name that is not built in, got {name!r}; choose another")


def judge_configs(recipe: Recipe) -> Iterator[JudgeConfig]:
    """Yield the judge configs of a recipe: those of its evaluations, and those that guide its searches."""
    for section in recipe.evaluate:
        yield from section.judges
        if section.search.judge_config is not None:
            yield section.search.judge_config


def check_servers(recipe: Recipe, endpoints: Collection[str] = ()) -> None:
    """Validate that a recipe sends keys only to servers in `endpoints` or in the user's configuration.

    Raises:
        EngineError: it would send one elsewhere, or a variable that the user has not allowed as a key; the message
            names the host or the variable.
    """
    engines = [config.engine_config for config in judge_configs(recipe)]
    engines += [section.search.attacker for section in recipe.evaluate]
    engines.append(recipe.data.rewriter)
    check_engines([config for config in engines if config is not None], endpoints, env=recipe.env)


def check_rewriter(recipe: Recipe, endpoints: Collection[str] = ()) -> None:
    """Validate that a recipe's `data.rewriter` sends a key only to servers that the user allows.

    Raises:
        EngineError: as in `check_servers`.
    """
    if recipe.data.rewriter is not None:
        check_engines([recipe.data.rewriter], endpoints, env=recipe.env)


def check_engines(engines: Sequence[EngineConfig], endpoints: Collection[str], *, env: Collection[str] = ()) -> None:
    """Validate that engines of a file send keys only to servers in `endpoints` or in the user's configuration.

    Raises:
        EngineError: as in `check_servers`.
    """
    if any(config.engine == "api" for config in engines):
        allowed = [*endpoints, *user_endpoints()]
        for config in engines:
            check_endpoints(config, allowed)
            _check_key_variable(config, env)


def _check_key_variable(config: EngineConfig, env: Collection[str]) -> None:
    name = config.settings.get("api_key_env", KEY_VARIABLE)
    if config.engine == "api" and name != KEY_VARIABLE and not is_allowed(str(name), env):
        raise EngineError(
            f"api_key_env: the recipe would send the environment variable {name!r:.80} as a key; if you trust the "
            f"recipe, pass --env {name!s:.80} (in Python env=[{name!r:.80}])"
        )
