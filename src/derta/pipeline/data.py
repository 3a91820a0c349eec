"""From a recipe's data section to what each method trains on, with every dropped row counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from os.path import isfile
from pathlib import Path
from random import Random
from typing import NamedTuple

from derta.chat import ChatFormat, RefusalTokens
from derta.config import DataSection, EvaluationSection, Recipe, SourceSection
from derta.data.cleaning import clean_examples, clean_triples
from derta.data.encoding import encode_example, encode_triple
from derta.data.helpful import read_examples
from derta.data.methods import METHODS
from derta.data.mixture import Mixture, MixtureCounts, draw_mixture, hold_out_queries, plan_mixture, sample
from derta.data.preferences import (
    EncodedPair,
    Preference,
    clean_preferences,
    encode_preference,
    read_preferences,
    triple_pair,
)
from derta.data.requests import read_requests
from derta.data.rows import Instance, instances
from derta.data.triples import read_triples
from derta.files import read_records
from derta.records import Example, Prompt, Request, Triple


class Prepared(NamedTuple):
    """A recipe's data, cleaned and counted out. `notes` say in sentences what was dropped.

    `preferences` are what the recipe's `dpo.pairs` add to the triples, where a method learns from pairs.
    """

    triples: list[Triple]
    examples: list[Example]
    held_out_examples: list[Example]
    held_out_requests: list[Request]
    counts: MixtureCounts
    notes: list[str]
    preferences: list[Preference]


def prepare_data(recipe: Recipe) -> Prepared:
    """Read, clean, hold out, and count the mixture. All seeds hold out the same rows, for all are asked the same."""
    data = recipe.data
    rng = Random(f"{recipe.seeds[0]}:held-out")  # noqa: S311 - a reproducible draw
    asked = evaluated_texts(recipe)
    read = [read_source_triples(data, source) for source in data.triples]
    dropped: Counter[str] = sum((counts for _, counts in read), Counter())
    clean = clean_triples(
        [triple for triples, _ in read for triple in triples],
        evaluation_requests=asked,
        policy=data.policy,
        opener=data.opener,
        normalize_to=recipe.model.refusal_words[0] if data.normalize else None,
    )
    triples, held_out_requests = hold_out_queries(clean.triples, data.held_out_queries, rng=rng)
    asked += [request.text for request in held_out_requests]
    examples, helpful_dropped = read_helpful(data.helpful, asked)
    held_out_examples = sample([one for one in examples if one.text is None], data.held_out_helpful, rng=rng)
    held_out_ids = {example.id for example in held_out_examples}
    examples = [example for example in examples if example.id not in held_out_ids]
    mixture = Mixture(data.num_triples, data.num_helpful, data.helpful_per_safety, data.match_instances)
    counts = plan_mixture(mixture, available_triples=len(triples), available_helpful=len(examples))
    notes = [
        f"{len(triples)} triples are left for training; dropped: {told_counts(dropped + clean.dropped)}; "
        f"changed: {told_counts(clean.changed)}.",
        f"{len(examples)} helpful examples are left for training; dropped: {told_counts(helpful_dropped)}.",
        f"Each method trains on {counts.triples} triples (vanilla: {counts.vanilla_triples}) and {counts.helpful} "
        "helpful examples.",
    ]
    preferences, pair_notes = _read_pairs(recipe, asked=asked, triples=clean.triples)
    return Prepared(triples, examples, held_out_examples, held_out_requests, counts, [*notes, *pair_notes], preferences)


def evaluation_sources(recipe: Recipe) -> list[SourceSection]:
    """The files of requests that must not be trained on."""
    evaluated = [section.requests for section in recipe.evaluate if isinstance(section.requests, SourceSection)]
    return [*evaluated, *recipe.data.exclude]


def evaluated_texts(recipe: Recipe) -> list[str]:
    """The requests that must not be trained on, but for those that are held out of the triples."""
    requests = [request.text for source in evaluation_sources(recipe) for request in read_source(source)]
    paths = [Path(section.prompts) for section in recipe.evaluate if section.prompts is not None]
    return [*requests, *(one.request for path in paths for one in read_records(path, Prompt) if one.request)]


def input_files(recipe: Recipe) -> list[Path]:
    """The local files a run depends on."""
    sources = [*recipe.data.triples, *recipe.data.helpful, *recipe.dpo.pairs, *evaluation_sources(recipe)]
    sources += [source for attack in recipe.fine_tuning_attacks for source in (*attack.helpful, *attack.harmful)]
    options = [str(value) for section in recipe.evaluate for value in section.options.values()]
    prompts = [section.prompts for section in recipe.evaluate if section.prompts is not None]
    names = [*(source.path for source in sources), *prompts, *options]
    return [Path(name) for name in names if isfile(name)]  # noqa: PTH113 - Path.is_file raises on a long text


def read_source(source: SourceSection) -> list[Request]:
    """All requests of a source, whatever its limit."""
    return read_requests(source.path, format=source.format, split=source.split)


def section_requests(section: EvaluationSection, *, held_out: Sequence[Request], seed: int) -> list[Request]:
    """The requests that an evaluation asks; a limit draws that many, the same for the same seed."""
    if not isinstance(section.requests, SourceSection):
        return list(held_out)
    found = read_source(section.requests)
    limit = section.requests.limit
    return found if limit is None else sample(found, limit, rng=Random(f"{seed}:requests"))  # noqa: S311


def read_source_triples(data: DataSection, source: SourceSection) -> tuple[list[Triple], Counter[str]]:
    """A source's triples, and how much of it was dropped for which reason."""
    read = read_triples(
        source.path, format=source.format, max_pairs_per_query=data.max_pairs_per_query, split=source.split
    )
    return read.triples[: source.limit], read.dropped


def read_helpful(sources: Sequence[SourceSection], asked: Sequence[str]) -> tuple[list[Example], Counter[str]]:
    """The sources' examples that ask nothing of what is asked, and how much was dropped for which reason."""
    read = [(read_examples(s.path, format=s.format, split=s.split), s.limit) for s in sources]
    clean = clean_examples(
        [example for found, limit in read for example in found.examples[:limit]], evaluation_requests=asked
    )
    dropped = sum((found.dropped for found, _ in read), Counter[str]())
    return clean.examples, dropped + clean.dropped


def _read_pairs(
    recipe: Recipe, *, asked: Sequence[str], triples: Sequence[Triple]
) -> tuple[list[Preference], list[str]]:
    """The pairs of a recipe that has a method for them, and what is told about them."""
    if not recipe.dpo.pairs or not any(METHODS[method].pairs for method in recipe.methods):
        return [], []
    read = [read_preferences(s.path, format=s.format, split=s.split)[: s.limit] for s in recipe.dpo.pairs]
    clean = clean_preferences(
        [one for found in read for one in found],
        evaluation_requests=asked,
        harmful=[triple.harmful for triple in triples],
    )
    told = (
        f"{len(clean.preferences)} pairs are left beside the triples, for dpo; dropped: {told_counts(clean.dropped)}."
    )
    return clean.preferences, [told]


def told_counts(counts: Counter[str]) -> str:
    """Counts by reason, in words."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "none"


def method_instances(
    prepared: Prepared, *, method: str, chat: ChatFormat, refusals: RefusalTokens, seed: int
) -> list[Instance]:
    """One method's training set as encoded instances."""
    drawn = draw_mixture(
        triples=prepared.triples, examples=prepared.examples, counts=prepared.counts, method=method, seed=seed
    )
    return instances(
        method,
        triples=[encode_triple(chat, triple, refusals=refusals) for triple in drawn.triples],
        examples=[encode_example(chat, example) for example in drawn.examples],
    )


def method_pairs(
    prepared: Prepared, *, method: str, chat: ChatFormat, refusals: RefusalTokens, seed: int
) -> list[EncodedPair]:
    """What a method of pairs learns from: its triples, and the recipe's own pairs."""
    drawn = draw_mixture(
        triples=prepared.triples, examples=prepared.examples, counts=prepared.counts, method=method, seed=seed
    )
    pairs = [triple_pair(encode_triple(chat, triple, refusals=refusals)) for triple in drawn.triples]
    return [*pairs, *(encode_preference(chat, one) for one in prepared.preferences)]
