"""Curves of refusal positions, of the refusal probability within answers, and of rates by prefill depth.

Positions of refusals are in tokens, or in words for replies without token offsets; `Curve.x_unit` holds the unit.
Probabilities are the output of `Engine.refusal_probability`, averaged over harmful or benign answers.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from derta.errors import DataError
from derta.metrics.rates import PromptVerdict, outcome_of
from derta.records import Measure, Reply, Verdict
from derta.results import Cell, Curve, CurveKind, Place, cell_of
from derta.stats import Mean, Outcome, bootstrap_mean, rate_over_seeds, wilson_interval

FIRST_TOKENS = 5  # the paper's Figure on refusal positions starts with the first five
MAX_TOKENS = 100
_UNITS = {"%": "% of the answer", "tokens": "tokens"}
_LABELS = {"harmful": "attack success rate", "refused": "refusal rate", "correct": "accuracy"}


class Position(NamedTuple):
    """Position of the token or word at which a reply's refusal begins, counted from 1."""

    value: int
    unit: Literal["tokens", "words"]


def refusal_position(reply: Reply, verdict: Verdict) -> Position | None:
    """Return the position in the answer at which a reply begins to refuse, or None if it does not refuse.

    A prefill and a thought are not counted.

    >>> reply = Reply(prompt_id="1", text="Take itSorry, but", token_starts=(0, 4, 7, 12, 13))
    >>> refusal_position(reply, Verdict(prompt_id="1", judge="refusal", refused=True, refusal_at=7))
    Position(value=3, unit='tokens')
    """
    at = verdict.refusal_at
    if not verdict.refused or at is None:
        return None
    start = verdict.answer_at or 0
    if reply.token_starts:
        before = bisect_left(reply.token_starts, start) if start else 0
        return Position(max(1, bisect_right(reply.token_starts, at) - before), "tokens")
    return Position(len(reply.text[start:at].split()) + 1, "words")


def refusal_position_curves(judged: Iterable[tuple[Reply, Verdict]], *, method: str, name: str) -> list[Curve]:
    """Compute the cumulative share of refusals by start position: a curve for each unit, no curve without refusals."""
    positions = [at for reply, verdict in judged if (at := refusal_position(reply, verdict))]
    curves: list[Curve] = []
    for unit in ("tokens", "words"):
        values = sorted(at.value for at in positions if at.unit == unit)
        if not values:
            continue
        xs = sorted({1, *values})
        counts = [bisect_right(values, x) for x in xs]
        bands = [wilson_interval(count, len(values)) for count in counts]
        curves.append(
            Curve(
                kind="refusal_position",
                method=method,
                name=name,
                x=tuple(map(float, xs)),
                y=tuple(count / len(values) for count in counts),
                low=tuple(low for low, _ in bands),
                high=tuple(high for _, high in bands),
                count=len(values),
                x_unit=unit,
                y_label="share of refusals started",
            )
        )
    return curves


def late_refusal_cell(
    judged: Iterable[tuple[Reply, Verdict]], *, method: str, seed: int | None, name: str, judge: str
) -> Cell:
    """Compute the share of refusals that begin after the first five tokens; without token offsets they are unscored.

    Seeds and samples are pooled by prompt.
    """
    late: dict[str, list[Outcome]] = {}
    for reply, verdict in judged:
        if at := refusal_position(reply, verdict):
            is_late = at.value > FIRST_TOKENS if at.unit == "tokens" else None
            late.setdefault(reply.prompt_id, []).append(is_late)
    place = Place("analysis", name)
    return cell_of(
        rate_over_seeds([*late.values()]), place=place, method=method, seed=seed, judge=judge, measure="late_refusal"
    )


def _validate_probabilities(probabilities: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    for row, values in enumerate(probabilities):
        if not all(0.0 <= value <= 1.0 for value in values):
            raise DataError(f"expected probabilities between 0 and 1, got another value in row {row}; check the engine")
    return [values for values in probabilities if values]


def _curve(
    xs: Sequence[float], means: Sequence[Mean], *, method: str, name: str, count: int, x_unit: str, kind: CurveKind
) -> Curve:
    values = [mean.value or 0.0 for mean in means]
    return Curve(
        kind=kind,
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
    probabilities: Sequence[Sequence[float]],
    *,
    method: str,
    name: str,
    max_tokens: int = MAX_TOKENS,
    kind: CurveKind = "refusal_probability",
) -> Curve | None:
    """Compute the mean probability of a refusal after x tokens of an answer; return None without data.

    The mean at x is over the answers with at least x tokens. A position that only one of several answers reaches is
    left out, as it has no interval.

    >>> curve = probability_by_token([[0.5, 0.1], [0.5, 0.3], [0.5]], method="rto", name="triples")
    >>> (curve.x, [round(y, 2) for y in curve.y]) if curve else None
    ((0.0, 1.0), [0.5, 0.2])

    Args:
        probabilities: Output of `Engine.refusal_probability`: a list for each answer, one value longer than its tokens.
        method: Name of the method, stored in the curve.
        name: Name of the curve.
        max_tokens: Largest x.
        kind: Kind of the curve: of harmful answers, or `benign_probability`.

    Raises:
        DataError: Invalid probability: a value is not in [0, 1].
    """
    rows = _validate_probabilities(probabilities)
    columns = [
        [row[at] for row in rows if at < len(row)] for at in range(min(max_tokens + 1, max(map(len, rows), default=0)))
    ]
    columns = [column for column in columns if len(column) > 1 or len(rows) == 1]
    if not columns:
        return None
    means = [bootstrap_mean(column) for column in columns]
    xs = [float(at) for at in range(len(columns))]
    return _curve(xs, means, method=method, name=name, count=len(rows), x_unit="tokens", kind=kind)


def probability_by_share(
    probabilities: Sequence[Sequence[float]],
    *,
    method: str,
    name: str,
    steps: int = 20,
    kind: CurveKind = "refusal_probability",
) -> Curve | None:
    """Compute the mean probability of a refusal after x % of an answer; return None without data.

    Every answer counts at every x, with its nearest position.

    Args:
        probabilities: Output of `Engine.refusal_probability`: a list for each answer, one value longer than its tokens.
        method: Name of the method, stored in the curve.
        name: Name of the curve.
        steps: Number of intervals between 0 % and 100 %.
        kind: Kind of the curve: of harmful answers, or `benign_probability`.

    Raises:
        DataError: Invalid probability: a value is not in [0, 1].
    """
    rows = _validate_probabilities(probabilities)
    if not rows:
        return None
    shares = [step / steps for step in range(steps + 1)]
    means = [bootstrap_mean([row[round(share * (len(row) - 1))] for row in rows]) for share in shares]
    xs = [100 * share for share in shares]
    return _curve(xs, means, method=method, name=name, count=len(rows), x_unit="% of the answer", kind=kind)


def depth_curves(judged: Iterable[PromptVerdict], *, method: str, measure: Measure) -> list[Curve]:
    """Compute the rate of a measure by prefill depth: a curve for each attack and unit of depth.

    Depths without a scored verdict are left out.
    """
    outcomes: dict[tuple[str, str], dict[float, dict[str, list[Outcome]]]] = {}
    for prompt, verdict in judged:
        if prompt.depth is not None and prompt.suite == "attack":
            by_depth = outcomes.setdefault((prompt.attack, _UNITS[prompt.depth.unit]), {})
            by_prompt = by_depth.setdefault(prompt.depth.amount, {})
            by_prompt.setdefault(prompt.id, []).append(outcome_of(verdict, measure))
    curves: list[Curve] = []
    for (attack, unit), by_depth in outcomes.items():
        rates = [(depth, rate_over_seeds([*ones.values()])) for depth, ones in sorted(by_depth.items())]
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
