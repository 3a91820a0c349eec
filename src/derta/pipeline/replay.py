"""`derta replay`: the published outputs under our judges, beside the paper's figures."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path

from derta.judges import JUDGES, asks_model
from derta.metrics.curves import refusal_position_curves
from derta.paper.figures import load_figures
from derta.paper.replay import ReplayRow, replay
from derta.protocols import Display
from derta.records import Reply, Verdict


def replay_folder(folder: Path, *, display: Display = Display()) -> list[ReplayRow]:
    """Judge the published outputs of a folder; what is missing is logged and left out.

    Raises:
        DataError: the folder holds none of them.
    """
    judges = {name: JUDGES[name]() for name in JUDGES if not asks_model(name)}
    found = replay(folder, figures=load_figures(), judges=judges, positions=shares_begun)
    for line in found.left_out:
        display.logger.info(line)
    return found.rows


def shares_begun(judged: Iterable[tuple[Reply, Verdict]], positions: Sequence[int]) -> tuple[float, ...] | None:
    """The share of refusals begun by each position (in words where replies have no tokens); None without refusals."""
    curves = refusal_position_curves(judged, method="", name="")
    if not curves:
        return None
    [curve] = curves
    steps = [0.0, *curve.y]
    return tuple(steps[bisect_right(curve.x, position)] for position in positions)


def mean_absolute_difference(rows: Iterable[ReplayRow], *, measure: str) -> float | None:
    """The mean distance from the paper's figures, in points, over the files that have one."""
    differences = [abs(row.difference) for row in rows if row.measure == measure and row.difference is not None]
    return sum(differences) / len(differences) if differences else None
