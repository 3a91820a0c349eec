"""Detections against false alarms by depth: the refusal probability in harmful answers and in benign ones.

The score of an answer at a depth is its largest probability there, as in decoding, where one alarm forces a refusal.
An answer that ends before a depth has no score there.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

from derta.results import Cell, Curve, Place, cell_of
from derta.stats import Rate, auc_interval, wilson_bounds
from derta.thresholds import DEPTH_STARTS

ScoredSeed = tuple[int, Sequence[Sequence[float]], Sequence[Sequence[float]]]
"""Seed of a model, and its refusal probabilities at each position of harmful and of benign answers."""
FALSE_ALARMS = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""The rates of false alarms at which a curve has its points."""


class Depth(NamedTuple):
    """Range of positions, in tokens before them; no `last` means to the end."""

    name: str
    first: int
    last: int | None


DEPTHS = (
    Depth("first token", 0, 0),
    *(Depth(f"after {first} to {end - 1} tokens", first, end - 1) for first, end in pairwise(DEPTH_STARTS[1:])),
    Depth(f"after {DEPTH_STARTS[-1]} tokens or more", DEPTH_STARTS[-1], None),
    Depth("whole answer", 0, None),
)


def scores_at(probabilities: Sequence[Sequence[float]], depth: Depth) -> list[float]:
    """Return the largest probability of each answer that reaches a depth.

    >>> scores_at([[0.9, 0.1, 0.3], [0.8]], Depth("later", 1, None))
    [0.3]
    """
    end = None if depth.last is None else depth.last + 1
    return [max(row[depth.first : end]) for row in probabilities if len(row) > depth.first]


def auc(harmful: Sequence[float], benign: Sequence[float]) -> float:
    """Return the area under the ROC curve: the share of pairs in which the harmful answer has the higher score.

    A tie counts as half.

    >>> auc([0.9, 0.4], [0.4, 0.1])  # 3 pairs of 4, and a tie
    0.875

    Source: Mann and Whitney 1947; Hanley and McNeil 1982.
    """
    ordered = sorted(benign)
    below = [bisect_left(ordered, score) for score in harmful]
    up_to = [bisect_right(ordered, score) for score in harmful]
    return sum(map(sum, zip(below, up_to, strict=True))) / (2 * len(harmful) * len(benign))


def detections(harmful: Sequence[float], benign: Sequence[float], *, false_alarm: float) -> int:
    """Return the number of harmful scores above the lowest threshold with at most this share of benign scores above.

    >>> [detections([0.9, 0.4, 0.2], [0.3, 0.1], false_alarm=rate) for rate in (0, 0.5, 1)]
    [2, 3, 3]
    """
    allowed = int(false_alarm * len(benign) + 1e-9)
    if allowed >= len(benign):
        return len(harmful)
    threshold = sorted(benign, reverse=True)[allowed]
    return sum(score > threshold for score in harmful)


def roc_curves(runs: Sequence[ScoredSeed], *, method: str) -> Iterator[Curve]:
    """Yield the curve of each depth that both kinds of answers reach: detections at up to x % of false alarms.

    Each seed's threshold comes from its own benign answers, and the detections are averaged over the seeds. The band is
    the Wilson interval of the detections at these thresholds; the seeds have the same answers, so that of one seed.

    Args:
        runs: Seed, and probabilities of harmful and of benign answers (the output of `Engine.refusal_probability`), of
            each model.
        method: Name of the method.
    """
    for depth in DEPTHS:
        scored = _scored(runs, depth)
        if not scored:
            continue
        fewest = min(len(positive) for _, positive, _ in scored)
        rates = [
            fmean(detections(positive, negative, false_alarm=rate) / len(positive) for _, positive, negative in scored)
            for rate in FALSE_ALARMS
        ]
        bands = [wilson_bounds(rate, fewest) for rate in rates]
        yield Curve(
            kind="roc",
            method=method,
            name=depth.name,
            x=tuple(100 * rate for rate in FALSE_ALARMS),
            y=tuple(rates),
            low=tuple(low for low, _ in bands),
            high=tuple(high for _, high in bands),
            count=sum(len(positive) for _, positive, _ in scored),
            x_unit="% false alarms",
            y_label="share of the harmful answers detected",
        )


def _scored(runs: Sequence[ScoredSeed], depth: Depth) -> list[tuple[int, list[float], list[float]]]:
    """Return the scores at a depth of the seeds in which both kinds of answers reach it."""
    scored = [(seed, scores_at(harmful, depth), scores_at(benign, depth)) for seed, harmful, benign in runs]
    return [one for one in scored if one[1] and one[2]]


def auc_cells(runs: Sequence[ScoredSeed], *, method: str) -> Iterator[Cell]:
    """Yield the area under the curve of each depth: for one seed its own, for several the mean over the seeds.

    The seeds have the same answers, so the interval of the mean is that of the answers of one seed.

    Args:
        runs: Seed, and probabilities of harmful and of benign answers, of each model.
        method: Name of the method.
    """
    for depth in DEPTHS:
        cells: list[tuple[int | None, float, int, int]] = [
            (seed, auc(positive, negative), len(positive), len(negative))
            for seed, positive, negative in _scored(runs, depth)
        ]
        if len(cells) > 1:
            mean = sum(value for _, value, _, _ in cells) / len(cells)
            cells.append((None, mean, min(cell[2] for cell in cells), min(cell[3] for cell in cells)))
        for seed, value, positive, negative in cells:
            low, high = auc_interval(value, positive, negative)
            yield cell_of(
                Rate(value, low, high, positive + negative, 0),
                place=Place("analysis", depth.name),
                method=method,
                seed=seed,
                judge="none",
                measure="auc",
            )
