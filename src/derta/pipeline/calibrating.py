"""`derta calibrate`: a judge against people; and rates corrected with what that found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError
from rich.table import Table

from derta.cli.console import say
from derta.errors import DataError
from derta.files import describe, write_text
from derta.formats.labels import read_labels
from derta.formats.replies import read_cases
from derta.metrics.agreement import Agreement, agreement
from derta.metrics.calibration import Calibration, Labelled, Share, calibrate, corrected_rate
from derta.metrics.rates import outcome
from derta.pipeline.judge import Judging
from derta.protocols import Case
from derta.records import Prompt, Reply, Verdict
from derta.results import Cell
from derta.stats import Rate


def calibrate_file(path: Path, *, judge: Judging, out: Path | None = None) -> Calibration:
    """Judge a labelled file and compare; the error rates go to `out`, for `derta judge … --calibration`.

    Raises:
        DataError: the file has no usable labels.
    """
    read = list(read_labels(path, measure=judge.measures))
    labelled = [(case, case.truth) for case in read if case.truth is not None]
    if len(labelled) < len(read):
        say(f"{path}: {len(read) - len(labelled)} replies of which people say both (partial refusals) left out")
    if not labelled:
        raise DataError(f"{path}: expected labels that say yes or no, found none; check the label column")
    verdicts = judge.judge(Case(case.prompt, case.reply) for case, _ in labelled)
    cases = [
        Labelled(truth, outcome(verdict, judge.measures), case.attack, case.reply_class or verdict.reply_class)
        for (case, truth), verdict in zip(labelled, verdicts, strict=True)
    ]
    found = calibrate(cases, judge=judge.name, measure=judge.measures, labels=path.name)
    if out is not None:
        write_text(out, found.model_dump_json(indent=2) + "\n")
    return found


def read_calibration(path: Path, *, judge: str) -> Calibration:
    """A stored calibration.

    Raises:
        DataError: no such file, not a calibration, or one of another judge.
    """
    try:
        found = Calibration.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror}); write it with `derta calibrate --out`") from error
    except ValidationError as error:
        raise DataError(f"{path}: not a calibration: {describe(error)}; write it with `derta calibrate`") from error
    if found.judge != judge:
        raise DataError(f"{path}: expected the calibration of judge {judge!r}, got that of {found.judge!r}")
    return found


def corrected_cell(cell: Cell, calibration: Calibration) -> Cell:
    """The cell of a judged file with its rate corrected for the judge's errors; says so where it cannot be."""
    found = corrected_rate(Rate(cell.value, cell.low, cell.high, cell.scored, cell.unscored), calibration)
    if found.value is None:
        say(f"{cell.name}: not corrected: {found.reason}")
    return cell.model_copy(
        update={"measure": f"{cell.measure}_corrected", "value": found.value, "low": found.low, "high": found.high}
    )


def calibration_table(found: Calibration) -> Table:
    """The numbers as a table: over all, by attack, by class of reply."""
    title = f"{found.judge} ({found.measure}) against the labels of {found.labels}"
    table = Table("", "n", "accuracy", "precision", "recall", "kappa", title=title)
    whole = (found.accuracy, found.precision, found.recall, found.kappa)
    table.add_row("all", str(found.accuracy.scored), *map(_with_interval, whole))
    for group in found.groups:
        shares = map(_with_interval, (group.accuracy, group.precision, group.recall, group.kappa))
        table.add_row(f"{group.by}: {group.name}", str(group.accuracy.scored), *shares)
    table.caption = f"specificity {_with_interval(found.specificity)}; {found.unscored} unscored"
    return table


def _with_interval(share: Share) -> str:
    if share.value is None or share.low is None or share.high is None:
        return "–"
    return f"{share.value:.2f} {share.low:.2f}–{share.high:.2f}"


class Differing(NamedTuple):
    """A reply of which two judges say different things."""

    prompt: Prompt
    reply: Reply
    first: Verdict
    second: Verdict


class Judged(NamedTuple):
    """Two judges on the same replies."""

    table: Agreement
    differing: list[Differing]


def check_same_measure(first: Judging, second: Judging) -> None:
    """Refuse two judges of different things.

    Raises:
        DataError: says what each of them measures.
    """
    if first.measures != second.measures:
        raise DataError(
            f"expected two judges of one thing, got {first.name} ({first.measures}) and {second.name} "
            f"({second.measures})"
        )


def agree_on_file(
    path: Path, verdicts: Sequence[Verdict], *, second: Judging, prompts_path: Path | None = None
) -> Judged:
    """How far a second judge agrees with the first one's verdicts on a file, and the replies on which it does not."""
    cases = list(read_cases(path, prompts_path=prompts_path))
    others = list(second.judge(cases))
    table = agreement(verdicts, others, measure=second.measures)
    names = set(table.differing)
    judged = zip(cases, verdicts, others, strict=True)
    return Judged(table, [Differing(*case, one, other) for case, one, other in judged if case.prompt.id in names])


def agreement_table(found: Agreement, *, first: str, second: str) -> Table:
    """The two-by-two table, with the share of agreement and kappa below it."""
    table = Table("", f"{second}: yes", f"{second}: no", title=f"{first} and {second} on the same replies")
    table.add_row(f"{first}: yes", str(found.both), str(found.only_first))
    table.add_row(f"{first}: no", str(found.only_second), str(found.neither))
    agreed = "–" if found.agreement is None else f"{found.agreement:.3f}"
    kappa = "–" if found.kappa is None else f"{found.kappa:.2f}"
    table.caption = f"agreement {agreed}, kappa {kappa}, {found.unscored} unscored by one of them"
    return table
