"""Calibration of a judge against human labels, and rates corrected for its errors (Rogan-Gladen)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from derta.errors import DataError
from derta.metrics.rates import measure_of_verdicts
from derta.metrics.shift import verdict_stratum
from derta.records import Measure, Record, Verdict
from derta.stats import Rate, cohen_kappa, rate

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 2000


class LabelledReply(NamedTuple):
    """Human label and predicted label of one reply, with the groups that the reply belongs to.

    `predicted` is the judge's label; None is unscored. `stratum` is the kind of the verdict (`shift.verdict_stratum`).
    """

    truth: bool
    predicted: bool | None
    attack: str | None = None
    reply_class: str | None = None
    stratum: str | None = None


class Share(Record):
    """Rate with its 95 % confidence interval over `scored` cases; None if no case was scored.

    `bounds` are the rates if none, and if all, of the unscored cases counted; None if they are at most 5 %.
    """

    value: float | None
    low: float | None
    high: float | None
    scored: int
    unscored: int = 0
    bounds: tuple[float, float] | None = None


class Group(Record):
    """Classification metrics of a judge on one attack, or on one class of reply."""

    by: str
    name: str
    accuracy: Share
    precision: Share
    recall: Share
    kappa: Share


class Calibration(Record):
    """Confusion matrix and classification metrics of a judge on a labelled sample.

    `derta calibrate` writes it as JSON, and `derta judge --calibration` loads it.

    `producer` is the provenance of its verdicts (see `derta.judges.judge_producer`); None if it is unknown.
    `recall` is the judge's sensitivity. Intervals are Wilson's; that of kappa is a percentile bootstrap. `strata` are
    the numbers of true and false replies by kind of verdict, for the shift test; None in files of earlier versions.
    """

    judge: str
    measure: Measure
    labels: str
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    unscored: int
    accuracy: Share
    precision: Share
    recall: Share
    specificity: Share
    kappa: Share
    groups: tuple[Group, ...] = ()
    producer: dict[str, str] | None = None
    strata: dict[str, tuple[int, int]] | None = None


class CorrectedRate(NamedTuple):
    """Rate corrected for the judge's errors, with its 95 % interval; None if it cannot be corrected (see `reason`)."""

    value: float | None
    low: float | None
    high: float | None
    reason: str = ""


def _share(outcomes: Iterable[bool | None]) -> Share:
    result = rate(list(outcomes))
    return Share(
        value=result.value,
        low=result.low,
        high=result.high,
        scored=result.scored,
        unscored=result.unscored,
        bounds=result.bounds,
    )


def _counts(cases: Sequence[LabelledReply]) -> dict[str, int]:
    return {
        "both": sum(case.truth and case.predicted is True for case in cases),
        "only_first": sum(case.truth and case.predicted is False for case in cases),
        "only_second": sum(not case.truth and case.predicted is True for case in cases),
        "neither": sum(not case.truth and case.predicted is False for case in cases),
    }


def calibrate(
    verdicts: Iterable[Verdict],
    truths: Iterable[bool | None],
    *,
    measure: Measure | None = None,
    labels: str = "labels",
    seed: int = 0,
) -> Calibration:
    """Compute a judge's classification metrics against human labels, over all replies and by class of reply.

    The classes are those of the verdicts (`reply_class`); without one a reply counts only in the total.

    >>> verdicts = [Verdict(prompt_id=str(i), judge="harm", harmful=i < 8) for i in range(20)]
    >>> result = calibrate(verdicts, [True] * 10 + [False] * 10)
    >>> result.recall.value, result.specificity.value, result.accuracy.value, result.kappa.value
    (0.8, 1.0, 0.9, 0.8)

    Args:
        verdicts: Verdicts of one judge.
        truths: Human labels of the same replies, in the same order; None (undecided) is left out.
        measure: Field of the verdicts to compare; by default the only one that the verdicts fill.
        labels: Name of the labels in the result.
        seed: Random seed of kappa's bootstrap interval.

    Returns:
        The calibration, which is an input of `corrected_rate`.

    Raises:
        DataError: The verdicts are of several judges, verdicts and labels differ in number, or all labels are None.
    """
    verdicts, truths = list(verdicts), list(truths)
    judges = list(dict.fromkeys(verdict.judge for verdict in verdicts))
    if len(judges) != 1 or len(verdicts) != len(truths):
        raise DataError(
            f"expected one judge's verdicts with a label each, got {len(verdicts)} of {', '.join(judges) or 'none'} "
            f"and {len(truths)} labels; calibrate judge by judge"
        )
    measure = measure or measure_of_verdicts(verdicts)
    cases = [
        LabelledReply(truth, verdict.outcome(measure), None, verdict.reply_class, verdict_stratum(verdict, measure))
        for verdict, truth in zip(verdicts, truths, strict=True)
        if truth is not None
    ]
    if not cases:
        raise DataError("expected labels true or false, got None for every reply; check the labels")
    return calibrate_cases(cases, judge=judges[0], measure=measure, labels=labels, seed=seed)


def calibrate_cases(
    cases: Sequence[LabelledReply], *, judge: str, measure: Measure, labels: str, seed: int = 0
) -> Calibration:
    """Compute a judge's classification metrics against human labels: in total, by attack and by class of reply.

    >>> cases = [LabelledReply(True, True)] * 8 + [LabelledReply(True, False)] * 2 + [LabelledReply(False, False)] * 10
    >>> result = calibrate_cases(cases, judge="harm", measure="harmful", labels="mine.csv")
    >>> result.recall.value, result.specificity.value, result.accuracy.value, result.kappa.value
    (0.8, 1.0, 0.9, 0.8)
    """
    counts = _counts(cases)
    return Calibration(
        judge=judge,
        measure=measure,
        labels=labels,
        true_positives=counts["both"],
        false_positives=counts["only_second"],
        false_negatives=counts["only_first"],
        true_negatives=counts["neither"],
        unscored=sum(case.predicted is None for case in cases),
        accuracy=_accuracy(cases),
        precision=_precision(cases),
        recall=_recall(cases),
        specificity=_share(None if case.predicted is None else not case.predicted for case in cases if not case.truth),
        kappa=_kappa(counts, seed=seed),
        groups=(
            *_groups(cases, by="attack", key=lambda case: case.attack, seed=seed),
            *_groups(cases, by="class", key=lambda case: case.reply_class, seed=seed),
        ),
        strata=_strata(cases),
    )


def _strata(cases: Iterable[LabelledReply]) -> dict[str, tuple[int, int]]:
    counts = Counter((case.stratum, case.truth) for case in cases)
    names = sorted({name for name, _ in counts if name is not None})
    return {name: (counts[name, True], counts[name, False]) for name in names}


def _accuracy(cases: Iterable[LabelledReply]) -> Share:
    return _share(None if case.predicted is None else case.predicted == case.truth for case in cases)


def _precision(cases: Iterable[LabelledReply]) -> Share:
    return _share(case.truth for case in cases if case.predicted)


def _recall(cases: Iterable[LabelledReply]) -> Share:
    return _share(case.predicted for case in cases if case.truth)


def _groups(
    cases: Sequence[LabelledReply], *, by: str, key: Callable[[LabelledReply], str | None], seed: int
) -> list[Group]:
    groups: list[Group] = []
    for name in sorted({name for case in cases if (name := key(case)) is not None}):
        members = [case for case in cases if key(case) == name]
        shares = {"accuracy": _accuracy(members), "precision": _precision(members), "recall": _recall(members)}
        groups.append(Group(by=by, name=name, kappa=_kappa(_counts(members), seed=seed), **shares))
    return groups


def _kappa(counts: dict[str, int], *, seed: int) -> Share:
    """Compute Cohen's kappa with its bootstrap interval; resamples with an undefined kappa are skipped."""
    import numpy as np

    total = sum(counts.values())
    value = cohen_kappa(**counts)
    if value is None:
        return Share(value=None, low=None, high=None, scored=total)
    shares = [count / total for count in counts.values()]
    samples = np.random.default_rng(seed).multinomial(total, shares, size=RESAMPLES).tolist()
    drawn = [kappa for one in samples if (kappa := cohen_kappa(**dict(zip(counts, one, strict=True)))) is not None]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Share(value=value, low=float(low), high=float(high), scored=total)


def rogan_gladen(observed: float, *, sensitivity: float, specificity: float) -> float | None:
    """Return the Rogan-Gladen estimate of the true rate, clipped to [0, 1]; None if the judge is no better than chance.

    >>> round(rogan_gladen(0.3, sensitivity=0.9, specificity=0.8) or 0, 4)
    0.1429

    Source: Rogan and Gladen 1978; the example is (0.3 + 0.8 - 1) / (0.9 + 0.8 - 1) = 0.1 / 0.7.
    """
    informed = sensitivity + specificity - 1
    return min(1.0, max(0.0, (observed + specificity - 1) / informed)) if informed > 0 else None


def corrected_rate(judged: Rate, calibration: Calibration, *, seed: int = 0) -> CorrectedRate:
    """Compute a judge's rate corrected for the sensitivity and specificity that its calibration measured.

    The interval is a percentile bootstrap over both samples, the judged replies and the labelled ones. A rate of 0 or 1
    has no variance in a bootstrap, so half a case is added to the other side. A resample with a judge no better than
    chance is compatible with any rate: it counts as 0 for the lower bound and as 1 for the upper bound.

    >>> cases = [LabelledReply(True, True)] * 90 + [LabelledReply(True, False)] * 10
    >>> cases += [LabelledReply(False, False)] * 80 + [LabelledReply(False, True)] * 20
    >>> calibration = calibrate_cases(cases, judge="harm", measure="harmful", labels="mine.csv")
    >>> round(corrected_rate(rate([True] * 30 + [False] * 70), calibration).value or 0, 4)
    0.1429

    Args:
        judged: Observed rate of the judge's verdicts.
        calibration: Output of `calibrate` for the same judge and measure.
        seed: Random seed of the bootstrap.

    Returns:
        The corrected rate with its interval; value and interval are None if `judged` or an error rate is unknown, or
        if the judge is no better than chance.
    """
    import numpy as np

    sensitivity, specificity = calibration.recall, calibration.specificity
    if judged.value is None:
        return CorrectedRate(None, None, None, "no reply was scored")
    if sensitivity.value is None or specificity.value is None:
        return CorrectedRate(None, None, None, "all labels are the same, so sensitivity or specificity is unknown")
    value = rogan_gladen(judged.value, sensitivity=sensitivity.value, specificity=specificity.value)
    if value is None:
        return CorrectedRate(None, None, None, "the judge is no better than chance: sensitivity + specificity <= 1")
    rng = np.random.default_rng(seed)
    observed = _resampled(judged.value, judged.scored, rng)
    sensitive = _resampled(sensitivity.value, sensitivity.scored, rng)
    specific = _resampled(specificity.value, specificity.scored, rng)
    informed = sensitive + specific - 1
    usable = informed > 0
    drawn = np.clip((observed + specific - 1) / np.where(usable, informed, 1.0), 0.0, 1.0)
    low = float(np.percentile(np.where(usable, drawn, 0.0), 2.5))
    high = float(np.percentile(np.where(usable, drawn, 1.0), 97.5))
    return CorrectedRate(value, min(low, value), max(high, value))


def _resampled(share: float, cases: int, rng: np.random.Generator) -> np.ndarray:
    edge = 0.5 / (cases + 1)
    return rng.binomial(cases, min(1 - edge, max(edge, share)), size=RESAMPLES) / cases
