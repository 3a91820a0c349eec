"""What is trained on: the settings of preparation, and a recipe's sources."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from derta.config.sections import Section, SourceSection

SafePolicy = Literal["drop", "prepend", "keep"]
DEFAULT_OPENER = "Sorry, I can't help with that."


class PrepareConfig(Section):
    """How triples and helpful examples become training data; the defaults are the paper's.

    Attributes:
        policy: For a safe response that does not open with a refusal: `drop` the triple, `prepend` the opener to it,
            or `keep` it as it is.
        opener: The sentence that `prepend` puts before a safe response.
        normalize: Whether an opening apology is shortened to the refusal word ("I'm sorry, but" to "Sorry, but").
        num_triples: Triples for DeRTa (n); None takes what the data and the ratio allow. The paper has 3,000.
        num_helpful: Helpful examples; None takes `helpful_per_safety` for each safety instance (2n). The paper has
            60,000.
        helpful_per_safety: Helpful examples for one safety instance.
        match_instances: Whether vanilla gets 2n triples, once each, so that its safety instances equal DeRTa's 2n, as
            in the paper; otherwise it gets the same n triples.
        drop_duplicates: Whether a helpful example that comes again is dropped; otherwise it counts each time it comes.
        held_out_requests: Requests kept out of training with their triples, to evaluate on.
        held_out_helpful: Helpful conversations kept out of training, to measure perplexity on.
    """

    policy: SafePolicy = "drop"
    opener: str = DEFAULT_OPENER
    normalize: bool = True
    num_triples: int | None = Field(default=None, ge=1)
    num_helpful: int | None = Field(default=None, ge=0)
    helpful_per_safety: float = Field(default=10.0, ge=0, le=1000)
    match_instances: bool = True
    drop_duplicates: bool = True
    held_out_requests: int = Field(default=0, ge=0)
    held_out_helpful: int = Field(default=0, ge=0)


class DataSection(PrepareConfig):
    """A recipe's data: its sources, and how they are prepared.

    Attributes:
        preferences: Rows of {query, chosen, rejected} that preference methods (dpo) learn beside the triples.
        exclude: Requests that must not be trained on, beside those that the recipe evaluates.
        max_pairs_per_request: Triples made of one request, where a source has responses judged one by one.
    """

    triples: tuple[SourceSection, ...]
    helpful: tuple[SourceSection, ...]
    preferences: tuple[SourceSection, ...] = ()
    exclude: tuple[SourceSection, ...] = ()
    max_pairs_per_request: int = Field(default=1, ge=1)
