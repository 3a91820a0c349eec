"""A judge against people's labels, and a rate corrected for its errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from derta.errors import DataError
from derta.metrics.rates import measure_of_verdicts
from derta.records import Measure, Record, Verdict
from derta.stats import Rate, cohen_kappa, rate

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 2000


class LabelledReply(NamedTuple):
    """One reply: what people say of it, what the judge says (None is unscored), and the groups it belongs to."""

    truth: bool
    predicted: bool | None
    attack: str | None = None
    reply_class: str | None = None


class Share(Record):
    """A rate with its 95 % interval over `scored` cases; None where there is nothing to divide by."""

    value: float | None
    low: float | None
    high: float | None
    scored: int
    unscored: int = 0


class Group(Record):
    """The judge on one attack, or on one class of reply."""

    by: str
    name: str
    accuracy: Share
    precision: Share
    recall: Share
    kappa: Share


class Calibration(Record):
    """A judge's errors on a labelled sample: what `derta calibrate` stores.

    `recall` is the judge's sensitivity; intervals are Wilson's, kappa's is a percentile bootstrap.
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


class CorrectedRate(NamedTuple):
    """A rate freed of the judge's errors; None where that cannot be done, and `reason` says why."""

    value: float | None
    low: float | None
    high: float | None
    reason: str = ""


def _share(outcomes: Iterable[bool | None]) -> Share:
    return _as_share(rate(list(outcomes)))


def _as_share(found: Rate) -> Share:
    return Share(**found._asdict())


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
    """Measure a judge against people, over all replies and by class of reply where the judge tells it.

    >>> said = [Verdict(prompt_id=str(i), judge="harm", harmful=i < 8) for i in range(20)]
    >>> found = calibrate(said, [True] * 10 + [False] * 10)
    >>> found.recall.value, found.specificity.value, found.accuracy.value, found.kappa.value
    (0.8, 1.0, 0.9, 0.8)

    Args:
        verdicts: one judge's verdicts.
        truths: people's labels of the same replies, in the same order; None (they could not decide) is left out.
        measure: the field that is compared; by default the only one that the verdicts fill.
        labels: the name of the labels in the result.
        seed: of kappa's bootstrap interval.

    Raises:
        DataError: verdicts of several judges, as many labels as verdicts are not there, or all labels are None.
    """
    held, known = list(verdicts), list(truths)
    judges = list(dict.fromkeys(verdict.judge for verdict in held))
    if len(judges) != 1 or len(held) != len(known):
        raise DataError(
            f"expected one judge's verdicts with a label each, got {len(held)} of {', '.join(judges) or 'none'} and "
            f"{len(known)} labels; calibrate judge by judge"
        )
    counted = measure or measure_of_verdicts(held)
    cases = [
        LabelledReply(truth, verdict.outcome(counted), reply_class=verdict.reply_class)
        for verdict, truth in zip(held, known, strict=True)
        if truth is not None
    ]
    if not cases:
        raise DataError("expected labels that say yes or no, got None for every reply; check the labels")
    return calibrate_cases(cases, judge=judges[0], measure=counted, labels=labels, seed=seed)


def calibrate_cases(
    cases: Sequence[LabelledReply], *, judge: str, measure: Measure, labels: str, seed: int = 0
) -> Calibration:
    """Measure a judge against people, over all cases and by attack and class of reply where these are known.

    >>> cases = [LabelledReply(True, True)] * 8 + [LabelledReply(True, False)] * 2 + [LabelledReply(False, False)] * 10
    >>> found = calibrate_cases(cases, judge="harm", measure="harmful", labels="mine.csv")
    >>> found.recall.value, found.specificity.value, found.accuracy.value, found.kappa.value
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
    )


def _accuracy(cases: Iterable[LabelledReply]) -> Share:
    return _share(None if case.predicted is None else case.predicted == case.truth for case in cases)


def _precision(cases: Iterable[LabelledReply]) -> Share:
    return _share(case.truth for case in cases if case.predicted)


def _recall(cases: Iterable[LabelledReply]) -> Share:
    return _share(case.predicted for case in cases if case.truth)


def _groups(
    cases: Sequence[LabelledReply], *, by: str, key: Callable[[LabelledReply], str | None], seed: int
) -> list[Group]:
    found: list[Group] = []
    for name in sorted({name for case in cases if (name := key(case)) is not None}):
        own = [case for case in cases if key(case) == name]
        shares = {"accuracy": _accuracy(own), "precision": _precision(own), "recall": _recall(own)}
        found.append(Group(by=by, name=name, kappa=_kappa(_counts(own), seed=seed), **shares))
    return found


def _kappa(counts: dict[str, int], *, seed: int) -> Share:
    """Cohen's kappa with its bootstrap interval; samples in which it is not defined are passed over."""
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
    """The true rate behind an observed one, held to [0, 1]; None if the judge is no better than a coin.

    >>> round(rogan_gladen(0.3, sensitivity=0.9, specificity=0.8) or 0, 4)
    0.1429

    Source: Rogan and Gladen 1978; the example is (0.3 + 0.8 - 1) / (0.9 + 0.8 - 1) = 0.1 / 0.7.
    """
    informed = sensitivity + specificity - 1
    return min(1.0, max(0.0, (observed + specificity - 1) / informed)) if informed > 0 else None


def corrected_rate(judged: Rate, calibration: Calibration, *, seed: int = 0) -> CorrectedRate:
    """Correct a judge's rate for the errors that its calibration found.

    The interval is a percentile bootstrap over both samples, the judged replies and the labelled ones. A share of 0 or
    1 is resampled as if half a case had gone the other way, for a bootstrap would take it as certain. A resample whose
    judge is no better than a coin could be any rate: it counts as 0 for the low end and as 1 for the high one.

    >>> cases = [LabelledReply(True, True)] * 90 + [LabelledReply(True, False)] * 10
    >>> cases += [LabelledReply(False, False)] * 80 + [LabelledReply(False, True)] * 20
    >>> found = calibrate_cases(cases, judge="harm", measure="harmful", labels="mine.csv")
    >>> round(corrected_rate(rate([True] * 30 + [False] * 70), found).value or 0, 4)
    0.1429
    """
    import numpy as np

    sensitivity, specificity = calibration.recall, calibration.specificity
    if judged.value is None:
        return CorrectedRate(None, None, None, "no reply was scored")
    if sensitivity.value is None or specificity.value is None:
        return CorrectedRate(None, None, None, "the labels hold one answer only, so that one error rate is not known")
    value = rogan_gladen(judged.value, sensitivity=sensitivity.value, specificity=specificity.value)
    if value is None:
        return CorrectedRate(None, None, None, "sensitivity + specificity is not above 1: the judge tells nothing")
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
