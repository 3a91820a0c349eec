"""Threshold of the refusal probability for decoding, and its file.

A position is an alarm if the refusal tokens together have at least the threshold's probability there. The rate of false
alarms is that of benign answers: per reply (any of its positions is an alarm), or per position.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from derta.errors import DataError
from derta.files import decode, parse_json, parse_record, read_bytes, write_text
from derta.records import Record

Per = Literal["reply", "position"]
Later = tuple[tuple[int, float], ...]
"""Thresholds of later positions: each holds from its number of tokens on, until the next."""
DEPTH_STARTS = (0, 1, 6, 21, 51)
"""The positions, in tokens before them, at which the ranges of depths begin."""


class RefusalThreshold(Record):
    """A calibrated threshold, the contents of its file.

    Attributes:
        threshold: Smallest summed probability of the refusal tokens at which one of them is forced.
        later: Thresholds of later positions of the answer that replace it; empty for one threshold at all depths.
        token_ids: The refusal tokens: the first tokens of the refusal words, bare and after a space.
        refusal_words: Their words.
        model: Identity of the model: a hash of its files and of its adapter's (`derta.provenance`).
        false_alarm: The rate of false alarms that was asked for.
        per: What the rate counts: replies or positions.
        alarms: False alarms among the benign cases of the calibration.
        cases: Number of these cases: replies or positions; by depth half of the replies.
        replies: Number of benign replies.
        low: Lower end of the 95 % interval of the rate of false alarms; `high` is the upper end.
        logit_bias: Constant bias of the refusal tokens' logits for servers, calibrated at the same rate per reply.
        bias_alarms: False alarms of the bias among the replies.
        calibration: In a run, a hash of the model, the benign answers and the settings of the calibration.

    >>> RefusalThreshold(
    ...     threshold=0.2, token_ids=(5,), model={"model": "a"}, false_alarm=0.1, alarms=0, cases=9, replies=9, low=0,
    ...     high=0.34, logit_bias=1.5, bias_alarms=0,
    ... ).openai_logit_bias
    {'5': 1.5}
    """

    threshold: float = Field(gt=0, le=1)
    later: tuple[tuple[Annotated[int, Field(ge=1)], Annotated[float, Field(gt=0, le=1)]], ...] = ()
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
    calibration: str | None = None

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


def threshold_at(position: int, threshold: float, later: Later) -> float:
    """Return the threshold at a position, the number of the answer's tokens before it.

    >>> [threshold_at(position, 0.5, ((1, 0.2), (6, 0.1))) for position in (0, 5, 6, 99)]
    [0.5, 0.2, 0.1, 0.1]
    """
    return next((value for first, value in reversed(later) if position >= first), threshold)


def alarms_in(row: Sequence[float], threshold: float, later: Later = (), *, first: int = 0) -> bool:
    """Return whether a position from `first` on is an alarm.

    >>> alarms_in([0.4, 0.3, 0.1], 0.5, ((1, 0.3),)), alarms_in([0.4, 0.3, 0.1], 0.5, ((1, 0.3),), first=2)
    (True, False)
    """
    return any(value >= threshold_at(place, threshold, later) for place, value in enumerate(row) if place >= first)
