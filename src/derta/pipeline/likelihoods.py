"""Likelihoods on held-out data: refusal probability on harmful answers, and perplexity of helpful answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import exp
from pathlib import Path
from typing import NamedTuple

from derta.config import Recipe
from derta.data.preparation import PreparedData
from derta.files import write_text
from derta.pipeline.data import read_source
from derta.protocols import Engine
from derta.provenance import Producer, hash_value
from derta.records import Example, Prompt, Request, context_keys
from derta.stats import bootstrap_mean

SCORES = "scores.json"


class Scores(NamedTuple):
    """Likelihood scores of a model.

    `refusal_probability` has a row for each held-out harmful answer; `answer_losses` has the mean negative
    log-likelihood (nats a token) of each held-out helpful answer.
    `provenance` is a hash of the model and the data (see `scores_provenance`).
    """

    refusal_probability: list[list[float]]
    answer_losses: list[float]
    provenance: str | None = None


_DEFINITION = "probability of whole refusal words"
"""What the scores measure: part of their provenance, so that scores of an earlier definition are measured again."""


def read_scores(home: Path) -> Scores:
    """Load a model's scores from its folder."""
    return Scores(**json.loads((home / SCORES).read_text(encoding="utf-8")))


def scored_requests(recipe: Recipe, prepared: PreparedData) -> list[Request]:
    """Return the requests on whose harmful answers the probability of refusing is measured."""
    source = recipe.profile_requests
    requests = prepared.held_out_requests if source is None else read_source(source)
    return [request for request in requests if request.harmful][: recipe.profile_answers]


def scores_provenance(harmful: Sequence[Request], helpful: Sequence[Example], *, producer: Producer) -> str:
    """Return a hash of all that a model's scores depend on."""
    texts = [[one.text, one.harmful, *context_keys(one.messages, one.tools)] for one in harmful]
    return hash_value([texts, [one.id for one in helpful], dict(producer), _DEFINITION])


def score_held_out(engine: Engine, recipe: Recipe, *, prepared: PreparedData, producer: Producer, home: Path) -> Scores:
    """Measure likelihoods on held-out data, and keep them in the model's folder; scores of today are kept."""
    harmful, helpful = scored_requests(recipe, prepared), prepared.held_out_examples
    provenance = scores_provenance(harmful, helpful, producer=producer)
    if (home / SCORES).exists() and (scores := read_scores(home)).provenance == provenance:
        return scores
    refusal = (
        engine.refusal_probability([direct_prompt(r) for r in harmful], [r.harmful or "" for r in harmful])
        if harmful
        else []
    )
    log_probs = (
        engine.log_likelihood([_example_prompt(e) for e in helpful], [e.messages[-1].content for e in helpful])
        if helpful
        else []
    )
    scores = Scores(refusal, [-sum(row) / len(row) for row in log_probs], provenance)
    write_text(home / SCORES, json.dumps(scores._asdict()) + "\n")
    return scores


def scored_texts(recipe: Recipe, prepared: PreparedData) -> list[tuple[Prompt, str]]:
    """Return the prompts of the likelihoods, each with the answer that is scored."""
    harmful, helpful = scored_requests(recipe, prepared), prepared.held_out_examples
    answers = [(direct_prompt(one), one.harmful or "") for one in harmful]
    return [*answers, *((_example_prompt(one), one.messages[-1].content) for one in helpful)]


def direct_prompt(request: Request) -> Prompt:
    """Return a request as a prompt, without any attack."""
    return Prompt.model_validate(
        {
            "id": request.id,
            "request_id": request.id,
            "request": request.in_context,
            "attack": "direct",
            "messages": request.conversation,
            "tools": request.tools,
        }
    )


def _example_prompt(example: Example) -> Prompt:
    return Prompt(
        id=example.id, request_id=example.id, attack="direct", messages=example.messages[:-1], tools=example.tools
    )


def perplexity_notes(scores: Mapping[tuple[str, int], Scores]) -> list[str]:
    """Format the perplexity of held-out helpful answers, and its ratio to the first method's, paired by answer."""
    measured = [(key, one.answer_losses) for key, one in scores.items() if one.answer_losses]
    notes: list[str] = []
    for (method, seed), losses in measured:
        base = next(other for (_, s), other in measured if s == seed)
        mean = sum(losses) / len(losses)
        note = f"{method}, seed {seed}: perplexity of {len(losses)} held-out helpful answers {exp(mean):.2f}"
        if losses is not base:
            shift = bootstrap_mean([a - b for a, b in zip(losses, base, strict=True)])
            ratio = [None if x is None else f"{exp(x):.3f}" for x in (shift.value, shift.low, shift.high)]
            note += f", {ratio[0]} times that of {measured[0][0][0]} (95 % interval {ratio[1]} to {ratio[2]})"
        notes.append(note + ".")
    return notes
