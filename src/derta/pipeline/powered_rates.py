"""Rates of a file's replies that are estimated with labels of a random part of them (`derta judge --labels`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from derta.formats.label_files import reply_hash
from derta.formats.replies import read_cases
from derta.metrics.prediction_powered import PoweredRate, prediction_powered_rate, sample_p_value
from derta.pipeline.file_rates import FileRates
from derta.protocols import Case, Display
from derta.records import Measure, Verdict
from derta.results import Cell, CellSuite, Place, cell_of, place_of
from derta.significance import format_p_value
from derta.stats import rate_of_counts

MIN_LABELS = 20
"""Labels in a group of replies from which on it has a rate of its own."""
SAMPLE_LEVEL = 0.01


class _Judged(NamedTuple):
    """A reply: its model and place, the verdict's prediction, and its label; None without one."""

    model: str
    place: Place
    predicted: bool
    truth: bool | None

    @property
    def group(self) -> tuple[str, str, str]:
        """Key of the reply's group in `FileRates`: the model, the suite and the name of the place."""
        return self.model, self.place.suite, self.place.name


def powered_cells(
    rates: FileRates,
    path: Path,
    truths: Mapping[str, bool],
    verdicts: Sequence[Verdict],
    *,
    measure: Measure,
    prompts_path: Path | None = None,
    display: Display = Display(),
) -> list[Cell]:
    """Return the rates by prediction-powered inference: of all replies, and of each group with enough labels.

    A file that mixes attacks and harmless requests has a rate of each instead of one of all, after the rate of the
    verdicts. Of a random sample of all replies, the part in a group is a random sample of the group. A reply without a
    verdict has the prediction False, which changes the precision and not the estimate.

    Args:
        rates: Rates of the verdicts.
        path: File of the replies.
        truths: Labels by hash of the reply (`derta.pipeline.labelling.labels_of_file`).
        verdicts: Verdict on each reply of the file, in order.
        measure: Outcome that the rates count.
        prompts_path: File of the prompts, if it is not next to the replies.
        display: Shows how many labels were used, and a warning if the labelled replies differ from the others.
    """
    cases = read_cases(path, prompts_path=prompts_path, quiet=True)
    pairs = zip(cases, verdicts, strict=True)
    replies = [_judged(case, one, truths, measure) for case, one in pairs if case.reply.unanswered is None]
    _warn_of_selection(path, replies, measure, display)
    cells: list[Cell] = []
    if rates.total is not None:
        cells.append(_powered(rates.total.cell, replies, measure, display))
    else:
        suites: list[CellSuite] = list(dict.fromkeys(one.place.suite for one in replies))
        for suite in suites:
            members = [one for one in replies if one.place.suite == suite]
            raw = rate_of_counts(sum(one.predicted for one in members), scored=len(members))
            judge = rates.groups[0].cell.judge
            place = Place(suite, _SUITE_NAMES[suite])
            cell = cell_of(raw, place=place, method="", seed=None, judge=judge, measure=measure)
            cells += [cell, _powered(cell, members, measure, display)] if _labels(members) else []
    for group in rates.groups:
        cell = group.cell
        members = [one for one in replies if one.group == (cell.method, cell.suite, cell.name)]
        if _labels(members) >= MIN_LABELS:
            cells.append(_powered(cell, members, measure, display))
    return cells


_SUITE_NAMES: Mapping[CellSuite, str] = {
    "attack": "all attacks",
    "over_refusal": "harmless requests",
    "helpfulness": "tasks",
    "analysis": "all replies",
}


def _judged(case: Case, verdict: Verdict, truths: Mapping[str, bool], measure: Measure) -> _Judged:
    model = (case.reply.producer or {}).get("model", "") if case.prompt.foreign else ""
    return _Judged(model, place_of(case.prompt), verdict.outcome(measure) is True, truths.get(reply_hash(case)))


def _labels(replies: Iterable[_Judged]) -> int:
    return sum(one.truth is not None for one in replies)


def _powered(cell: Cell, replies: Sequence[_Judged], measure: Measure, display: Display) -> Cell:
    labelled = [(one.truth, one.predicted) for one in replies if one.truth is not None]
    others = [one.predicted for one in replies if one.truth is None]
    result: PoweredRate = prediction_powered_rate(labelled, positives=sum(others), unlabelled=len(others))
    display.logger.info(
        "%s: %d of %d replies have labels; weight of the judge: %.2f",
        cell.name,
        len(labelled),
        len(replies),
        result.power,
    )
    update = {"measure": f"{measure}_with_labels", "value": result.value, "low": result.low, "high": result.high}
    return cell.model_copy(update={**update, "scored": len(replies), "unscored": 0, "bounds": None})


def _warn_of_selection(path: Path, replies: Sequence[_Judged], measure: Measure, display: Display) -> None:
    """Warn if the judge calls another share of the labelled replies true than of the others: no random sample."""
    labelled = [one.predicted for one in replies if one.truth is not None]
    others = [one.predicted for one in replies if one.truth is None]
    p_value = sample_p_value(sum(labelled), len(labelled), sum(others), len(others))
    if p_value < SAMPLE_LEVEL:
        display.logger.warning(
            "%s: the labelled replies are no random sample: the judge finds %.0f%% of them %s and %.0f%% of the others "
            "(p = %s); the rate with labels may be biased; label the rows of `derta label` in their order",
            path,
            100 * sum(labelled) / len(labelled),
            measure,
            100 * sum(others) / len(others),
            format_p_value(p_value),
        )
