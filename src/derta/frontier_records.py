"""Records of the frontier: rates of methods on axes, their differences, and the Pareto front."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from derta.records import Record

AxisName = Literal[
    "attack_success", "attack_not_refused", "over_refusal", "malformed_attack", "malformed_benign", "helpfulness"
]


class FrontierAxis(Record):
    """Mean rate over sets of prompts that all methods answered.

    Attributes:
        judges: The judges whose verdicts it counts.
        sets: The attacks or datasets of the mean. The variants of an attack weigh as much as another attack.
        left_out: The other attacks and datasets of the suite, with the reason.
        prompts: Prompts that every method answered; `prompts_left_out` are the others of these sets.
    """

    name: AxisName
    judges: tuple[str, ...]
    sets: tuple[str, ...]
    left_out: dict[str, str]
    prompts: int
    prompts_left_out: int


class FrontierRate(Record):
    """Rate of one method on an axis, with its 95 % interval by prompt over all seeds; None if nothing was scored."""

    value: float | None
    low: float | None
    high: float | None
    scored: int
    unscored: int
    unanswered: int


class FrontierDifference(Record):
    """Paired difference of a method's rate to the baseline's (method - baseline), with its 95 % interval."""

    value: float
    low: float
    high: float


class FrontierPoint(Record):
    """Rates of one method, seeds pooled.

    Attributes:
        differences: The differences to the baseline's rates, on the prompts scored for both; empty for the baseline.
        pareto: Whether no other method is at least as good on all compared axes and better on one, by the values; None
            if fewer than two axes could be compared.
        dominated_by: Methods that are at least as good on all compared axes, and significantly better on one: paired
            test, Holm-corrected over all pairs of methods and compared axes.
    """

    method: str
    seeds: tuple[int, ...]
    rates: dict[AxisName, FrontierRate]
    differences: dict[AxisName, FrontierDifference] = Field(default_factory=dict)
    pareto: bool | None = None
    dominated_by: tuple[str, ...] = ()


class AnswerLength(Record):
    """Mean number of generated tokens of a method's answers to the prompts of one benign set.

    Attributes:
        ratio: The mean as a multiple of the baseline's, on the prompts that both answered, with its interval; None for
            the baseline.
        cut_off: Share of the replies that reached the token limit.
        in_means: Whether a mean over sets counts it.
    """

    method: str
    name: str
    tokens: float
    ratio: float | None
    low: float | None
    high: float | None
    replies: int
    cut_off: float
    in_means: bool = True


class Frontier(Record):
    """Attack success against over-refusal against helpfulness: one point for each method.

    `compared` has the axes on which one method can dominate another. `baseline` is the method of the ratios in
    `lengths`.
    """

    baseline: str
    axes: tuple[FrontierAxis, ...]
    compared: tuple[AxisName, ...]
    points: tuple[FrontierPoint, ...]
    lengths: tuple[AnswerLength, ...] = ()
