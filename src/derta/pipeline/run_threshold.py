"""Decode thresholds of a run's models: their benign answers, checked before training, and each model's own file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from derta.config import THRESHOLD, CalibrationSection, Recipe
from derta.data.preparation import PreparedData
from derta.errors import DataError, RecipeError, RunError
from derta.metrics.cuts import fewest_cases
from derta.pipeline.data import read_profile
from derta.pipeline.ingredients import num_counter
from derta.pipeline.likelihoods import answered, example_text
from derta.pipeline.model_checks import check_scored
from derta.pipeline.models import LazyEngine
from derta.pipeline.registry import Registry
from derta.pipeline.threshold import calibrate_engine
from derta.provenance import Producer, flat, hash_file, hash_value
from derta.records import Example, Reply
from derta.thresholds import RefusalThreshold, read_threshold

THRESHOLD_FILE = "threshold.json"


class BenignAnswers(NamedTuple):
    """Benign answers of a calibration: held-out ones, and those of counter examples that no calibrated model learns."""

    held_out: list[Example]
    counter: list[Example]

    @property
    def examples(self) -> list[Example]:
        """All of them."""
        return [*self.held_out, *self.counter]

    def first(self, limit: int | None) -> BenignAnswers:
        """Return the first `limit` of each kind; None: all."""
        return BenignAnswers(self.held_out[:limit], self.counter[:limit])


def calibrated_methods(recipe: Recipe) -> list[str]:
    """Return the methods of a recipe whose models decode with a threshold that the run calibrates."""
    return [method for method in recipe.methods if isinstance(recipe.threshold_of(method), CalibrationSection)]


def benign_answers(
    recipe: Recipe, prepared: PreparedData, *, seed: int, registry: Registry = Registry()
) -> BenignAnswers:
    """Return the answers on which the thresholds of a seed's models are calibrated, the same for all methods.

    They are those of `profile_examples`, or else the held-out helpful ones, and the counter examples that no model with
    a calibrated threshold is trained on with this seed.
    """
    others = prepared.held_out_examples if recipe.profile_examples is None else read_profile(recipe)
    methods = registry.all_methods(calibrated_methods(recipe))
    taken = max((num_counter(recipe, method, prepared=prepared) for method in methods), default=0)
    drawn = prepared.training_set(triples_per_unit=1, seed=seed)
    trained = {example.id for example in drawn.examples}
    held_out = [one for one in answered(others) if one.id not in trained]
    seen = trained | {example.id for example in held_out}
    counter = [one for one in answered(drawn.counter[taken:]) if one.id not in seen]
    return BenignAnswers(held_out, counter)


def check_calibrations(
    recipe: Recipe, prepared: PreparedData, *, registry: Registry = Registry(), lengths: bool = True
) -> None:
    """Validate, before any training, that there are enough benign answers for each calibrated threshold of a run.

    Args:
        recipe: The recipe.
        prepared: The prepared data.
        registry: The caller's methods.
        lengths: Check also that the model's template and positions admit the answers.

    Raises:
        RecipeError: there are too few; the message has the number that is needed.
        ModelError: the chat template refuses one, or it is too long.
    """
    methods = calibrated_methods(recipe)
    for seed in recipe.seeds if methods else ():
        found = benign_answers(recipe, prepared, seed=seed, registry=registry)
        for method in methods:
            section = recipe.threshold_of(method)
            assert isinstance(section, CalibrationSection)  # noqa: S101 - by the list of methods
            _check_number(section, found.first(section.limit), method=method, recipe=recipe)
        for name in dict.fromkeys(map(registry.weights_of, methods)) if lengths else ():
            check_scored(recipe.asking(name), [example_text(one) for one in found.examples])


def _check_number(section: CalibrationSection, found: BenignAnswers, *, method: str, recipe: Recipe) -> None:
    fewest = 1 if section.per == "position" else fewest_cases(section.false_alarm) * (2 if section.by_depth else 1)
    if len(found.examples) < fewest:
        kind = "held-out helpful" if recipe.profile_examples is None else "of profile_examples"
        raise RecipeError(
            f"refusal_threshold of {method}: expected at least {fewest} benign answers that no calibrated model is "
            f"trained on for a false-alarm rate of {section.false_alarm:g}, got {len(found.examples)} "
            f"({len(found.held_out)} {kind}, {len(found.counter)} unused counter examples); raise "
            "data.held_out_helpful, set profile_examples to a source of more, or use a higher rate"
        )


class Decoding(NamedTuple):
    """How a model of a run decodes: with a given threshold, without one, or with one that is calibrated.

    A calibrated threshold is kept in `path`, and `answers` are those that it is calibrated on.
    """

    threshold: CalibrationSection | float | str | None
    path: Path
    answers: BenignAnswers

    @classmethod
    def of(
        cls, recipe: Recipe, prepared: PreparedData, *, method: str, seed: int, home: Path, registry: Registry
    ) -> Decoding:
        """Return the decoding of a method's model with this seed, whose folder is `home`."""
        threshold, answers = recipe.threshold_of(method), BenignAnswers([], [])
        if isinstance(threshold, CalibrationSection):
            answers = benign_answers(recipe, prepared, seed=seed, registry=registry).first(threshold.limit)
        return cls(threshold, home / THRESHOLD_FILE, answers)

    def engine(self, recipe: Recipe, path: Path | None, *, recorded: Producer = MappingProxyType({})) -> LazyEngine:
        """Return the engine of the model in `path` with its threshold; without one if that must still be calibrated.

        `recorded` identifies weights that were deleted after their evaluation.
        """
        if not isinstance(self.threshold, CalibrationSection):
            return LazyEngine(recipe, path, self.threshold)
        engine = LazyEngine(recipe, path)
        provenance = self._provenance({**engine.producer(), **recorded}, words=engine.refusal_words)
        if self.path.exists() and read_threshold(self.path).calibration == provenance:
            engine.force(self.path)
        return engine

    def is_missing(self, engine: LazyEngine) -> bool:
        """Return whether the threshold of an engine of `engine` must still be calibrated."""
        return isinstance(self.threshold, CalibrationSection) and not engine.forces

    def calibrate(self, engine: LazyEngine, *, model: str) -> RefusalThreshold:
        """Calibrate the threshold of an engine's model, write its file, and decode with it from now on.

        Raises:
            DataError: the model refuses too many of the benign answers; the message names the model.
        """
        assert isinstance(self.threshold, CalibrationSection)  # noqa: S101 - of `is_missing`
        producer = engine.producer()
        identity = {key: producer[key] for key in ("model", "adapter") if key in producer}
        try:
            found = calibrate_engine(engine, self.answers.examples, self.threshold, identity=identity)
        except DataError as error:
            raise DataError(f"{model}: {error}") from error
        found = found.model_copy(update={"calibration": self._provenance(producer, words=engine.refusal_words)})
        found.write(self.path)
        engine.force(self.path)
        return found

    def _provenance(self, producer: Producer, *, words: Sequence[str]) -> str:
        """Return a hash of all that the threshold depends on; `producer` is that of the model without a threshold."""
        assert isinstance(self.threshold, CalibrationSection)  # noqa: S101 - others are not calibrated
        settings = self.threshold.model_dump(mode="json", exclude={"limit"})
        return hash_value([dict(producer), [one.id for one in self.answers.examples], settings, list(words)])


def threshold_identity(value: CalibrationSection | float | str | None) -> str | None:
    """Return a model's threshold as text for `run.json`: a number, the hash of a file, or the settings as JSON."""
    if isinstance(value, CalibrationSection):
        return value.model_dump_json()
    return hash_file(Path(value)) if isinstance(value, str) else None if value is None else str(value)


def check_replies_threshold(home: Path, identity: str | None, replies: Sequence[Reply], *, model: str) -> None:
    """Fail if a model's replies were not generated with the threshold of its entry in `run.json`.

    They were not if a run was stopped after its recipe changed.

    Args:
        home: The model's folder.
        identity: The threshold's `threshold_identity`.
        replies: The model's replies; those without a producer are not checked.
        model: The model's name in the message.

    Raises:
        RunError: they were generated with another threshold, or the calibrated file is missing or of other settings.
    """
    path, expected = home / THRESHOLD_FILE, identity
    if _is_calibrated(identity):
        expected = hash_file(path) if path.exists() and _has_settings(read_threshold(path), identity) else None
    wanted = flat({THRESHOLD: expected}).get(THRESHOLD)
    is_missing = wanted is None and identity is not None
    if is_missing or any(one.producer.get(THRESHOLD) != wanted for one in replies if one.producer):
        raise RunError(
            f"{model}: expected replies with the refusal threshold of its recipe, got others; `derta run` generates "
            "them again"
        )


def _is_calibrated(identity: str | None) -> bool:
    return identity is not None and identity.startswith("{")


def _has_settings(found: RefusalThreshold, identity: str | None) -> bool:
    section = CalibrationSection.model_validate_json(identity or "{}")
    return (found.false_alarm, found.per) == (section.false_alarm, section.per) and (
        section.by_depth or not found.later
    )


def threshold_notes(home: Path, identity: str | None, *, model: str) -> list[str]:
    """Return a note on the calibrated threshold of a model; an empty list without a calibration."""
    if not _is_calibrated(identity):
        return []
    found = read_threshold(home / THRESHOLD_FILE)
    later = "".join(f", {value:.3g} after {first}" for first, value in found.later)
    case = "replies" if found.per == "reply" else "positions"
    unused = ""
    if min(found.threshold, *(value for _, value in found.later), 1) >= 1 / 2:
        unused = " Where it is reached, greedy decoding nearly always refuses by itself."
    return [
        f"{model}: refusals are forced from a probability of {found.threshold:.3g}{later} on: {found.alarms} of "
        f"{found.cases} benign {case} reach it (95 % interval {found.low:.1%} to {found.high:.1%}, asked for "
        f"{found.false_alarm:.1%}).{unused}"
    ]
