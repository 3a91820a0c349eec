"""Threshold of the refusal probability for decoding: its calibration on benign answers, and its file.

A position is an alarm if the refusal tokens together have at least the threshold's probability there. The rate of false
alarms is that of benign answers: per reply (any of its positions is an alarm), or per position.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from math import ceil
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from derta.errors import DataError
from derta.files import decode, parse_json, parse_record, read_bytes, write_text
from derta.records import Record
from derta.stats import clopper_pearson, rate_over_seeds

Per = Literal["reply", "position"]
LARGEST_BIAS = 100.0
"""Largest absolute logit bias of the OpenAI protocol."""
_DIGITS, _BIAS_STEP = 6, Decimal("0.001")
_SMALLEST = 1e-12


class RefusalThreshold(Record):
    """A calibrated threshold, the contents of its file.

    Attributes:
        threshold: Smallest summed probability of the refusal tokens at which one of them is forced.
        token_ids: The refusal tokens: the first tokens of the refusal words, bare and after a space.
        refusal_words: Their words.
        model: Identity of the model: a hash of its files and of its adapter's (`derta.provenance`).
        false_alarm: The rate of false alarms that was asked for.
        per: What the rate counts: replies or positions.
        alarms: False alarms among the benign cases of the calibration.
        cases: Number of these cases: replies or positions.
        replies: Number of benign replies.
        low: Lower end of the 95 % interval of the rate of false alarms; `high` is the upper end.
        logit_bias: Constant bias of the refusal tokens' logits for servers, calibrated at the same rate per reply.
        bias_alarms: False alarms of the bias among the replies.

    >>> RefusalThreshold(
    ...     threshold=0.2, token_ids=(5,), model={"model": "a"}, false_alarm=0.1, alarms=0, cases=9, replies=9, low=0,
    ...     high=0.34, logit_bias=1.5, bias_alarms=0,
    ... ).openai_logit_bias
    {'5': 1.5}
    """

    threshold: float = Field(gt=0, le=1)
    token_ids: tuple[int, ...] = Field(min_length=1)
    refusal_words: tuple[str, ...] = ()
    model: dict[str, str]
    false_alarm: float = Field(gt=0, lt=1)
    per: Per = "reply"
    alarms: int
    cases: int
    replies: int
    low: float
    high: float
    logit_bias: float
    bias_alarms: int

    @property
    def openai_logit_bias(self) -> dict[str, float]:
        """The field `logit_bias` of a request to an OpenAI-compatible server."""
        return {str(token): self.logit_bias for token in self.token_ids}

    def write(self, path: Path) -> None:
        """Write the threshold to a JSON file."""
        write_text(path, self.model_dump_json(indent=2) + "\n")


def read_threshold(path: Path | str) -> RefusalThreshold:
    """Load a threshold from its file.

    Raises:
        DataError: the file cannot be read, or is no threshold.
    """
    path = Path(path)
    try:
        value = parse_json(decode(read_bytes(path), where=str(path)))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: expected the file of `derta threshold`, got invalid JSON; calibrate again") from error
    return parse_record(RefusalThreshold, value, where=str(path))


class Cut(NamedTuple):
    """A calibrated value: alarms among the cases, and the 95 % interval of the rate of false alarms."""

    value: float
    alarms: int
    cases: int
    low: float
    high: float


def calibrate_cut(probabilities: Sequence[Sequence[float]], *, false_alarm: float, per: Per = "reply") -> Cut:
    """Return the smallest threshold whose rate of false alarms on new benign replies is at most `false_alarm`.

    Of n exchangeable scores (the largest probability of each reply, or all positions) the threshold is just above the
    r-th smallest, r = ⌈(1 − rate)(n + 1)⌉: a new score reaches it with probability ≤ (n + 1 − r) / (n + 1) ≤ rate,
    averaged over calibrations (split conformal prediction). For this calibration the rate may be higher: `low` and
    `high` are the exact interval (Clopper-Pearson) of n − r alarms in n. Positions of one reply are not independent, so
    for `per="position"` the interval is Wilson's at the effective number of positions, and the bound is approximate.

    >>> calibrate_cut([[0.1, 0.0], [0.3], [0.2, 0.1], [0.0]], false_alarm=0.4)[:3]
    (0.200001, 1, 4)

    Args:
        probabilities: Probability of the refusal tokens at each position of each benign reply.
        false_alarm: The rate.
        per: Whether the rate counts replies or positions.

    Raises:
        DataError: the rate is not between 0 and 1, too few cases for it, or a probability that only 1 exceeds.

    Source: Vovk et al. 2005 (conformal prediction); Wilks 1941 (the coverage of an order statistic is a beta variable).
    """
    replies = [row for row in probabilities if row]
    scores = [max(row) for row in replies] if per == "reply" else [value for row in replies for value in row]
    what = "replies" if per == "reply" else "positions"
    rank = _rank(len(scores), false_alarm, what=what)
    value = _above(sorted(scores)[rank - 1])
    if value > 1:
        raise DataError(
            f"threshold: expected at most a share of {false_alarm:g} of the benign {what} at a refusal probability of "
            "1, got more: the model refuses them; use a higher rate, or check the benign answers"
        )
    alarms = sum(score >= value for score in scores)
    if per == "reply":
        return Cut(value, alarms, len(scores), *clopper_pearson(alarms, len(scores)))
    pooled = rate_over_seeds([[one >= value for one in row] for row in replies])
    return Cut(value, alarms, len(scores), pooled.low or 0.0, pooled.high or 0.0)


def calibrate_bias(margins: Sequence[Sequence[float]], *, false_alarm: float) -> Cut:
    """Return the largest constant bias of the refusal tokens that keeps the rate of false alarms per reply.

    The margin of a position is the largest logit of the other tokens minus that of the refusal tokens. A bias above it
    makes a refusal token the most likely one there: a reply is a false alarm if the bias exceeds its smallest margin.
    The bias is the (n − r + 1)-th smallest of these, with r as in `calibrate_cut`, rounded down. It is negative for a
    model that refuses more benign requests than the rate allows.

    >>> calibrate_bias([[4.0, 2.0], [3.0], [1.0, 6.0], [5.0]], false_alarm=0.4)[:3]
    (1.999, 1, 4)

    Args:
        margins: Margin at each position of each benign reply.
        false_alarm: The rate.

    Raises:
        DataError: the rate is not between 0 and 1, or too few replies for it.
    """
    smallest = sorted(min(row) for row in margins if row)
    rank = _rank(len(smallest), false_alarm, what="replies")
    limit = Decimal(smallest[len(smallest) - rank])
    value = float((limit - _BIAS_STEP / 2).quantize(_BIAS_STEP, ROUND_FLOOR))
    value = min(LARGEST_BIAS, max(-LARGEST_BIAS, value))
    alarms = sum(margin < value for margin in smallest)
    return Cut(value, alarms, len(smallest), *clopper_pearson(alarms, len(smallest)))


def _rank(cases: int, false_alarm: float, *, what: str) -> int:
    if not 0 < false_alarm < 1:
        raise DataError(f"false alarm: expected a rate between 0 and 1, such as 0.01, got {false_alarm:g}")
    exact = Decimal(str(false_alarm))
    rank = ceil((1 - exact) * (cases + 1))
    if rank > cases:
        raise DataError(
            f"threshold: expected at least {ceil(1 / exact) - 1} benign {what} for a false-alarm rate of "
            f"{false_alarm:g}, got {cases}; add benign answers, or use a higher rate"
        )
    return rank


def _above(value: float) -> float:
    """Return a number of few digits just above a probability; it may exceed 1."""
    exact = Decimal(max(value, _SMALLEST))
    step = Decimal(10) ** (exact.adjusted() + 1 - _DIGITS)
    rounded = exact.quantize(step, ROUND_CEILING)
    return float(rounded if rounded > exact else rounded + step)
