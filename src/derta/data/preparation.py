"""Preparation of the training data: cleaning, decontamination, held-out splits and mixture counts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random
from typing import NamedTuple

from pydantic import ValidationError

from derta.config import PrepareConfig
from derta.data.cleaning import clean_examples, clean_triples
from derta.data.matching import RequestTurns, match_key, request_turns
from derta.data.mixture import (
    MixtureCounts,
    TrainingSet,
    draw_mixture,
    hold_out_requests,
    plan_mixture,
    sample,
    shuffle,
    unused_note,
)
from derta.data.preferences import Preference, clean_preferences
from derta.errors import DataError, did_you_mean
from derta.files import format_validation_error
from derta.records import REFUSAL_WORDS, Example, Prompt, Request, Triple

logger = logging.getLogger(__name__)


class PreparedData(NamedTuple):
    """Datasets for training and evaluation, the output of `prepare`.

    Attributes:
        triples: Triples for training; a training set is sampled from them.
        examples: Helpful examples for training.
        held_out_requests: Requests of no training triple, each with a harmful response for prefill attacks.
        held_out_examples: Helpful conversations that are not among `examples`.
        counts: Size of the training set of a method.
        dropped_triples: Number of dropped triples by reason (see `CleanTriples`).
        changed_triples: Number of changed safe responses by the kind of change.
        dropped_examples: Number of dropped helpful examples by reason.
        preferences: Pairs for a preference method, in addition to the triples.
        dropped_preferences: Number of dropped pairs by reason.
        counter: Counter examples, from which a method with `counter_per_triple` takes its own.
        dropped_counter: Number of dropped counter examples by reason.
    """

    triples: list[Triple]
    examples: list[Example]
    held_out_requests: list[Request]
    held_out_examples: list[Example]
    counts: MixtureCounts
    dropped_triples: Counter[str]
    changed_triples: Counter[str]
    dropped_examples: Counter[str]
    preferences: list[Preference]
    dropped_preferences: Counter[str]
    counter: list[Example]
    dropped_counter: Counter[str]

    def identity(self) -> str:
        """Return a hash of the data that training sets are sampled from."""
        return TrainingSet(self.triples, self.examples, self.preferences, self.counter).identity(str(self.counts))

    @property
    def notes(self) -> list[str]:
        """Summary of the remaining, dropped and changed data and of a method's training set, as sentences."""
        counts = self.counts
        if not counts.triples:  # nothing is trained
            return []
        vanilla = "" if counts.vanilla_triples is None else f" (vanilla: {counts.vanilla_triples})"
        notes = [
            f"{len(self.triples)} triples remain for training; dropped: {format_counts(self.dropped_triples)}; "
            f"changed: {format_counts(self.changed_triples)}.",
            f"{len(self.examples)} helpful examples remain for training; "
            f"dropped: {format_counts(self.dropped_examples)}.",
            f"Each method trains on {counts.triples} triples{vanilla} and {counts.helpful} helpful examples.",
        ]
        if self.preferences or self.dropped_preferences:
            notes.append(
                f"{len(self.preferences)} preferences remain in addition to the triples; "
                f"dropped: {format_counts(self.dropped_preferences)}."
            )
        if self.counter or self.dropped_counter:
            notes.append(
                f"{len(self.counter)} counter examples remain for training; "
                f"dropped: {format_counts(self.dropped_counter)}."
            )
        return notes

    def training_set(self, *, triples_per_unit: int = 1, seed: int = 0) -> TrainingSet:
        """Sample the triples and examples of a method, independent of the input order.

        Args:
            triples_per_unit: 1 for DeRTa; 2 for a method with one instance of a triple where DeRTa has two
                (`METHODS["vanilla"].triples_per_unit`), which gets twice as many triples with `match_instances`.
            seed: Random seed. All methods get the same examples for one seed, and each method's triples are a subset of
                vanilla's.

        Raises:
            DataError: The data was prepared for methods with one triple per unit only.
        """
        num_triples = self.counts.vanilla_triples if triples_per_unit > 1 else self.counts.triples
        if num_triples is None:
            raise DataError(
                f"training set: expected triples_per_unit 1, for which the data was prepared, got {triples_per_unit}; "
                "add vanilla to the methods, or prepare the data with the same triples_per_unit"
            )
        drawn = draw_mixture(
            triples=self.triples,
            examples=self.examples,
            num_triples=num_triples,
            num_helpful=self.counts.helpful,
            seed=seed,
        )
        return drawn._replace(preferences=self.preferences, counter=shuffle(self.counter, seed=seed))


def prepare(
    triples: Iterable[Triple],
    examples: Iterable[Example] = (),
    *,
    requests: Iterable[Request | Prompt | RequestTurns] = (),
    preferences: Iterable[Preference] = (),
    counter: Iterable[Example] = (),
    refusal_words: Sequence[str] = REFUSAL_WORDS,
    seed: int = 0,
    triples_per_unit: int = 2,
    **settings: object,
) -> PreparedData:
    """Return data for training and evaluation: clean, decontaminate, hold out, and compute the mixture.

    >>> triples = [Triple(query=f"Paint {i}?", safe="I'm sorry, but no.", harmful="Sure.") for i in range(6)]
    >>> prepared = prepare(triples, requests=["paint 3"], held_out_requests=1)
    >>> len(prepared.triples), dict(prepared.dropped_triples), prepared.triples[0].safe
    (4, {'in_evaluation': 1}, 'Sorry, but no.')
    >>> [len(part) for part in prepared.training_set()]
    [2, 0, 0, 0]

    Args:
        triples: Harmful requests, each with a safe and a harmful response.
        examples: Helpful examples. Without any, the mixture has none.
        requests: Evaluation data, which is removed from the training data: requests, prompts, texts, or the user turns
            of requests that are not the first of a conversation.
        preferences: Pairs for a preference method, in addition to the triples.
        counter: Counter examples: benign requests that look like harmful ones, with their answers. They are cleaned as
            `examples` are; those that are held out for perplexity are dropped, and those whose answer is a harmful
            response of the triples.
        refusal_words: Same as for training; `normalize` replaces apologies with the first one.
        seed: Random seed of the held-out split.
        triples_per_unit: Largest `triples_per_unit` of the methods to train. With 1, as without vanilla, no triples are
            reserved for `match_instances`. 0: nothing is trained, and no data is needed.
        **settings: Fields of `PrepareConfig`.

    Raises:
        DataError: An unknown option or an invalid value; a mixture that requires more data than is available; or a
            chosen response that is harmful.
    """
    config = _config(settings)
    examples = list(examples)
    if not examples:
        config = config.model_copy(update={"helpful_per_safety": 0.0})
    evaluated = [turns for turns in map(_request_turns, requests) if turns]
    rng = Random(f"{seed}:held-out")  # noqa: S311 - a reproducible draw
    clean = clean_triples(
        triples,
        evaluation_requests=evaluated,
        policy=config.policy,
        opener=config.opener,
        normalize_to=refusal_words[0] if config.normalize else None,
    )
    split = hold_out_requests(clean.triples, config.held_out_requests, rng=rng)
    evaluated += [request_turns(request.conversation) for request in split.requests]
    helpful = clean_examples(examples, evaluation_requests=evaluated, drop_duplicates=config.drop_duplicates)
    conversations = [example for example in helpful.examples if example.text is None]
    held_out = sample(conversations, config.held_out_helpful, rng=rng)
    held_out_ids = {example.id for example in held_out}
    remaining = [example for example in helpful.examples if example.id not in held_out_ids]
    harmful = [text for triple in clean.triples for text in (triple.harmful, *_harmful_turns(triple))]
    counters = clean_examples(counter, evaluation_requests=evaluated, drop_duplicates=config.drop_duplicates)
    unseen = [example for example in counters.examples if example.id not in held_out_ids]
    harmful_keys = {match_key(text) for text in harmful}
    benign = [one for one in unseen if one.text is not None or match_key(one.messages[-1].content) not in harmful_keys]
    pairs = clean_preferences(preferences, evaluation_requests=evaluated, harmful=harmful)
    counts = plan_mixture(
        config,
        available_triples=len(split.triples),
        available_helpful=len(remaining),
        triples_per_unit=triples_per_unit,
    )
    unused = unused_note(config, counts, available_triples=len(split.triples), available_helpful=len(remaining))
    if unused:
        logger.warning("%s", unused)
    return PreparedData(
        triples=split.triples,
        examples=remaining,
        held_out_requests=split.requests,
        held_out_examples=held_out,
        counts=counts,
        dropped_triples=clean.dropped,
        changed_triples=clean.changed,
        dropped_examples=helpful.dropped,
        preferences=pairs.preferences,
        dropped_preferences=pairs.dropped,
        counter=benign,
        dropped_counter=counters.dropped
        + Counter(held_out=len(counters.examples) - len(unseen), answer_is_harmful=len(unseen) - len(benign)),
    )


def _config(settings: dict[str, object]) -> PrepareConfig:
    """Validate the options as a `PrepareConfig`."""
    valid_names = PrepareConfig.model_fields
    if unknown := [name for name in settings if name not in valid_names]:
        raise DataError(f"prepare: unknown setting {unknown[0]!r}; {did_you_mean(unknown[0], valid_names)}")
    try:
        return PrepareConfig.model_validate(settings)
    except ValidationError as error:
        raise DataError(f"prepare: {format_validation_error(error)}; change the setting") from error


def _request_turns(request: Request | Prompt | RequestTurns) -> RequestTurns | None:
    """Return the user turns of a request; None for a prompt of another origin that has none."""
    if isinstance(request, Request):
        return request_turns(request.conversation)
    return request.request if isinstance(request, Prompt) else request


def _harmful_turns(triple: Triple) -> list[str]:
    return [triple.messages[turn].content for turn in triple.harmful_turns]


def format_counts(counts: Counter[str]) -> str:
    """Format counts by reason as text.

    >>> format_counts(Counter(duplicate=2, in_evaluation=1)), format_counts(Counter())
    ('2 duplicate, 1 in_evaluation', 'none')
    """
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "none"
