"""Likelihoods on held-out data: refusal probability on harmful and benign answers, and perplexity of helpful ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from math import exp
from pathlib import Path
from typing import NamedTuple

from derta.config import Recipe
from derta.data.preparation import PreparedData
from derta.errors import RecipeError
from derta.files import write_text
from derta.pipeline.data import read_profile
from derta.pipeline.request_sources import read_source
from derta.protocols import Engine
from derta.provenance import Producer, hash_value
from derta.records import Example, Prompt, Request, context_keys
from derta.stats import bootstrap_mean

SCORES = "scores.json"
DECODING_KEYS = ("refusal_threshold", "refusal_words")
"""Keys of a producer that a threshold of decoding adds."""


class Scores(NamedTuple):
    """Likelihood scores of a model.

    `refusal_probability` has a row for each held-out harmful answer, `benign_probability` one for each benign answer
    of the profile (none in files of earlier versions). `answer_losses` has the mean negative log-likelihood (nats a
    token) of each held-out helpful answer. `provenance` is a hash of the model and the data (see `ScoredData`).
    """

    refusal_probability: list[list[float]]
    answer_losses: list[float]
    provenance: str | None = None
    benign_probability: Sequence[Sequence[float]] = ()


class ScoredData(NamedTuple):
    """Answers that a run's models are scored on: harmful ones, helpful ones, and the benign ones of the profile."""

    harmful: list[Request]
    helpful: list[Example]
    benign: list[Example]

    def provenance(self, producer: Producer) -> str:
        """Return a hash of all that a model's scores depend on, which a threshold of decoding is not."""
        texts = [[one.text, one.harmful, *context_keys(one.messages, one.tools)] for one in self.harmful]
        ids = [one.id for one in self.helpful]
        benign = [[one.id for one in self.benign]] if self.benign else []
        measured = {key: value for key, value in producer.items() if key not in DECODING_KEYS}
        return hash_value([texts, ids, measured, _DEFINITION, *benign])

    @property
    def texts(self) -> list[tuple[Prompt, str]]:
        """The prompts of the likelihoods, each with the answer that is scored."""
        return [*harmful_texts(self.harmful), *map(example_text, [*self.helpful, *self.benign])]


_DEFINITION = "probability of whole refusal words"
"""What the scores measure: part of their provenance, so that scores of an earlier definition are measured again."""


def read_scores(home: Path) -> Scores:
    """Load a model's scores from its folder."""
    return Scores(**json.loads((home / SCORES).read_text(encoding="utf-8")))


def scored_data(recipe: Recipe, prepared: PreparedData) -> ScoredData:
    """Return the answers that a recipe's models are scored on.

    Raises:
        RecipeError: the profile's source has too few benign answers, or data that is no conversations.
    """
    source = recipe.profile_requests
    requests = prepared.held_out_requests if source is None else read_source(source)
    harmful = [request for request in requests if request.harmful][: recipe.profile_answers]
    return ScoredData(harmful, prepared.held_out_examples, _benign_examples(recipe, prepared))


def _benign_examples(recipe: Recipe, prepared: PreparedData) -> list[Example]:
    count = recipe.profile_benign
    found = answered(prepared.held_out_examples if recipe.profile_examples is None else read_profile(recipe))
    if len(found) < count:
        raise RecipeError(
            f"profile_benign: expected at least {count} held-out conversations with an answer, got {len(found)}; raise "
            "data.held_out_helpful, set profile_examples to a source of more, or lower profile_benign"
        )
    return found[:count]


def answered(examples: Iterable[Example]) -> list[Example]:
    """Return the examples that are conversations with an answer, and no raw text."""
    return [one for one in examples if len(one.messages) > 1 and one.messages[-1].is_text]


def score_held_out(
    engine: Engine, data: ScoredData, *, producer: Producer, home: Path, others: Iterable[Path] = ()
) -> Scores:
    """Measure likelihoods on held-out data, and keep them in the model's folder; scores of today are kept.

    Those of the same model in one of the `others`, folders that decode it in another way, are copied.
    """
    provenance = data.provenance(producer)
    for folder in (home, *others):
        if (folder / SCORES).exists() and (scores := read_scores(folder)).provenance == provenance:
            if folder != home:
                write_text(home / SCORES, json.dumps(scores._asdict()) + "\n")
            return scores
    helpful = list(map(example_text, data.helpful))
    log_probs = engine.log_likelihood(*_columns(helpful)) if helpful else []
    scores = Scores(
        _refusal_probability(engine, harmful_texts(data.harmful)),
        [-sum(row) / len(row) for row in log_probs],
        provenance,
        _refusal_probability(engine, list(map(example_text, data.benign))),
    )
    write_text(home / SCORES, json.dumps(scores._asdict()) + "\n")
    return scores


def _refusal_probability(engine: Engine, texts: Sequence[tuple[Prompt, str]]) -> list[list[float]]:
    return engine.refusal_probability(*_columns(texts)) if texts else []


def _columns(texts: Sequence[tuple[Prompt, str]]) -> tuple[list[Prompt], list[str]]:
    return [prompt for prompt, _ in texts], [text for _, text in texts]


def harmful_texts(requests: Iterable[Request]) -> list[tuple[Prompt, str]]:
    """Return the prompts of harmful requests, without any attack, each with its harmful answer."""
    return [(direct_prompt(one), one.harmful or "") for one in requests]


def example_text(example: Example) -> tuple[Prompt, str]:
    """Return the prompt of an example, without any attack, and its answer."""
    prompt = Prompt(
        id=example.id, request_id=example.id, attack="direct", messages=example.messages[:-1], tools=example.tools
    )
    return prompt, example.messages[-1].content


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


def perplexity_notes(scores: Mapping[tuple[str, int], Scores]) -> list[str]:
    """Format the perplexity of held-out helpful answers, and its ratio to the first method's, paired by answer."""
    measured = [(key, one.answer_losses) for key, one in scores.items() if one.answer_losses]
    notes: list[str] = []
    for (method, seed), losses in measured:
        first = [(s, other) for (name, s), other in measured if name == measured[0][0][0]]
        base = next((other for s, other in first if s == seed), first[0][1])
        mean = sum(losses) / len(losses)
        note = f"{method}, seed {seed}: perplexity of {len(losses)} held-out helpful answers {exp(mean):.2f}"
        if losses is not base:
            shift = bootstrap_mean([a - b for a, b in zip(losses, base, strict=True)])
            ratio = [None if x is None else f"{exp(x):.3f}" for x in (shift.value, shift.low, shift.high)]
            note += f", {ratio[0]} times that of {measured[0][0][0]} (95 % interval {ratio[1]} to {ratio[2]})"
        notes.append(note + ".")
    return notes
