"""Models of a run: validated, trained, and loaded on first use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from os.path import isfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from derta.chat import ChatFormat, RefusalTokens, Turn, chat_format, refusal_tokens
from derta.config import ModelSection, OtherModel, Recipe
from derta.data.mixture import TrainingSet
from derta.data.preparation import PreparedData
from derta.engines import check_settings, engine_producer, load_engine
from derta.errors import EngineError, ModelError, RecipeError, install_advice
from derta.methods import Method, method_config, tune
from derta.protocols import Display, Engine
from derta.records import Prompt, Reply
from derta.run_folder import clean_up_training
from derta.sampling import GREEDY, Sampling
from derta.thresholds import read_threshold
from derta.train.tracking import project_name

if TYPE_CHECKING:
    from derta.engines.hf_engine import RefusalStarts
    from derta.train.config import DertaConfig


class Format(NamedTuple):
    """Input format of a recipe's model: its tokenizer with the chat template, and its refusal tokens."""

    chat: ChatFormat
    refusals: RefusalTokens


def load_format(recipe: Recipe, *, adapter: Path | None = None) -> Format:
    """Load the tokenizer, of an adapter if it is trained further, and validate it for training.

    Raises:
        ModelError: no model, no chat template, no EOS token, or a refusal word that the tokenizer cannot encode.
    """
    from derta.loading import load_tokenizer

    own = recipe.model.adapter if isinstance(recipe.model, OtherModel) else None
    tokenizer = load_tokenizer(
        recipe.model.path,
        adapter=own if adapter is None else str(adapter),
        trust_remote_code=recipe.model.trust_remote_code,
    )
    chat = chat_format(
        tokenizer,
        template=recipe.model.template,
        template_kwargs=recipe.model.template_kwargs,
        date=recipe.model.template_date,
        thinking=recipe.model.thinking,
    )
    return Format(chat, refusal_tokens(chat, recipe.model.refusal_words))


def shared_format(recipe: Recipe) -> Format:
    """Return the format of a recipe's model for validation; loaded again only if its files or settings change.

    Validation before a run needs it several times, and a large tokenizer takes seconds to load. Its tokenizer must not
    be changed.

    Raises:
        ModelError: as in `load_format`.
    """
    folder, template = Path(recipe.model.path), Path(recipe.model.template)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    files += [template] if isfile(template) else []  # noqa: PTH113 - Path.is_file raises on a long text
    stats = [(file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    key = f"{recipe.model.model_dump_json()} {stats}"
    if key not in _SHARED_FORMATS:
        _SHARED_FORMATS.clear()
        _SHARED_FORMATS[key] = load_format(recipe)
    return _SHARED_FORMATS[key]


_SHARED_FORMATS: dict[str, Format] = {}


def check_init_from(method: Method, init_from: Path | None) -> None:
    """Fail if the `init_from` of a method that needs one is missing, or if a method that needs none has one."""
    if method.init_from is None and init_from is not None:
        raise RecipeError(
            f"--init-from: expected none for {method.name}, which trains the recipe's model, got {init_from}"
        )
    if method.init_from is not None and init_from is None:
        raise RecipeError(f"{method.name}: expected --init-from, the folder of the {method.init_from} model, got none")
    if init_from and not any((init_from / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ModelError(f"{init_from}: expected a folder with a tuned model or adapter, found none; check the path")


def recipe_config(recipe: Recipe, method: Method, *, seed: int, output_dir: Path) -> DertaConfig:
    """Return the settings of one method of a recipe as a config.

    Experiment trackers show the recipe's title as the project, and the method with the seed as the name of the run,
    unless the recipe sets `project` and `run_name`.

    Raises:
        RecipeError: as in `derta.methods.method_config`.
    """
    names = {"project": project_name(recipe.title), "run_name": f"{method.name}-seed{seed}"}
    settings = {key: name for key, name in names.items() if key not in recipe.train.settings}
    settings |= recipe.settings_of(method.name)
    return method_config(method, recipe.train, model=recipe.model, seed=seed, output_dir=output_dir, settings=settings)


def train_method(
    recipe: Recipe,
    *,
    method: Method,
    seed: int,
    prepared: PreparedData,
    out: Path,
    init_from: Path | None = None,
    data: TrainingSet | None = None,
    display: Display = Display(),
) -> Path:
    """Train one method's model and return its folder; an existing model is returned without training.

    `data` is its training set; None: that of the prepared data.
    """
    if out.exists():
        clean_up_training(out)
        return out
    check_init_from(method, init_from)
    from derta.pipeline.training import training_progress

    chat, _ = load_format(recipe)
    config = recipe_config(recipe, method, seed=seed, output_dir=out)
    with training_progress(display, f"{method.name} seed {seed}: training") as callback:
        return tune(
            method,
            model=recipe.model.path,
            config=config,
            data=data or prepared.training_set(triples_per_unit=method.triples_per_unit, seed=seed),
            tokenizer=chat.tokenizer,
            out=out,
            lora=recipe.train.lora,
            init_from=init_from,
            callbacks=[callback],
        )


def check_engine(recipe: Recipe) -> None:
    """Validate the engine of the tuned models before any work starts.

    Raises:
        RecipeError: a setting that the recipe has in another section.
        EngineError: an unknown setting, a value that is not valid, or vLLM is not installed.
    """
    config = recipe.generate
    for setting in config.settings:
        if setting in engine_settings(recipe, adapter=None):
            raise RecipeError(
                f"generate.settings: expected no setting of another section, got {setting!r}; set it "
                "under model, train or generate"
            )
    check_settings(config.engine, config.settings)
    of_file = [method for method in recipe.methods if isinstance(recipe.threshold_of(method), str)]
    if of_file and isinstance(config.refusal_threshold, str):
        read_threshold(config.refusal_threshold)
        if len(of_file) * len(recipe.seeds) > 1 or recipe.fine_tuning_attacks:
            raise RecipeError(
                "generate.refusal_threshold: expected a number for a recipe with several models, got a file, which is "
                "of one model; {false_alarm: 0.01} calibrates each"
            )
    if config.engine == "vllm" and find_spec("vllm") is None:
        raise EngineError(
            f"generate.engine: expected the package vllm, found none; {install_advice('vllm')}, or use hf"
        )


def engine_settings(
    recipe: Recipe, *, adapter: str | None, refusal_threshold: float | str | None = None
) -> dict[str, Any]:
    """Return the engine's settings that follow from other parts of a recipe than `generate.settings`."""
    settings: dict[str, Any] = {
        "adapter": adapter,
        "template": recipe.model.template,
        "template_kwargs": recipe.model.template_kwargs,
        **_changed(recipe.model, "template_date", "thinking"),
        "dtype": recipe.generate.dtype,
        "refusal_words": recipe.model.refusal_words,
        "trust_remote_code": recipe.model.trust_remote_code,
    }
    if recipe.generate.engine == "hf":
        settings |= {"max_batch_tokens": recipe.generate.batch_tokens, "threads": recipe.train.rows.num_threads}
        settings["refusal_threshold"] = refusal_threshold
    return settings


def _changed(model: ModelSection, *names: str) -> dict[str, Any]:
    """Return the settings of a model that differ from their defaults."""
    return {name: getattr(model, name) for name in names if name in model.model_fields_set}


class LazyEngine:
    """Engine of a recipe that loads its model on first use, so that a finished stage loads none.

    Without a tuned model it loads the recipe's model, or one of its other models (`Recipe.asking`). Cached memory is
    returned to the devices before loading and on release, because vLLM runs in a separate process. `refusal_threshold`
    is a number or the path of a calibrated file.
    """

    def __init__(self, recipe: Recipe, model_path: Path | None, refusal_threshold: float | str | None = None) -> None:
        self._recipe = recipe
        self._model_path = model_path
        self._refusal_threshold = refusal_threshold
        self._engine: Engine | None = None

    def _load(self) -> Engine:
        if self._engine is None:
            from derta.loading import release_memory

            release_memory()
            path, settings = self._source()
            self._engine = load_engine(path, engine=self._recipe.generate.engine, **settings)
        return self._engine

    def producer(self) -> dict[str, str]:
        """Return the provenance of the replies, without loading the model."""
        path, settings = self._source()
        return engine_producer(path, engine=self._recipe.generate.engine, settings=settings)

    def _source(self) -> tuple[str, dict[str, Any]]:
        """Return the path of the model that is loaded, and its engine's settings."""
        recipe, tuned = self._recipe, None if self._model_path is None else str(self._model_path)
        adapter = tuned if recipe.train.lora is not None else None
        if isinstance(recipe.model, OtherModel):
            adapter = recipe.model.adapter
        path = recipe.model.path if tuned is None or adapter is not None else tuned
        settings = engine_settings(recipe, adapter=adapter, refusal_threshold=self._refusal_threshold)
        return path, settings | recipe.generate.settings

    def refusal_starts(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[RefusalStarts]:
        """Return what a threshold is calibrated on, as defined by the engine `hf`."""
        engine: Any = self._load()
        return engine.refusal_starts(prompts, continuations)

    def next_refusals(self, prompts: Sequence[Prompt], turns: Sequence[Turn]) -> list[list[float]]:
        """Return refusal probabilities by token, as defined by the engine `hf`."""
        engine: Any = self._load()
        return engine.next_refusals(prompts, turns)

    @property
    def chat(self) -> ChatFormat:
        """The chat format of the model, which is loaded."""
        engine: Any = self._load()
        return engine.chat

    @property
    def refusal_words(self) -> tuple[str, ...]:
        """The recipe's refusal words."""
        return self._recipe.model.refusal_words

    @property
    def forces(self) -> bool:
        """Whether the model decodes with a threshold."""
        return self._refusal_threshold is not None

    def force(self, threshold: Path) -> None:
        """Decode with the threshold in a file from now on; a loaded model stays loaded."""
        self._refusal_threshold = str(threshold)
        if self._engine is not None:
            from derta.engines.threshold import refusal_forcing

            engine: Any = self._engine
            path, settings = self._source()
            forcing = refusal_forcing(
                threshold, chat=engine.chat, words=self.refusal_words, model=path, adapter=settings["adapter"]
            )
            self._engine = replace(engine, forcing=forcing)

    def release(self) -> None:
        """Release the model, so that the next one can be trained on its device; the next call loads it again."""
        if self._engine is not None:
            from derta.loading import release_memory

            self._engine = None
            release_memory()

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, sampling: Sampling = GREEDY
    ) -> Iterator[Reply]:
        """Return replies, as defined by `Engine`."""
        return self._load().generate(prompts, max_new_tokens=max_new_tokens, sampling=sampling)

    def log_likelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[list[float]]:
        """Return log-likelihoods, as defined by `Engine`."""
        return self._load().log_likelihood(prompts, continuations)

    def refusal_probability(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[list[float]]:
        """Return refusal probabilities, as defined by `Engine`."""
        return self._load().refusal_probability(prompts, continuations)
