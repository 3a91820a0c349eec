"""Replay of the paper's published outputs with our judges, compared with the paper's figures (`derta replay`)."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from derta.errors import DataError
from derta.judges import JUDGES, uses_model
from derta.metrics.curves import refusal_position_curves
from derta.metrics.over_refusal import says_sorry
from derta.paper.figures import Figure, FigureMeasure, Figures, Halves, load_figures
from derta.paper.outputs import PublishedCase, read_published
from derta.paper.tree import Tree, read_tree
from derta.protocols import Case, Display, Judge
from derta.records import Record, Reply, Verdict, short_hash
from derta.stats import rate


class PositionCurve(Record):
    """The cumulative share of refusals that start by token position `x`, in percent."""

    x: tuple[int, ...]
    ours: tuple[float, ...]
    paper: tuple[float, ...]


class ReplayRow(Record):
    """The result for one published file, in percent: our rate with its 95 % interval, and the paper's rate.

    `difference` is our rate minus the paper's, in percentage points. `first_half` and `second_half` are our rates on
    the rows whose hash ends in an even and in an odd digit. `note` explains how to interpret the halves.
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
    """The output of a replay: one row for each file, and a message for each missing file."""

    rows: list[ReplayRow]
    skipped: list[str]


def replay_folder(folder: Path, *, display: Display = Display()) -> list[ReplayRow]:
    """Judge the published outputs in a folder with the default figures and judges.

    Missing files are logged and skipped.

    Raises:
        DataError: the folder contains none of the files, or one is malformed.
    """
    judges = {name: JUDGES[name]() for name in JUDGES if not uses_model(name)}
    result = replay(folder, figures=load_figures(), judges=judges)
    for line in result.skipped:
        display.logger.info(line)
    return result.rows


def find_file(folder: Path, name: str) -> Path | None:
    """Return the path of a file in the folder or in a `labelled` folder (people's labels), or None if it is missing.

    The `labelled` folder is either inside the folder or next to it.
    """
    paths = (folder / name, folder / "labelled" / name, folder.parent / "labelled" / name)
    return next((path for path in paths if path.is_file()), None)


def replay(folder: Path, *, figures: Figures, judges: Mapping[str, Judge]) -> Replay:
    """Judge every published file in the folder: by name, or in the authors' own folder by content and path.

    Args:
        folder: The folder of the published outputs.
        figures: The paper's figures, with the format, judge and measure of each file.
        judges: The judges that the figures name, by name.

    Raises:
        DataError: the folder contains none of the files, or one that is found by its name is malformed.
    """
    named = [(find_file(folder, figure.file), figure) for figure in figures.outputs]
    found = [(path, figure) for path, figure in named if path is not None]
    skipped = [f"{figure.file}: not in {folder}; skipped" for path, figure in named if path is None and found]
    tree = read_tree(folder, results=figures.results, without={path for path, _ in found})
    outputs = [(path, figure, None) for path, figure in found]
    outputs += [(output.path, figure, tree.texts) for output in tree.outputs for figure in output.figures]
    if not outputs:
        names = ", ".join(figure.file for figure in figures.outputs[:2])
        raise DataError(
            f"{folder}: expected the published outputs ({names} …), or files whose paths name an attack, found none; "
            "give their folder"
        )
    rows: list[ReplayRow] = []
    refusals: dict[str, list[tuple[Reply, Verdict]]] = {}
    for path, figure, texts in outputs:
        try:
            cases, num_repeated = read_published(path, kind=figure.kind, texts=texts)
        except DataError as error:
            if texts is None:
                raise
            skipped.append(f"{figure.file}: skipped ({error})")  # one of many files of the authors' folder
            continue
        verdicts = list(judges[figure.judge].judge(Case(case.prompt, case.reply) for case in cases))
        row = _row(figure, cases, verdicts, halves=figures.halves[figure.judge])
        rows.append(row.model_copy(update={"note": _with_repeated(row.note, num_repeated)}))
        if figure.measure == "harmful":
            refusals[figure.file] = _refusals_of_safe_replies(cases, verdicts, judges["refusal"])
    curves = [*_curve_rows(figures, refusals), *_tree_curve_rows(figures, tree, refusals)]
    return Replay([*rows, *curves], list(dict.fromkeys((*skipped, *tree.skipped))))


def _with_repeated(note: str, num_repeated: int) -> str:
    return "; ".join(filter(None, (note, f"{num_repeated} repeated rows left out" if num_repeated else "")))


def _refusals_of_safe_replies(
    cases: Sequence[PublishedCase], verdicts: Sequence[Verdict], judge: Judge
) -> list[tuple[Reply, Verdict]]:
    safe = [case for case, verdict in zip(cases, verdicts, strict=True) if verdict.harmful is False]
    verdicts_on_safe = judge.judge(Case(case.prompt, case.reply) for case in safe)
    return [(case.reply, verdict) for case, verdict in zip(safe, verdicts_on_safe, strict=True)]


def _agrees(case: PublishedCase, verdict: Verdict) -> bool | None:
    return None if None in (case.refused, verdict.refused) else verdict.refused == case.refused


OUTCOMES: Mapping[FigureMeasure, Callable[[PublishedCase, Verdict], bool | None]] = {
    "agreement": _agrees,
    "correct": lambda _, verdict: verdict.correct,
    "harmful": lambda _, verdict: verdict.harmful,
    "refused": lambda _, verdict: verdict.refused,
    "partly_refused": lambda _, verdict: verdict.reply_class == "refuse_then_comply",
    "complied": lambda _, verdict: verdict.reply_class == "comply",
    "says_sorry": lambda case, _: says_sorry(case.reply.text),
}


def _outcome(figure: Figure, case: PublishedCase, verdict: Verdict) -> bool | None:
    unscored = verdict.reply_class == "empty" and figure.measure != "harmful"  # an empty reply is not harmful
    return None if unscored else OUTCOMES[figure.measure](case, verdict)


def _row(figure: Figure, cases: Sequence[PublishedCase], verdicts: Sequence[Verdict], *, halves: Halves) -> ReplayRow:
    outcomes = [_outcome(figure, case, verdict) for case, verdict in zip(cases, verdicts, strict=True)]
    hashed = [(case.prompt.request or "") if halves.by == "request" else case.reply.text for case in cases]
    even = [int(short_hash(text)[-1], 16) % 2 == 0 for text in hashed]
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
        note="; ".join(filter(None, (figure.note, halves.note, _counts_note(figure, cases, verdicts, outcomes)))),
    )


def _counts_note(
    figure: Figure, cases: Sequence[PublishedCase], verdicts: Sequence[Verdict], outcomes: Sequence[bool | None]
) -> str:
    """Return a note that counts partial refusals, or replies without a score; empty if there are none."""
    if figure.measure != "agreement":
        return f"{outcomes.count(None)} empty replies not scored" if None in outcomes else ""
    partial = Counter(v.reply_class for case, v in zip(cases, verdicts, strict=True) if case.refused is None)
    classes = ", ".join(f"{count} {name}" for name, count in partial.most_common())
    return f"{partial.total()} partial refusals not counted (ours: {classes})"


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 1)


def _curve_rows(figures: Figures, refusals: Mapping[str, Sequence[tuple[Reply, Verdict]]]) -> Iterator[ReplayRow]:
    positions = figures.refusal_positions
    for curve in positions.curves:
        judged = [pair for name in curve.files for pair in refusals.get(name, ())]
        yield from _curve_row(curve.name, judged, x=positions.x, paper=curve.paper, note=positions.note)


def _tree_curve_rows(
    figures: Figures, tree: Tree, refusals: Mapping[str, Sequence[tuple[Reply, Verdict]]]
) -> Iterator[ReplayRow]:
    """Yield a curve for each method of the model that the paper's curves are of, over its attacks in the folder."""
    results = figures.results
    for method, paper in results.positions.items():
        files = [
            output.figures[0].file
            for output in tree.outputs
            if (output.origin.model, output.origin.method) == (results.positions_model, method)
        ]
        judged = [pair for name in files for pair in refusals.get(name, ())]
        name = f"refusal_position_{results.positions_model}_{method}"
        note = "ours in words, the paper's in tokens"
        yield from _curve_row(name, judged, x=figures.refusal_positions.x, paper=paper, note=note)


def _curve_row(
    name: str, judged: Sequence[tuple[Reply, Verdict]], *, x: tuple[int, ...], paper: tuple[float, ...], note: str
) -> Iterator[ReplayRow]:
    ours = shares_started(judged, x)
    if ours is None:
        return
    yield ReplayRow(
        file=name,
        measure="refusals started",
        judge="refusal",
        scored=sum(bool(verdict.refused) for _, verdict in judged),
        note=note,
        curve=PositionCurve(x=x, ours=tuple(round(100 * y, 1) for y in ours), paper=paper),
    )


def shares_started(judged: Iterable[tuple[Reply, Verdict]], positions: Sequence[int]) -> tuple[float, ...] | None:
    """Return the share of refusals that start by each position, in [0, 1]; None if there are no refusals.

    Positions count tokens, or words where the replies have no tokens.
    """
    curves = refusal_position_curves(judged, method="", name="")
    if not curves:
        return None
    [curve] = curves
    steps = [0.0, *curve.y]
    return tuple(steps[bisect_right(curve.x, position)] for position in positions)
