"""How a rate changes with how much of a harmful answer was prefilled."""

from __future__ import annotations

import re
from collections.abc import Iterable

from derta.errors import DataError
from derta.metrics.rates import Judged, Measure, outcome
from derta.results import Curve
from derta.stats import rate

_DEPTH = re.compile(r"(\d+(?:\.\d+)?)(%|t)", re.ASCII)
_UNITS = {"%": "% of the answer", "t": "tokens"}
_LABELS = {"harmful": "attack success rate", "refused": "refusal rate", "correct": "accuracy"}


def read_depth(variant: str) -> tuple[float, str]:
    """The depth that a prefill's variant names, and what it is counted in.

    >>> read_depth("50%"), read_depth("5t")
    ((50.0, '% of the answer'), (5.0, 'tokens'))

    Raises:
        DataError: the variant is no depth.
    """
    match = _DEPTH.fullmatch(variant)
    if match is None:
        raise DataError(f"expected a prefill depth such as '50%' or '5t' (tokens), got variant {variant!r}")
    return float(match[1]), _UNITS[match[2]]


def depth_curves(judged: Iterable[Judged], *, method: str, measure: Measure, attack: str = "prefill") -> list[Curve]:
    """The rate at each depth of the attack's prompts that was scored; one curve a unit of depth."""
    outcomes: dict[str, dict[float, list[bool | None]]] = {}
    for prompt, verdict in judged:
        if prompt.attack == attack and prompt.suite == "attack":
            depth, unit = read_depth(prompt.variant or "")
            outcomes.setdefault(unit, {}).setdefault(depth, []).append(outcome(verdict, measure))
    curves: list[Curve] = []
    for unit, by_depth in outcomes.items():
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
