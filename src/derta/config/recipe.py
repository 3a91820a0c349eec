"""Recipes: the configuration of a run in one YAML file, with validated keys and the paper's values as defaults."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, PrivateAttr, ValidationError, WithJsonSchema, model_validator
from pydantic_core import ErrorDetails

from derta.config.data import DataSection
from derta.config.decoding import CalibrationSection, method_threshold
from derta.config.environment import check_names
from derta.config.evaluation import EvaluationSection, GenerateSection
from derta.config.fine_tuning import FineTuningSection
from derta.config.models import METHODS_SCHEMA, ModelSection, OtherModel, split_methods
from derta.config.recipe_file import read_values
from derta.config.sections import Section, Source, SourceSection, walk
from derta.config.train import TrainSection
from derta.errors import RecipeError, did_you_mean, kind_of
from derta.files import format_error_details

RENAMED = {"dpo": "method_settings.dpo", "train.lora.alpha": "lora_alpha", "train.lora.dropout": "lora_dropout"}
"""Old keys that are not similar to their new names."""

DEFINING = ("method", "init_from")
"""Keys of `method_settings` that define a method from another one."""

THRESHOLD = "refusal_threshold"
"""Key of `method_settings` that belongs to decoding, and not to training."""

_TYPES = {"model_type": "a mapping of keys", "dict_type": "a mapping of keys", "tuple_type": "a list"}
"""What a recipe's author writes for pydantic's types of errors."""


class Recipe(Section):
    """Configuration of a complete run.

    Relative paths start at the working directory. `$NAME` in a path is an environment variable: `DERTA_*`, or one of
    `env`. It is expanded when the path is used, so a run's files and messages contain the text of the recipe. A recipe
    file can include another one: `include: other.yaml`, see `recipe_file`.

    Attributes:
        title: Title of the report. A recipe file without one has its own name, without `.yaml`.
        seeds: Random seeds; each method is trained once for each.
        methods: Names of methods (docs/methods.md), such as `base` (the untuned model), or of those that
            `method_settings` defines, and other models to evaluate as they are: `{name: rival, path: org/rival}`, with
            the keys of `OtherModel`. These and `base` are evaluated once, and not for each seed.
        models: The other models among `methods`, by name; filled from there.
        model: The model to tune.
        data: Data sources, and their preparation.
        train: Settings of training: derta's own, and Hugging Face's training arguments.
        generate: Settings of generation, for the replies of all models.
        baseline: The method that all others are compared with. None: the first method that trains.
        recommended: The method that the report's verdict compares with the baseline. None: see `recommended_method`.
        method_settings: Training settings by method: the fields of the method's config (dpo: `beta`), and values that
            override `train` for it. With `method: NAME` among them, the entry defines a method from another one, such
            as `derta_completion: {method: derta, completion_per_triple: 2.5}`; `init_from: NAME` is then the method
            whose model initialises it. `refusal_threshold` replaces that of `generate` for the method; an entry that
            has nothing else but `method` has no training of its own, and decodes the models of that method.
        evaluate: Attacks and sets of benign requests that every model answers.
        notes: Sentences for the report.
        profile_answers: Number of harmful answers for the refusal probability by position.
        profile_requests: Source of these answers. None: the held-out requests.
        profile_replies: Number of replies of each attack and data set, and of the answers of `profile_answers`, that
            get a refusal probability before each token, for the report's heat map. 0: none. For the engine hf.
        profile_benign: Number of benign answers for the refusal probability by position, and for its detections
            against false alarms.
        profile_examples: Source of these answers, in the formats of `data.helpful`; its requests are no training data.
            None: the held-out helpful examples.
        fine_tuning_attacks: Attacks that train each tuned model further, and evaluate it again.

    >>> recipe = Recipe(title="mine", model={"path": "org/name"}, data={"triples": [], "helpful": []})
    >>> recipe.methods
    ('vanilla', 'derta')
    """

    title: str = "run"
    seeds: tuple[int, ...] = (0,)
    model: ModelSection
    data: DataSection
    train: TrainSection = Field(default_factory=TrainSection)
    methods: Annotated[tuple[str, ...], WithJsonSchema(METHODS_SCHEMA)] = ("vanilla", "derta")
    models: dict[str, OtherModel] = Field(default_factory=dict)
    baseline: str | None = None
    recommended: str | None = None
    method_settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    evaluate: tuple[EvaluationSection, ...] = ()
    generate: GenerateSection = Field(default_factory=GenerateSection)
    notes: tuple[str, ...] = ()
    profile_answers: int = Field(default=0, ge=0)
    profile_requests: Source[SourceSection] | None = None
    profile_replies: int = Field(default=5, ge=0)
    profile_benign: int = Field(default=0, ge=0)
    profile_examples: Source[SourceSection] | None = None
    fine_tuning_attacks: tuple[FineTuningSection, ...] = ()
    _env: frozenset[str] = PrivateAttr(default=frozenset())

    def asking(self, method: str) -> Self:
        """Return the recipe with the model of a name in `models` instead of its own; unchanged for other methods.

        >>> values = {"title": "mine", "model": {"path": "org/name"}, "data": {"triples": [], "helpful": []}}
        >>> recipe = Recipe(**values, methods=["derta", {"name": "rival", "path": "org/rival"}])
        >>> recipe.methods, recipe.asking("rival").model.path, recipe.asking("derta").model.path
        (('derta', 'rival'), 'org/rival', 'org/name')
        """
        if method not in self.models:
            return self
        model = self.models[method].model_copy(update={"refusal_words": self.model.refusal_words})
        return self.model_copy(update={"model": model})

    def settings_of(self, method: str) -> dict[str, Any]:
        """Return the training settings of a method: its `method_settings`, without the keys that define it.

        >>> values = {"title": "mine", "model": {"path": "org/name"}, "data": {"triples": [], "helpful": []}}
        >>> recipe = Recipe(**values, method_settings={"mine": {"method": "derta", "rto_weight": 2}})
        >>> recipe.settings_of("mine"), recipe.settings_of("derta")
        ({'rto_weight': 2}, {})
        """
        settings = self.method_settings.get(method, {})
        others = (*DEFINING, THRESHOLD) if "method" in settings else (THRESHOLD,)
        return {name: value for name, value in settings.items() if name not in others}

    def threshold_of(self, method: str) -> CalibrationSection | float | str | None:
        """Return the threshold with which the models of a method decode: its own, or that of `generate`."""
        settings = self.method_settings.get(method, {})
        if THRESHOLD not in settings:
            return self.generate.refusal_threshold
        return method_threshold(settings[THRESHOLD], key=f"method_settings.{method}.{THRESHOLD}")

    def only_decodes(self, method: str) -> bool:
        """Return whether an entry of `method_settings` decodes the models of another method, without a training."""
        return {"method", THRESHOLD} == {*self.method_settings.get(method, {})}

    @property
    def env(self) -> frozenset[str]:
        """Names of the environment variables that the user allows in paths, in addition to `DERTA_*`."""
        return self._env

    def allow_env(self, env: Collection[str]) -> Self:
        """Return the recipe with more environment variables allowed in its paths.

        Raises:
            RecipeError: a name is not valid.
        """
        recipe = self.model_copy()
        recipe._env = self._env | check_names(env)
        return recipe

    @model_validator(mode="before")
    @classmethod
    def _split_methods(cls, values: Any) -> Any:
        return split_methods(values)

    @model_validator(mode="after")
    def _check_thresholds(self) -> Self:
        own = {name: self.threshold_of(name) for name, each in self.method_settings.items() if THRESHOLD in each}
        name = next((name for name, one in own.items() if one is not None), None)
        if name is not None and self.generate.engine != "hf":
            raise ValueError(
                f"method_settings.{name}: expected the engine hf with a {THRESHOLD}, got {self.generate.engine}"
            )
        return self

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        for section in self.evaluate:
            section.sampling(self.generate)
        return self

    @model_validator(mode="after")
    def _check_attack_names(self) -> Self:
        names = [attack.name for attack in self.fine_tuning_attacks]
        if len(set(names)) < len(names):
            raise ValueError(f"fine_tuning_attacks: expected a different name for each, got {', '.join(names)}")
        return self


def recommended_method(methods: Sequence[str], *, baseline: str) -> str:
    """Return the method that a report recommends by default: the first `balanced*`, else `derta`, else the last one.

    The baseline is not recommended, unless it is the only method.

    >>> recommended_method(["vanilla", "derta", "balanced_c5"], baseline="vanilla")
    'balanced_c5'
    >>> recommended_method(["derta", "rto"], baseline="derta"), recommended_method(["derta"], baseline="derta")
    ('rto', 'derta')
    """
    others = [method for method in methods if method != baseline]
    named = [method for method in others if method.startswith("balanced")] or [one for one in others if one == "derta"]
    return next(iter([*named, *reversed(others)]), baseline)


def parse_recipe(values: Any, *, where: str) -> Recipe:
    """Validate the values of a recipe.

    Raises:
        RecipeError: an unknown key (with the most similar valid key) or an invalid value.
    """
    if not isinstance(values, dict):
        raise RecipeError(f"{where}: expected a mapping of recipe keys, got {kind_of(values)}; see docs/cli.md")
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{where}: {format_fault(error.errors(include_url=False)[0])}") from error


def format_fault(details: ErrorDetails, *, start: type[Section] = Recipe) -> str:
    """Format one fault of the values of a recipe, or of another section `start`, in one line, with its key."""
    keys, section = walk(details["loc"], start=start)
    if details["type"] == "extra_forbidden":
        key = str(details["loc"][-1])
        path = ".".join([*keys, key])
        offer = f"did you mean {RENAMED[path]!r}?" if path in RENAMED else did_you_mean(key, section.model_fields)
        return f"unknown key `{path}`; {offer}"
    if isinstance(cause := details.get("ctx", {}).get("error"), RecipeError):
        return str(cause)
    return f"`{'.'.join(keys) or 'recipe'}`: {_format_type_error(details) or format_error_details(details)}"


def _format_type_error(details: ErrorDetails) -> str | None:
    """Format the error of a section or list with a value of another type, such as a key without a value; else None."""
    expected = _TYPES.get(details["type"])
    if expected is None:
        return None
    if details["input"] is None:
        return f"expected {expected}, got nothing; add it, or remove the key if it is optional"
    return f"expected {expected}, got {details['input']!r:.80}"


def load_recipe(path: Path | str, *, overrides: dict[str, Any] | None = None, env: Collection[str] = ()) -> Recipe:
    """Load a YAML recipe.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "recipe.yaml"
    ...     _ = path.write_text("{title: mine, model: {path: org/name}, data: {triples: [], helpful: []}}")
    ...     load_recipe(path, overrides={"seeds": [0, 1]}).seeds
    (0, 1)

    Args:
        path: The recipe file.
        overrides: Values by dotted key (`train.max_steps`) that replace those of the file.
        env: Environment variables that the recipe may use in paths, in addition to `DERTA_*`.

    Raises:
        RecipeError: the file is missing or not YAML, a key is unknown, or a value is invalid.
    """
    path, env = Path(path), check_names(env)
    return parse_recipe(recipe_values(path, overrides=overrides, env=env), where=str(path)).allow_env(env)


def recipe_values(path: Path, *, overrides: Mapping[str, Any] | None = None, env: Collection[str] = ()) -> Any:
    """Return the values of a recipe file that are not validated yet: with its included files, overrides and title.

    Raises:
        RecipeError: a file is missing or not YAML, or an override is below a value that is no mapping.
    """
    values = overridden_values(path, overrides=overrides, env=env)
    return {"title": path.stem, **values} if isinstance(values, dict) else values


def overridden_values(path: Path, *, overrides: Mapping[str, Any] | None = None, env: Collection[str] = ()) -> Any:
    """Return the values of a YAML file with its included files, and with overrides by dotted key.

    Raises:
        RecipeError: as in `recipe_values`.
    """
    values = read_values(path, env=env)
    for key, value in (overrides or {}).items():
        _override(values, key, value, where=str(path))
    return values


def _override(values: Any, key: str, value: Any, *, where: str) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        if isinstance(values, dict) and values.get(parent) is True:  # `lora: true`
            values[parent] = {}
        values = values.setdefault(parent, {}) if isinstance(values, dict) else None
    if not isinstance(values, dict):
        raise RecipeError(f"{where}: cannot set `{key}`: expected a mapping above `{last}`, got another kind of value")
    values[last] = value
