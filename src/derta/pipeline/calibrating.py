"""`derta calibrate`: a judge against people; and rates corrected with what that found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from derta.errors import DataError
from derta.files import format_validation_error, write_text
from derta.formats.labels import read_labels
from derta.formats.replies import read_cases
from derta.metrics.calibration import Calibration, LabelledReply, calibrate_cases, corrected_rate
from derta.metrics.comparisons import Agreement, agreement
from derta.pipeline.judge import judge_file, over_refusal_file
from derta.protocols import Case, Display, Judge
from derta.records import Prompt, Reply, Verdict
from derta.results import Cell
from derta.stats import Rate


def calibrate_file(path: Path, *, judge: Judge, out: Path | None = None, display: Display = Display()) -> Calibration:
    """Judge a labelled file and compare; the error rates go to `out`, for `derta judge … --calibration`.

    Raises:
        DataError: the file has no usable labels.
    """
    cases_read = list(read_labels(path, measure=judge.measures))
    labelled = [(case, case.truth) for case in cases_read if case.truth is not None]
    if len(labelled) < len(cases_read):
        display.logger.info(
            "%s: %d replies of which people say both (partial refusals) left out", path, len(cases_read) - len(labelled)
        )
    if not labelled:
        raise DataError(f"{path}: expected labels that say yes or no, found none; check the label column")
    verdicts = judge.judge(Case(case.prompt, case.reply) for case, _ in labelled)
    cases = [
        LabelledReply(truth, verdict.outcome(judge.measures), case.attack, case.reply_class or verdict.reply_class)
        for (case, truth), verdict in zip(labelled, verdicts, strict=True)
    ]
    calibration = calibrate_cases(cases, judge=judge.name, measure=judge.measures, labels=path.name)
    if out is not None:
        write_text(out, calibration.model_dump_json(indent=2) + "\n")
    return calibration


def read_calibration(path: Path, *, judge: str) -> Calibration:
    """A stored calibration.

    Raises:
        DataError: no such file, not a calibration, or one of another judge.
    """
    try:
        calibration = Calibration.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror}); write it with `derta calibrate --out`") from error
    except ValidationError as error:
        raise DataError(
            f"{path}: not a calibration: {format_validation_error(error)}; write it with `derta calibrate`"
        ) from error
    if calibration.judge != judge:
        raise DataError(f"{path}: expected the calibration of judge {judge!r}, got that of {calibration.judge!r}")
    return calibration


def corrected_cell(cell: Cell, calibration: Calibration, *, display: Display = Display()) -> Cell:
    """The cell of a judged file with its rate corrected for the judge's errors; says so where it cannot be."""
    corrected = corrected_rate(Rate(cell.value, cell.low, cell.high, cell.scored, cell.unscored), calibration)
    if corrected.value is None:
        display.logger.info("%s: not corrected: %s", cell.name, corrected.reason)
    return cell.model_copy(
        update={
            "measure": f"{cell.measure}_corrected",
            "value": corrected.value,
            "low": corrected.low,
            "high": corrected.high,
        }
    )


class JudgeResult(NamedTuple):
    """A judged file: its rate, with what was asked for beside it."""

    cells: list[Cell]
    agreement: JudgeAgreement | None


def judge_with_checks(
    path: Path,
    *,
    judge: Judge,
    against: Judge | None = None,
    calibration: Path | None = None,
    over_refusal: bool = False,
    prompts_path: Path | None = None,
    out: Path | None = None,
    display: Display = Display(),
) -> JudgeResult:
    """Judge the replies of a file, and check the rate.

    Args:
        path: Replies of ours with their prompts, or rows of others.
        judge: The judge.
        against: Another judge of the same measure: how far the two agree.
        calibration: A file of `calibrate_file`: also correct the rate for the judge's errors.
        over_refusal: The requests are harmless: also count partial refusals and answers.
        prompts_path: Where the prompts are, if not beside the replies.
        out: Where the verdicts are written.
        display: Where progress and notes are shown.
    """
    if against is not None:
        check_same_measure(judge, against)
    verdicts: list[Verdict] | None = None if against is None else []
    cells = [judge_file(path, judge=judge, prompts_path=prompts_path, out=out, collect_into=verdicts, display=display)]
    if calibration is not None:
        cells.append(corrected_cell(cells[0], read_calibration(calibration, judge=judge.name), display=display))
    if over_refusal:
        cells += over_refusal_file(path, prompts_path=prompts_path)
    if against is None or verdicts is None:
        return JudgeResult(cells, None)
    return JudgeResult(cells, agree_on_file(path, verdicts, second=against, prompts_path=prompts_path))


class Disagreement(NamedTuple):
    """A reply of which two judges say different things."""

    prompt: Prompt
    reply: Reply
    first: Verdict
    second: Verdict


class JudgeAgreement(NamedTuple):
    """Two judges on the same replies."""

    table: Agreement
    disagreements: list[Disagreement]


def check_same_measure(first: Judge, second: Judge) -> None:
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
    path: Path, verdicts: Sequence[Verdict], *, second: Judge, prompts_path: Path | None = None
) -> JudgeAgreement:
    """How far a second judge agrees with the first one's verdicts on a file, and the replies on which it does not."""
    cases = list(read_cases(path, prompts_path=prompts_path))
    others = list(second.judge(cases))
    table = agreement(verdicts, others, measure=second.measures)
    keys = set(table.differing)
    judged = zip(cases, verdicts, others, strict=True)
    return JudgeAgreement(
        table, [Disagreement(*case, one, other) for case, one, other in judged if case.reply.key in keys]
    )
