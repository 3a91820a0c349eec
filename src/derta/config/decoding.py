"""Configuration of decoding: sampling, and the threshold of the refusal probability or its calibration."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Discriminator, Field, Tag, TypeAdapter, ValidationError, model_validator

from derta.config.sections import Section
from derta.errors import RecipeError
from derta.files import format_validation_error
from derta.sampling import Sampling
from derta.thresholds import Per


class CalibrationSection(Section):
    """Calibration of each model's threshold in a run, on benign answers that no calibrated method trains on.

    Attributes:
        false_alarm: Rate of false alarms on benign answers.
        per: What the rate counts: replies with an alarm at any position, or positions.
        by_depth: Calibrate a threshold for each range of depths.
        limit: Maximum number of held-out answers, and of unused counter examples; None: all.
    """

    false_alarm: float = Field(default=0.01, gt=0, lt=1)
    per: Per = "reply"
    by_depth: bool = False
    limit: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check_depths(self) -> Self:
        if self.by_depth and self.per != "reply":
            raise ValueError("expected a rate per reply with by_depth, got one per position; remove one of the two")
        return self


Probability = Annotated[float, Field(gt=0, le=1)]


def _kind(value: Any) -> str:
    if isinstance(value, dict | CalibrationSection):
        return "calibration"
    return "file" if isinstance(value, str) else "number"


ModelThreshold = Annotated[
    Annotated[CalibrationSection, Tag("calibration")] | Annotated[Probability, Tag("number")], Discriminator(_kind)
]
"""A threshold of a method: a number, or the calibration of its models."""
RecipeThreshold = Annotated[
    Annotated[CalibrationSection, Tag("calibration")]
    | Annotated[Probability, Tag("number")]
    | Annotated[str, Tag("file")],
    Discriminator(_kind),
]
"""A threshold of all models of a recipe: in addition the file of the only one."""

_METHOD_THRESHOLD: TypeAdapter[CalibrationSection | float | None] = TypeAdapter(ModelThreshold | None)


def method_threshold(value: Any, *, key: str) -> CalibrationSection | float | None:
    """Validate the threshold of an entry of `method_settings`.

    >>> method_threshold({"false_alarm": 0.02}, key="refusal_threshold").false_alarm
    0.02

    Raises:
        RecipeError: it is neither a number nor a calibration.
    """
    if isinstance(value, str):
        raise RecipeError(
            f"expected a number or a calibration, such as {{false_alarm: 0.01}}, got the text {value!r:.60}; a file is "
            "for `generate.refusal_threshold`",
            key=f"`{key}`",
        )
    try:
        return _METHOD_THRESHOLD.validate_python(value)
    except ValidationError as error:
        raise RecipeError(format_validation_error(error), key=f"`{key}`") from error


def sampling_settings(where: str, **values: Any) -> Sampling:
    """Validate settings of sampling and return them.

    >>> sampling_settings("generate", temperature=0.7, num_samples=4).numbers
    (0, 1, 2, 3)

    Args:
        where: What has the settings, for the message of an error.
        values: Fields of `Sampling`.

    Raises:
        RecipeError: a value is not valid, or there are several samples without a temperature.
    """
    try:
        return Sampling(**values)
    except ValidationError as error:
        raise RecipeError(f"{where}: {format_validation_error(error)}") from error
