"""Configuration of the replay: the paper's figures for each published output, parsed from `figures.yaml`."""

from __future__ import annotations

from importlib.resources import files
from typing import Literal

import yaml
from pydantic import Field

from derta.records import Record

OutputKind = Literal["answers", "completions", "attacks", "harmless", "labelled_refusals"]
FigureMeasure = Literal["correct", "harmful", "agreement", "refused", "partly_refused", "complied", "says_sorry"]


class Figure(Record):
    """Configuration of one published file: its format, judge and measure, and the paper's percentage.

    `paper` is None where the paper reports no percentage.
    """

    file: str
    kind: OutputKind
    judge: str
    measure: FigureMeasure
    paper: float | None
    note: str = ""


class PositionFigure(Record):
    """One of the paper's refusal-position curves, and the published files that our curve is computed from."""

    name: str
    files: tuple[str, ...]
    paper: tuple[float, ...]


class RefusalPositions(Record):
    """The refusal-position curves at the token positions `x`."""

    x: tuple[int, ...]
    curves: tuple[PositionFigure, ...]
    note: str


class Halves(Record):
    """The split of a file's rows into two halves, by the hash of the request or of the reply.

    `note` documents how the rules of the judge were chosen.
    """

    by: Literal["request", "reply"]
    note: str


class Task(Record):
    """An attack or test of the paper: its judge, its measures, and the spellings of its name in paths."""

    judge: str
    measures: tuple[FigureMeasure, ...]
    spellings: tuple[str, ...]


class Results(Record):
    """The paper's tables of results, for the files of its authors whose paths name a task, a model and a method.

    `models` and `methods` are the spellings of each name in paths, `paper` the percentages by model, method and
    measure of a task (`gsm8k`, or `xstest.says_sorry` for one of several measures), and `positions` the shares of
    refusals by method, of `positions_model`.
    """

    tasks: dict[str, Task] = Field(default_factory=dict)
    models: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    methods: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    paper: dict[str, dict[str, dict[str, float]]] = Field(default_factory=dict)
    positions_model: str = ""
    positions: dict[str, tuple[float, ...]] = Field(default_factory=dict)


class Figures(Record):
    """The paper's figures for all published outputs, with the `halves` of each judge by name."""

    outputs: tuple[Figure, ...]
    halves: dict[str, Halves]
    refusal_positions: RefusalPositions
    results: Results = Results()


def load_figures() -> Figures:
    """Load and validate the figures shipped with the package.

    >>> load_figures().outputs[0].paper
    43.8
    """
    text = (files("derta.paper") / "figures.yaml").read_text(encoding="utf-8")
    return Figures.model_validate(yaml.safe_load(text))
