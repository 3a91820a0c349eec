"""Record of the refusal probability at each token of a reply."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from derta.messages import Record, Text
from derta.records import ReplyKey


class TokenRefusal(Record):
    """Refusal probability before each token of a reply, or of a held-out harmful answer.

    `probabilities[t]` is the probability, in 6 decimals, that token t is one that starts a refusal word, given the
    prompt and the tokens before t. It is the model's own, before bans and thresholds of decoding. `request`, `text` and
    `token_starts` are those of a held-out answer, whose `prompt_id` is the id of its request. `input_hash` and
    `producer` are the provenance.

    >>> TokenRefusal(prompt_id="direct:7", probabilities=(0.25, 0.001)).key
    ('direct:7', 0)
    """

    prompt_id: Text
    sample: int = Field(default=0, ge=0)
    probabilities: tuple[Annotated[float, Field(ge=0, le=1)], ...]
    request: str | None = None
    text: str | None = None
    token_starts: tuple[int, ...] | None = None
    input_hash: str | None = None
    producer: dict[str, str] | None = None

    @property
    def key(self) -> ReplyKey:
        """Key of the reply."""
        return self.prompt_id, self.sample
