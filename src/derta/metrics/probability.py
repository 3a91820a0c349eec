"""The probability of refusing at every position of harmful answers (`Engine.refusal_probability`), averaged."""

from __future__ import annotations

from collections.abc import Sequence

from derta.errors import DataError
from derta.results import Curve
from derta.stats import Mean, bootstrap_mean

MAX_TOKENS = 100


def _checked(probabilities: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    for row, values in enumerate(probabilities):
        if not all(0.0 <= value <= 1.0 for value in values):
            raise DataError(f"expected probabilities between 0 and 1, got another value in row {row}; check the engine")
    return [values for values in probabilities if values]


def _curve(xs: Sequence[float], means: Sequence[Mean], *, method: str, name: str, count: int, x_unit: str) -> Curve:
    values = [mean.value or 0.0 for mean in means]
    return Curve(
        kind="refusal_probability",
        method=method,
        name=name,
        x=tuple(xs),
        y=tuple(values),
        low=tuple(value if mean.low is None else mean.low for mean, value in zip(means, values, strict=True)),
        high=tuple(value if mean.high is None else mean.high for mean, value in zip(means, values, strict=True)),
        count=count,
        x_unit=x_unit,
        y_label="mean probability of a refusal token",
    )


def probability_by_token(
    probabilities: Sequence[Sequence[float]], *, method: str, name: str, max_tokens: int = MAX_TOKENS
) -> Curve | None:
    """The mean over answers of the probability of refusing after x tokens; longer answers reach further. None: no data.

    Positions that a single answer reaches are left out where there are more answers: they would have no interval.

    >>> curve = probability_by_token([[0.5, 0.1], [0.5, 0.3], [0.5]], method="rto", name="triples")
    >>> (curve.x, [round(y, 2) for y in curve.y]) if curve else None
    ((0.0, 1.0), [0.5, 0.2])
    """
    rows = _checked(probabilities)
    columns = [
        [row[at] for row in rows if at < len(row)] for at in range(min(max_tokens + 1, max(map(len, rows), default=0)))
    ]
    columns = [column for column in columns if len(column) > 1 or len(rows) == 1]
    if not columns:
        return None
    means = [bootstrap_mean(column) for column in columns]
    xs = [float(at) for at in range(len(columns))]
    return _curve(xs, means, method=method, name=name, count=len(rows), x_unit="tokens")


def probability_by_share(
    probabilities: Sequence[Sequence[float]], *, method: str, name: str, steps: int = 20
) -> Curve | None:
    """The mean over answers of the probability of refusing once x % of the answer stands there; None without data.

    Each answer counts at every x, with the position nearest to it.
    """
    rows = _checked(probabilities)
    if not rows:
        return None
    shares = [step / steps for step in range(steps + 1)]
    means = [bootstrap_mean([row[round(share * (len(row) - 1))] for row in rows]) for share in shares]
    xs = [100 * share for share in shares]
    return _curve(xs, means, method=method, name=name, count=len(rows), x_unit="% of the answer")
