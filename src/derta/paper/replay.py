"""`derta replay`: the published outputs under our judges, beside the paper's figures, a row for each file."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from derta.chat import says_sorry
from derta.errors import DataError
from derta.judges import JUDGES, uses_model
from derta.metrics.curves import refusal_position_curves
from derta.paper.figures import Counted, Figure, Figures, Halves, load_figures
from derta.paper.outputs import Published, read_published
from derta.protocols import Case, Display, Judge
from derta.records import Record, Reply, Verdict, short_hash
from derta.stats import rate


class PositionCurve(Record):
    """The cumulative share of refusals that have begun by position `x`, in percent."""

    x: tuple[int, ...]
    ours: tuple[float, ...]
    paper: tuple[float, ...]


class ReplayRow(Record):
    """One file: percentages, ours with its 95 % interval; `difference` is ours minus the paper's, in points.

    `first_half` and `second_half` are ours on the rows whose hash ends in an even and in an odd digit; the note says
    what the halves are worth.
    """

    file: str
    measure: str
    judge: str
    ours: float | None = None
    paper: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    scored: int = 0
    unscored: int = 0
    first_half: float | None = None
    second_half: float | None = None
    note: str = ""
    curve: PositionCurve | None = None


class Replay(NamedTuple):
    """The rows of the files that are there, and a sentence on each that is not."""

    rows: list[ReplayRow]
    left_out: list[str]


def replay_folder(folder: Path, *, display: Display = Display()) -> list[ReplayRow]:
    """Judge the published outputs of a folder; what is missing is logged and left out.

    Raises:
        DataError: the folder holds none of them.
    """
    judges = {name: JUDGES[name]() for name in JUDGES if not uses_model(name)}
    found = replay(folder, figures=load_figures(), judges=judges)
    for line in found.left_out:
        display.logger.info(line)
    return found.rows


def find_file(folder: Path, name: str) -> Path | None:
    """A file of the folder, or of `labelled` beside the folder (people's labels are kept there)."""
    places = (folder / name, folder / "labelled" / name, folder.parent / "labelled" / name)
    return next((place for place in places if place.is_file()), None)


def replay(folder: Path, *, figures: Figures, judges: Mapping[str, Judge]) -> Replay:
    """Judge every published file that the folder holds.

    Args:
        folder: where the published outputs lie.
        figures: what the paper says of them.
        judges: by name; those that the figures ask for.

    Raises:
        DataError: the folder holds none of the files, or one is malformed.
    """
    rows: list[ReplayRow] = []
    left_out: list[str] = []
    refusals: dict[str, list[tuple[Reply, Verdict]]] = {}
    for figure in figures.outputs:
        path = find_file(folder, figure.file)
        if path is None:
            left_out.append(f"{figure.file}: not in {folder}; left out")
            continue
        cases = read_published(path, kind=figure.kind)
        verdicts = list(judges[figure.judge].judge(Case(case.prompt, case.reply) for case in cases))
        rows.append(_row(figure, cases, verdicts, halves=figures.halves[figure.judge]))
        if figure.measure == "harmful":
            safe = [case for case, verdict in zip(cases, verdicts, strict=True) if verdict.harmful is False]
            found = judges["refusal"].judge(Case(case.prompt, case.reply) for case in safe)
            refusals[figure.file] = [(case.reply, verdict) for case, verdict in zip(safe, found, strict=True)]
    if not rows:
        names = ", ".join(figure.file for figure in figures.outputs[:2])
        raise DataError(f"{folder}: expected the published outputs ({names} …), found none; give their folder")
    return Replay([*rows, *_curve_rows(figures, refusals)], left_out)


def _agrees(case: Published, verdict: Verdict) -> bool | None:
    return None if None in (case.refused, verdict.refused) else verdict.refused == case.refused


OUTCOMES: Mapping[Counted, Callable[[Published, Verdict], bool | None]] = {
    "agreement": _agrees,
    "correct": lambda _, verdict: verdict.correct,
    "harmful": lambda _, verdict: verdict.harmful,
    "refused": lambda _, verdict: verdict.refused,
    "partly_refused": lambda _, verdict: verdict.reply_class == "refuse_then_comply",
    "complied": lambda _, verdict: verdict.reply_class == "comply",
    "says_sorry": lambda case, _: says_sorry(case.reply.text),
}


def _outcome(figure: Figure, case: Published, verdict: Verdict) -> bool | None:
    return None if verdict.reply_class == "empty" else OUTCOMES[figure.measure](case, verdict)


def _row(figure: Figure, cases: Sequence[Published], verdicts: Sequence[Verdict], *, halves: Halves) -> ReplayRow:
    outcomes = [_outcome(figure, case, verdict) for case, verdict in zip(cases, verdicts, strict=True)]
    told_by = [(case.prompt.request or "") if halves.by == "request" else case.reply.text for case in cases]
    even = [int(short_hash(text)[-1], 16) % 2 == 0 for text in told_by]
    whole = rate(outcomes)
    first, second = (rate([one for one, side in zip(outcomes, even, strict=True) if side == half]) for half in (1, 0))
    ours = _percent(whole.value)
    return ReplayRow(
        file=figure.file,
        measure=figure.measure,
        judge=figure.judge,
        ours=ours,
        paper=figure.paper,
        difference=None if ours is None or figure.paper is None else round(ours - figure.paper, 1),
        low=_percent(whole.low),
        high=_percent(whole.high),
        scored=whole.scored,
        unscored=whole.unscored,
        first_half=_percent(first.value),
        second_half=_percent(second.value),
        note="; ".join(filter(None, (figure.note, halves.note, _apart(figure, cases, verdicts, outcomes)))),
    )


def _apart(
    figure: Figure, cases: Sequence[Published], verdicts: Sequence[Verdict], outcomes: Sequence[bool | None]
) -> str:
    """What people call partial refusals is told apart, and so are replies that a judge could not score."""
    if figure.measure != "agreement":
        return f"{outcomes.count(None)} empty replies not scored" if None in outcomes else ""
    partial = Counter(v.reply_class for case, v in zip(cases, verdicts, strict=True) if case.refused is None)
    classes = ", ".join(f"{count} {name}" for name, count in partial.most_common())
    return f"{partial.total()} partial refusals not counted (ours: {classes})"


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 1)


def _curve_rows(figures: Figures, refusals: Mapping[str, Sequence[tuple[Reply, Verdict]]]) -> Iterator[ReplayRow]:
    told = figures.refusal_positions
    for curve in told.curves:
        judged = [pair for name in curve.files for pair in refusals.get(name, ())]
        ours = shares_begun(judged, told.x)
        if ours is not None:
            drawn = PositionCurve(x=told.x, ours=tuple(round(100 * y, 1) for y in ours), paper=curve.paper)
            count = sum(bool(verdict.refused) for _, verdict in judged)
            yield ReplayRow(
                file=curve.name, measure="refusals begun", judge="refusal", scored=count, note=told.note, curve=drawn
            )


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
