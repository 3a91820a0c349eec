"""Details of a run that its report shows beside the results: training, cost, judges, and how to repeat it."""

from __future__ import annotations

from typing import Literal

from derta.records import Measure, Record
from derta.stats import Rate


class TrainingLog(Record):
    """Values that the training of one model logged: `terms[name][i]` at `steps[i]`, None where a step has none.

    The names are those of `train_log.json`: `loss`, `loss_rto` and so on, and `refusal_probability`.
    """

    method: str
    seed: int
    steps: tuple[int, ...]
    terms: dict[str, tuple[float | None, ...]]


class ModelCost(Record):
    """Cost of one model; None where it was not logged.

    Attributes:
        steps: Optimizer steps of its training.
        seconds: Duration of its training, since its last start.
        tokens: Tokens that its training read.
        peak_memory_gib: Peak memory of its training, in GiB.
        replies: Number of its replies, and `reply_tokens` the generated tokens in them.
    """

    method: str
    seed: int
    steps: int | None = None
    seconds: float | None = None
    tokens: int | None = None
    peak_memory_gib: float | None = None
    replies: int = 0
    reply_tokens: int | None = None


class JudgeErrors(Record):
    """Errors of a judge on replies with human labels, from a calibration file in the run's folder.

    Attributes:
        labels: Name of the file of labels.
        recall: Share of the true replies that the judge finds; `specificity` that of the false ones it leaves.
        is_current: Whether the run's verdicts are by the same version of the judge.
    """

    judge: str
    measure: Measure
    labels: str
    recall: Rate
    specificity: Rate
    kappa: float | None
    is_current: bool


class Disagreement(Record):
    """How often two judges contradict each other: `count` of the `replies` that both scored.

    `about` is the measure of both, or `harmful_refusal`: one finds harm in a reply that the other says refuses at once.
    """

    first: str
    second: str
    about: Measure | Literal["harmful_refusal"]
    count: int
    replies: int
    kappa: float | None


class RunOrigin(Record):
    """How to repeat a run: its recipe as YAML, the commit, and the hashes of its input files.

    `variables` are the environment variables in its paths.
    """

    name: str
    recipe: str
    commit: str | None
    inputs: dict[str, str]
    variables: tuple[str, ...] = ()


class RunDetails(Record):
    """Details of the runs of a report."""

    training: tuple[TrainingLog, ...] = ()
    costs: tuple[ModelCost, ...] = ()
    judges: tuple[JudgeErrors, ...] = ()
    disagreements: tuple[Disagreement, ...] = ()
    origins: tuple[RunOrigin, ...] = ()
