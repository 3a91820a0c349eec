"""Frontier of methods: attack success against over-refusal against helpfulness, with domination by paired tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from derta.metrics.axes import AXES, Axis, JudgedSet, JudgePlace, build_axis
from derta.metrics.kinds import MOST_MALFORMED
from derta.metrics.lengths import answer_lengths
from derta.metrics.outcomes import Outcome, identified
from derta.results import AxisName, Frontier, FrontierDifference, FrontierPoint, FrontierRate
from derta.significance import SIGNIFICANT, holm

MethodRates = Mapping[AxisName, FrontierRate]
Rates = Mapping[str, MethodRates]


def build_axes(
    outcomes: Sequence[Outcome],
    places: Sequence[JudgePlace],
    *,
    judge: str | None = None,
    over_refusal: Sequence[str] = (),
    incomparable: Mapping[JudgedSet, str] | None = None,
) -> dict[AxisName, Axis]:
    """Return the axes on which all models were measured, by name; see `derta.metrics.axes.build_axis`."""
    outcomes = identified(outcomes)
    axes: dict[AxisName, Axis] = {}
    for name in AXES:
        axis = build_axis(
            outcomes,
            name,
            places,
            judge=judge,
            chosen=over_refusal if name == "over_refusal" else (),
            incomparable=incomparable,
        )
        if axis is not None:
            axes[name] = axis
    return axes


def frontier(
    outcomes: Sequence[Outcome],
    places: Sequence[JudgePlace],
    *,
    baseline: str | None = None,
    judge: str | None = None,
    over_refusal: Sequence[str] = (),
    incomparable: Mapping[JudgedSet, str] | None = None,
) -> Frontier | None:
    """Return the frontier of the methods; None if no axis could be measured.

    Models after a fine-tuning attack are no methods, and are left out.

    Args:
        outcomes: The evaluated models.
        places: Judges with their suites and measures.
        baseline: Method that lengths and differences refer to; by default the first.
        judge: The judge of attack success; by default the first that measures harm.
        over_refusal: Sets of the over-refusal axis, as names or patterns; by default all but those outside the means.
        incomparable: Judges and sets whose verdicts cannot be compared, with the reason.

    Raises:
        DataError: the judge or a set is unknown.
    """
    tuned = [one for one in outcomes if one.fine_tuning is None]
    methods = list(dict.fromkeys(one.method for one in tuned))
    axes = build_axes(tuned, places, judge=judge, over_refusal=over_refusal, incomparable=incomparable)
    if not axes:
        return None
    rates: Rates = {
        method: {name: FrontierRate(**axis.rate(method)._asdict()) for name, axis in axes.items()} for method in methods
    }
    compared = _compared(axes, rates)
    better = _significantly_better(methods, [axes[name] for name in compared])
    baseline = baseline if baseline in methods else methods[0]
    points = [
        FrontierPoint(
            method=method,
            seeds=tuple(dict.fromkeys(one.seed for one in tuned if one.method == method)),
            rates=rates[method],
            differences={} if method == baseline else _differences(method, baseline, axes),
            pareto=_on_front(method, rates, compared),
            dominated_by=tuple(
                other
                for other in methods
                if _dominates(rates[other], rates[method], compared) and (other, method) in better
            ),
        )
        for method in methods
    ]
    return Frontier(
        baseline=baseline,
        axes=tuple(axis.record for axis in axes.values()),
        compared=compared,
        points=tuple(points),
        lengths=tuple(answer_lengths(tuned, baseline=baseline)),
    )


def _differences(method: str, baseline: str, axes: Mapping[AxisName, Axis]) -> dict[AxisName, FrontierDifference]:
    found: dict[AxisName, FrontierDifference] = {}
    for name, axis in axes.items():
        one = axis.difference(method, baseline)
        if one is not None:
            found[name] = FrontierDifference(value=one.value, low=one.low, high=one.high)
    return found


def _compared(axes: Mapping[AxisName, Axis], rates: Rates) -> tuple[AxisName, ...]:
    """Return the axes of domination that have a value for all methods: attacks, over-refusal, benign tasks done.

    Where benign sets have no judge of correctness and a method garbles more than a few replies to them, malformed
    refusals are compared too: they are no over-refusal, and no answer either.
    """
    valued = [name for name in axes if all(name in one and one[name].value is not None for one in rates.values())]
    attacks: list[AxisName] = [name for name in valued if name in ("attack_success", "attack_not_refused")]
    done = axes["helpfulness"].sets if "helpfulness" in valued else ()
    malformed = [one["malformed_benign"].value or 0.0 for one in rates.values() if "malformed_benign" in valued]
    matters = max(malformed, default=0.0) > MOST_MALFORMED and not {*axes["malformed_benign"].sets}.issubset(done)
    others: list[AxisName] = ["over_refusal", *(["malformed_benign"] if matters else []), "helpfulness"]
    return (*attacks[:1], *(name for name in others if name in valued))


def _loss(rate: FrontierRate, name: AxisName) -> float:
    value = rate.value if rate.value is not None else 0.0
    return value if AXES[name].better == "lower" else -value


def _dominates(first: MethodRates, second: MethodRates, compared: Sequence[AxisName]) -> bool:
    """Return whether the first is at least as good on all compared axes, and better on one."""
    pairs = [(_loss(first[name], name), _loss(second[name], name)) for name in compared]
    return len(pairs) > 1 and all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _on_front(method: str, rates: Rates, compared: Sequence[AxisName]) -> bool | None:
    if len(compared) < 2:
        return None
    return not any(_dominates(rates[other], rates[method], compared) for other in rates)


def _significantly_better(methods: Sequence[str], axes: Sequence[Axis]) -> set[tuple[str, str]]:
    """Return the pairs (better, worse) with a significant difference on an axis, Holm-corrected over all tests."""
    if len(axes) < 2:
        return set()
    found: list[tuple[str, str, float]] = []
    for first, second in combinations(methods, 2):
        for axis in axes:
            result = axis.difference(first, second)
            if result is not None:
                first_is_better = (result.value < 0) == (AXES[axis.name].better == "lower")
                found.append((*((first, second) if first_is_better else (second, first)), result.p_value))
    corrected = holm([p_value for *_, p_value in found])
    return {(better, worse) for (better, worse, _), p in zip(found, corrected, strict=True) if p < SIGNIFICANT}
