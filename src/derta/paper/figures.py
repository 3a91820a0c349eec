"""The paper's figures on its published outputs, read from `figures.yaml`."""

from __future__ import annotations

from importlib.resources import files
from typing import Literal

import yaml

from derta.records import Record

OutputKind = Literal["answers", "completions", "attacks", "harmless", "labelled_refusals"]
Counted = Literal["correct", "harmful", "agreement", "refused", "partly_refused", "complied", "says_sorry"]


class Figure(Record):
    """One published file: how to read it, which judge counts what, and the paper's percentage, if it gives one."""

    file: str
    kind: OutputKind
    judge: str
    measure: Counted
    paper: float | None
    note: str = ""


class PositionFigure(Record):
    """One of the paper's refusal-position curves, and the published files that ours is drawn from."""

    name: str
    files: tuple[str, ...]
    paper: tuple[float, ...]


class Positions(Record):
    """The curves at the token positions `x`."""

    x: tuple[int, ...]
    curves: tuple[PositionFigure, ...]
    note: str


class Halves(Record):
    """What a row's half is told by, the hash of its request or of its reply, and how a judge's rules were chosen."""

    by: Literal["request", "reply"]
    note: str


class Figures(Record):
    """All that the paper says of its published outputs; `halves` says of each judge how its rules were chosen."""

    outputs: tuple[Figure, ...]
    halves: dict[str, Halves]
    refusal_positions: Positions


def load_figures() -> Figures:
    """The shipped figures.

    >>> load_figures().outputs[0].paper
    43.8
    """
    text = (files("derta.paper") / "figures.yaml").read_text(encoding="utf-8")
    return Figures.model_validate(yaml.safe_load(text))
