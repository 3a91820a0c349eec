"""`derta calibrate`: error rates of a judge against human labels, and rates corrected for these errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from derta.errors import DataError
from derta.files import format_validation_error, write_text
from derta.formats.labels import read_labels
from derta.formats.replies import read_cases
from derta.judges import JUDGES, judge_cases, judge_producer
from derta.locks import check_output
from derta.metrics.calibration import Calibration, LabelledReply, calibrate_cases, corrected_rate
from derta.metrics.comparisons import Agreement, agreement
from derta.metrics.shift import SHIFT_LEVEL, shift_p_value, verdict_stratum
from derta.pipeline.file_rates import FileRates
from derta.pipeline.judge import judge_file, over_refusal_file
from derta.pipeline.labelling import labels_of_file
from derta.pipeline.powered_rates import powered_cells
from derta.pipeline.resuming import log_failures
from derta.protocols import Case, Display, Judge
from derta.provenance import changed_keys
from derta.records import Prompt, Reply, Verdict
from derta.results import Cell
from derta.stats import Rate


def calibrate_file(
    path: Path, *, judge: Judge, prompts_path: Path | None = None, out: Path | None = None, display: Display = Display()
) -> Calibration:
    """Judge a labelled file and return the judge's error rates.

    With `out` they are also written to a file, for `derta judge … --calibration`. `prompts_path` is a file of requests
    for rows without one, see `derta.formats.joining`.

    Raises:
        DataError: the file has no usable labels.
    """
    check_output(out, [path, prompts_path])
    cases_read = list(read_labels(path, measure=judge.measures, prompts_path=prompts_path))
    labelled = [(case, case.truth) for case in cases_read if case.truth is not None]
    unlabelled = sum(case.unlabelled for case in cases_read)
    if unlabelled:
        display.logger.warning("%s: %d of %d replies have no label and are ignored", path, unlabelled, len(cases_read))
    if undecided := len(cases_read) - len(labelled) - unlabelled:
        display.logger.info("%s: %d replies with an ambiguous label (partial refusal) are ignored", path, undecided)
    if not labelled:
        raise DataError(f"{path}: expected yes or no labels, got none; check the label column")
    verdicts = list(judge.judge(Case(case.prompt, case.reply) for case, _ in labelled))
    log_failures(path, verdicts, display)
    cases = [
        LabelledReply(
            truth,
            verdict.outcome(judge.measures),
            case.attack,
            case.reply_class or verdict.reply_class,
            verdict_stratum(verdict, judge.measures),
        )
        for (case, truth), verdict in zip(labelled, verdicts, strict=True)
    ]
    calibration = calibrate_cases(cases, judge=judge.name, measure=judge.measures, labels=path.name)
    calibration = calibration.model_copy(update={"producer": judge_producer(judge)})
    _warn_of_labels(path, calibration, display)
    if out is not None:
        write_text(out, calibration.model_dump_json(indent=2) + "\n")
    return calibration


def _warn_of_labels(path: Path, calibration: Calibration, display: Display) -> None:
    """Warn of labels of one kind only, and of labels that mean the opposite of what the judge measures."""
    num_true, num_false = calibration.recall.scored, calibration.specificity.scored
    if not (num_true and num_false):
        display.logger.warning(
            "%s: all labels are the same, so %s is unknown, and the calibration corrects no rate",
            path,
            "the sensitivity" if not num_true else "the specificity",
        )
    kappa = calibration.kappa
    if kappa.high is not None and kappa.high < 0:
        display.logger.warning(
            "%s: the verdicts contradict the labels (kappa %.2f); a true label must mean that the reply is %s",
            path,
            kappa.value,
            calibration.measure,
        )


def read_calibration(path: Path, *, judge: Judge) -> Calibration:
    """Load a calibration file and validate it.

    Raises:
        DataError: the file is missing, is no calibration, or belongs to another judge, or to another model, rubric or
            version of it.
    """
    try:
        calibration = Calibration.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror}); write it with `derta calibrate --out`") from error
    except ValidationError as error:
        raise DataError(
            f"{path}: not a calibration: {format_validation_error(error)}; write it with `derta calibrate`"
        ) from error
    if calibration.judge != judge.name:
        raise DataError(f"{path}: expected the calibration of judge {judge.name!r}, got that of {calibration.judge!r}")
    if differences := changed_keys(calibration.producer, judge_producer(judge)):
        raise DataError(
            f"{path}: expected the calibration of this {judge.name}, got that of another one ({'; '.join(differences)})"
            "; run `derta calibrate` again"
        )
    return calibration


def corrected_cell(cell: Cell, calibration: Calibration, *, display: Display = Display()) -> Cell:
    """Return the cell with its rate corrected for the judge's errors; log a note if it cannot be corrected."""
    counts = (cell.scored, cell.unscored, cell.unanswered)
    corrected = corrected_rate(Rate(cell.value, cell.low, cell.high, *counts), calibration)
    if corrected.value is None:
        display.logger.info("%s: not corrected: %s", cell.name, corrected.reason)
    return cell.model_copy(
        update={
            "measure": f"{cell.measure}_corrected",
            "value": corrected.value,
            "low": corrected.low,
            "high": corrected.high,
            "bounds": Rate(*corrected[:3], *counts).bounds,
        }
    )


def warn_of_shift(calibration: Calibration, verdicts: Sequence[Verdict], *, display: Display) -> None:
    """Log that a correction with labels of other replies may mislead, with the result of the shift test."""
    observed = Counter(verdict_stratum(one, calibration.measure) for one in verdicts if not one.unanswered)
    p_value = shift_p_value(observed, calibration.strata or {})
    if p_value is None:
        result = "its shift test is not possible: run `derta calibrate` again"
    elif p_value < SHIFT_LEVEL:
        result = f"the shift test found a difference (p = {p_value:.1g}): do not use the corrected rate"
    else:
        num_true, num_false = (sum(counts) for counts in zip(*(calibration.strata or {}).values(), strict=True))
        result = (
            f"the shift test found no difference (p = {p_value:.2g}) with {num_true} true and {num_false} false labels,"
            " but does not see every one"
        )
    display.logger.warning(
        "the corrected rate is valid only if the judge errs on these replies as on those of %s; %s; label some of "
        "these replies instead (`derta label`, then --labels)",
        calibration.labels,
        result,
    )


class JudgeResult(NamedTuple):
    """Result of judging a file: its rates, the requested checks of the total, and the agreement with a second judge."""

    rates: FileRates
    checks: Sequence[Cell] = ()
    agreement: JudgeAgreement | None = None


def judge_with_checks(
    path: Path,
    *,
    judge: Judge,
    against: Judge | None = None,
    calibration: Path | None = None,
    labels: Path | None = None,
    over_refusal: bool = False,
    pool: bool = False,
    prompts_path: Path | None = None,
    out: Path | None = None,
    display: Display = Display(),
) -> JudgeResult:
    """Judge the replies of a file, and return the rate with the requested checks of it.

    Args:
        path: A run's replies with their prompts, or rows in another format.
        judge: The judge.
        against: A second judge of the same measure, to compute the agreement with.
        calibration: An output file of `calibrate_file`: also return the rate corrected for the judge's errors.
        labels: A file of `derta label` with labels of these replies: also return the rate that is estimated with them.
        over_refusal: The requests are harmless: also count partial refusals and answers.
        pool: Return one rate of attacks and harmless requests, where the file has both.
        prompts_path: The file of the prompts, if it is not next to the replies.
        out: The output file of the verdicts.
        display: Shows progress and notes.

    Raises:
        DataError: a correction of the one rate of a file that has none, because it mixes attacks and harmless requests.
    """
    if against is not None:
        check_same_measure(judge, against)
    check_output(out, [labels, calibration])
    if calibration and not pool:
        _check_one_suite(path, prompts_path)
    measured = None if calibration is None else read_calibration(calibration, judge=judge)
    truths = None
    if labels is not None:
        truths = labels_of_file(path, labels, measure=judge.measures, prompts_path=prompts_path, display=display)
    verdicts: list[Verdict] | None = None if against is None and measured is None and truths is None else []
    rates = judge_file(
        path, judge=judge, prompts_path=prompts_path, out=out, pool=pool, collect_into=verdicts, display=display
    )
    checks: list[Cell] = []
    if truths is not None:
        checks += powered_cells(
            rates, path, truths, verdicts or [], measure=judge.measures, prompts_path=prompts_path, display=display
        )
    if measured is not None and rates.total is not None:
        checks.append(corrected_cell(rates.total.cell, measured, display=display))
        warn_of_shift(measured, verdicts or [], display=display)
    if over_refusal:
        refusals = judge if judge.name == "refusal" else JUDGES["refusal"]()
        checks += over_refusal_file(path, judge=refusals, prompts_path=prompts_path, mixed=rates.total is None)
    if against is None or verdicts is None:
        return JudgeResult(rates, checks)
    agreed = agree_on_file(path, verdicts, second=against, prompts_path=prompts_path, display=display)
    return JudgeResult(rates, checks, agreed)


def _check_one_suite(path: Path, prompts_path: Path | None) -> None:
    suites = {case.prompt.suite for case in read_cases(path, prompts_path=prompts_path, quiet=True)}
    if len(suites) > 1:
        raise DataError(
            f"{path}: expected replies to attacks or to harmless requests, whose one rate is corrected, got both; add "
            "--pool to correct the rate of all"
        )


class Disagreement(NamedTuple):
    """A reply on which two judges disagree, with both verdicts."""

    prompt: Prompt
    reply: Reply
    first: Verdict
    second: Verdict


class JudgeAgreement(NamedTuple):
    """Agreement of two judges on the same replies."""

    table: Agreement
    disagreements: list[Disagreement]


def check_same_measure(first: Judge, second: Judge) -> None:
    """Validate that two judges have the same measure.

    Raises:
        DataError: they differ; the message names both measures.
    """
    if first.measures != second.measures:
        raise DataError(
            f"expected two judges with the same measure, got {first.name} ({first.measures}) and {second.name} "
            f"({second.measures})"
        )


def agree_on_file(
    path: Path,
    verdicts: Sequence[Verdict],
    *,
    second: Judge,
    prompts_path: Path | None = None,
    display: Display = Display(),
) -> JudgeAgreement:
    """Judge a file with a second judge, and return its agreement with the first judge's verdicts."""
    cases = list(read_cases(path, prompts_path=prompts_path, quiet=True))
    others = list(judge_cases(second, cases))
    log_failures(path, others, display)
    table = agreement(verdicts, others, measure=second.measures)
    keys = set(table.differing)
    judged = zip(cases, verdicts, others, strict=True)
    return JudgeAgreement(
        table, [Disagreement(*case, one, other) for case, one, other in judged if case.reply.key in keys]
    )
