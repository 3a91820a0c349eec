"""Settings of sampled replies: temperature, nucleus, number of samples, and the random seed of each reply."""

from __future__ import annotations

from math import isfinite
from typing import Annotated

from pydantic import Field, model_validator

from derta.messages import Record, short_hash

NUM_SEEDS = 2**31
"""Number of random seeds; those of all servers are integers from 0 to this."""


class Sampling(Record):
    """Settings of decoding: greedy with a temperature of 0, else sampled.

    Logits are divided by `temperature`. Of the tokens only the nucleus can be drawn: the fewest most likely tokens
    whose probabilities sum to `top_p` or more (Holtzman et al. 2020). The replies of a prompt are its samples
    0 … `num_samples` − 1.

    The random seed of a reply depends on `seed`, the prompt's id and the number of the sample, and on nothing else: not
    on other prompts, batches, or the number of samples.

    >>> sampling = Sampling(temperature=0.7, num_samples=3)
    >>> sampling.numbers, sampling.reply_seed("direct:7", 2) == sampling.reply_seed("direct:7", 0) + 2
    ((0, 1, 2), True)
    >>> sampling.only((2,)).numbers, GREEDY.is_greedy
    ((2,), True)

    Attributes:
        temperature: 0 is greedy.
        top_p: Probability of the nucleus; 1 is the whole distribution.
        num_samples: Number of replies to each prompt.
        seed: Seed of all samples.
        chosen: Numbers of the samples to generate; None: all. Set by `only`.
    """

    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    num_samples: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)
    chosen: Annotated[tuple[int, ...] | None, Field(exclude_if=lambda numbers: numbers is None)] = None

    @model_validator(mode="after")
    def _check_together(self) -> Sampling:
        if not isfinite(self.temperature):
            raise ValueError(f"expected a finite temperature, got {self.temperature}")
        if self.is_greedy and self.num_samples > 1:
            raise ValueError(
                f"expected a temperature above 0 for {self.num_samples} samples, which are all the same at 0; set one"
            )
        if self.is_greedy and self.top_p < 1:
            raise ValueError(f"expected a temperature above 0 with top_p {self.top_p:g}, which changes nothing at 0")
        return self

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always chosen."""
        return self.temperature == 0

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the samples to generate."""
        return tuple(range(self.num_samples)) if self.chosen is None else self.chosen

    def only(self, numbers: tuple[int, ...]) -> Sampling:
        """Return the settings for some of the samples."""
        return self.model_copy(update={"chosen": numbers})

    def reply_seed(self, prompt_id: str, sample: int) -> int:
        """Return the random seed of a reply: a hash of `seed` and the prompt's id, plus the number of the sample.

        The samples of a prompt have different seeds.
        """
        return (int(short_hash("sample", str(self.seed), prompt_id), 16) + sample) % NUM_SEEDS

    def seed_of(self, prompt_id: str, sample: int) -> int | None:
        """Return the random seed that a reply records; None with greedy decoding."""
        return None if self.is_greedy else self.reply_seed(prompt_id, sample)

    @property
    def producer(self) -> dict[str, str]:
        """The part of a reply's provenance that sampling adds; empty with greedy decoding."""
        if self.is_greedy:
            return {}
        return {"temperature": repr(self.temperature), "top_p": repr(self.top_p), "seed": str(self.seed)}


GREEDY = Sampling()
"""Greedy decoding: one reply to each prompt."""
