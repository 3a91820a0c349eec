"""Goal files: bounds that a method must keep against a baseline and a reference method; see docs/frontier.md."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from derta.config.recipe_file import read_values
from derta.config.sections import Section, walk
from derta.errors import RecipeError, did_you_mean
from derta.files import format_error_details
from derta.results import AxisName

GoalMeasure = AxisName | Literal["attack", "length_ratio", "perplexity_ratio"]
"""A rate of the frontier; `attack`: attack success, or attacks not refused where no judge of harm was asked."""
Share = Annotated[float, Field(ge=0, le=1)]
RATIOS = ("length_ratio", "perplexity_ratio")


class Goal(Section):
    """A bound on one measure of the method, and on its difference from another method.

    Attributes:
        name: What the goal says.
        measure: The rate or ratio.
        sets: Names of attacks or datasets, or patterns such as `untrained *`; empty: all of the measure but those that
            the recipe leaves out of the means (`in_means: false`).
        requires: Attacks or datasets without which the goal is unmeasured.
        each: Judge every `set` or every `attack` (the mean of its variants), instead of the mean over them.
        against: The other method: `baseline`, `reference` or a name. Ratios are to it.
        at_most: Largest value of the method.
        at_least: Smallest value of the method.
        worse_by: Largest difference from the other method, in the worse direction.
        margin: Largest value that the worse end of the difference's 95 % interval may have. For a ratio, the largest
            distance of the worse end from 1; for `length_ratio` both ends count.
        keep: Smallest share of the reference's reduction of the baseline's rate that the method keeps.
        no_significant_loss: The method is not significantly worse than the other: paired test, Holm-corrected over all
            sets of the goal.
        after: Name or pattern of fine-tuning attacks; the methods are compared after them.
        beside: Show the measure without counting it.
    """

    name: str
    measure: GoalMeasure
    sets: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    each: Literal["set", "attack"] | None = None
    against: str | None = None
    at_most: float | None = None
    at_least: float | None = None
    worse_by: float | None = None
    margin: Annotated[float, Field(gt=0)] | None = 0.05
    keep: Share | None = None
    no_significant_loss: bool = False
    after: str | None = None
    beside: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.measure in RATIOS and (self.keep is not None or self.no_significant_loss or self.after or self.each):
            raise ValueError(f"a {self.measure} has `at_most`, `at_least` and `margin` only")
        if self.against is None and (self.worse_by is not None or self.no_significant_loss or self.measure in RATIOS):
            raise ValueError("expected `against` with a difference, a loss or a ratio, got none")
        if self.keep is not None and (self.each is not None or self.after is not None):
            raise ValueError("`keep` is a share of the mean over sets: remove `each` and `after`")
        if not self.beside and not self.no_significant_loss and not self._bounds:
            raise ValueError("expected one of at_most, at_least, worse_by, keep and no_significant_loss, got none")
        return self

    @property
    def _bounds(self) -> list[float]:
        values = (self.at_most, self.at_least, self.worse_by, self.keep)
        return [value for value in values if value is not None]


class Goals(Section):
    """A goal file: the method that is judged, the two that it is compared with, and the goals."""

    title: str = ""
    method: str
    baseline: str
    reference: str
    goals: tuple[Goal, ...] = Field(min_length=1)


def load_goals(path: Path) -> Goals:
    """Load a goal file.

    Raises:
        RecipeError: the file is missing or not YAML, a key is unknown, or a value is invalid.
    """
    values = read_values(path)
    try:
        return Goals.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        keys, section = walk(first["loc"], start=Goals)
        if first["type"] == "extra_forbidden":
            key = str(first["loc"][-1])
            hint = did_you_mean(key, section.model_fields)
            raise RecipeError(f"{path}: unknown key `{'.'.join([*keys, key])}`; {hint}") from error
        if keys and keys[-1] == "measure":
            names = [*get_args(AxisName), "attack", *RATIOS]
            hint = did_you_mean(str(first["input"]), names)
            raise RecipeError(f"{path}: `{'.'.join(keys)}`: unknown measure {first['input']!r:.80}; {hint}") from error
        raise RecipeError(f"{path}: `{'.'.join(keys) or 'goals'}`: {format_error_details(first)}") from error
