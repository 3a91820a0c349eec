"""How a rate changes with how much of a harmful answer was prefilled."""

from __future__ import annotations

from collections.abc import Iterable

from derta.metrics.rates import Judged, Measure, outcome
from derta.results import Curve
from derta.stats import rate

_UNITS = {"%": "% of the answer", "tokens": "tokens"}
_LABELS = {"harmful": "attack success rate", "refused": "refusal rate", "correct": "accuracy"}


def depth_curves(judged: Iterable[Judged], *, method: str, measure: Measure) -> list[Curve]:
    """The rate at each depth of the prefilled prompts that was scored; one curve an attack and unit of depth."""
    outcomes: dict[tuple[str, str], dict[float, list[bool | None]]] = {}
    for prompt, verdict in judged:
        if prompt.depth is not None and prompt.suite == "attack":
            by_depth = outcomes.setdefault((prompt.attack, _UNITS[prompt.depth.unit]), {})
            by_depth.setdefault(prompt.depth.amount, []).append(outcome(verdict, measure))
    curves: list[Curve] = []
    for (attack, unit), by_depth in outcomes.items():
        rates = [(depth, rate(ones)) for depth, ones in sorted(by_depth.items())]
        points = [(depth, r.value, r.low, r.high, r.scored) for depth, r in rates if r.value is not None]
        if points:
            curves.append(
                Curve(
                    kind="prefill_depth",
                    method=method,
                    name=attack,
                    x=tuple(point[0] for point in points),
                    y=tuple(point[1] for point in points),
                    low=tuple(point[2] or 0.0 for point in points),
                    high=tuple(point[3] or 0.0 for point in points),
                    count=sum(point[4] for point in points),
                    x_unit=unit,
                    y_label=_LABELS[measure],
                )
            )
    return curves
