"""Configuration of the training data: data preparation, and the data sources of a recipe."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from derta.config.engines import EngineConfig
from derta.config.sections import Section, Sources, SourceSection

SafePolicy = Literal["drop", "prepend", "keep", "rewrite"]
DEFAULT_OPENER = "Sorry, I can't help with that."


class PrepareConfig(Section):
    """Settings of data preparation, from triples and helpful examples to training data; the defaults are the paper's.

    Attributes:
        policy: Treatment of a safe response that does not start with a refusal: `drop` the triple, `prepend` the
            opener, `keep` the response unchanged, or `rewrite` it by a model, in a recipe with a `rewriter`.
        opener: Sentence that `prepend` adds before a safe response.
        normalize: Shorten an apology at the start to the refusal word ("I'm sorry, but" to "Sorry, but").
        num_triples: Number of triples for DeRTa (n). None: as many as the data and the ratio allow. The paper has
            3,000.
        num_helpful: Number of helpful examples. None: `helpful_per_safety` for each safety instance (2n). The paper
            has 60,000.
        helpful_per_safety: Number of helpful examples per safety instance.
        match_instances: Train vanilla on 2n triples, once each, so that it has as many safety instances as DeRTa (2n),
            as in the paper. Otherwise vanilla has the same n triples. It has no effect if no method of the recipe has
            vanilla's number of triples.
        drop_duplicates: Drop duplicate helpful examples. Otherwise each copy is a training example.
        held_out_requests: Number of requests held out from training, with their triples, for evaluation.
        held_out_helpful: Number of helpful conversations held out from training, for perplexity.
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


class AnswerSource(SourceSection):
    """Configuration of a source of requests with answers.

    Attributes:
        answers: `source`: the answers of the source. `model`: the untuned model's own answers, generated before
            training (see `pipeline.distillation`); those of the source are not used. With the format of a request
            dataset, the source needs no answers.
    """

    answers: Literal["source", "model"] = "source"


class RewriterSection(EngineConfig):
    """The model that rewrites safe responses which do not refuse (`policy: rewrite`).

    Attributes:
        max_new_tokens: Maximum number of new tokens of a response; the triple of a longer one is dropped.
    """

    max_new_tokens: int = Field(default=160, ge=1)


class DataSection(PrepareConfig):
    """The `data` section of a recipe: data sources and the settings of preparation.

    Attributes:
        triples: Safety data: harmful requests, each with a safe and a harmful response; columns in docs/data.md.
        helpful: Helpful data: requests or conversations with answers.
        counter: Counter examples: benign requests that look like harmful ones, answered (`counter_per_triple`).
        distill_tokens: Maximum length in tokens of the model's own answers (`answers: model`); longer ones are dropped.
        preferences: Rows of {query, chosen, rejected}, the training data of preference methods (dpo) in addition to the
            triples.
        exclude: Requests to exclude from training, in addition to those that the recipe evaluates.
        max_pairs_per_request: Maximum number of triples per request, for sources with responses that are labelled one
            by one.
        rewriter: The model of `policy: rewrite`.
    """

    triples: Sources[SourceSection]
    helpful: Sources[AnswerSource]
    counter: Sources[AnswerSource] = ()
    preferences: Sources[SourceSection] = ()
    exclude: Sources[SourceSection] = ()
    max_pairs_per_request: int = Field(default=1, ge=1)
    distill_tokens: int = Field(default=512, ge=1)
    rewriter: RewriterSection | None = None

    @model_validator(mode="after")
    def _has_rewriter(self) -> Self:
        if self.policy == "rewrite" and self.rewriter is None:
            raise ValueError("expected a `rewriter` with `policy: rewrite`, got none; add `rewriter: {model: ...}`")
        if self.policy != "rewrite" and self.rewriter is not None:
            raise ValueError(f"expected no `rewriter` with `policy: {self.policy}`, got one; remove it")
        return self
