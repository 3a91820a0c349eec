"""How many triples and helpful examples a training set holds, and which: counts that scale with the data."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from random import Random
from typing import NamedTuple, TypeVar

from derta.config import PrepareConfig
from derta.data.cleaning import match_key
from derta.data.preferences import Preference
from derta.errors import DataError
from derta.records import Example, Request, Triple, short_hash

T = TypeVar("T", Triple, Example)
Item = TypeVar("Item")
_INSTANCES_PER_TRIPLE = 2  # the paper counts (q, r) and (q, r-hat)


class MixtureCounts(NamedTuple):
    """What every method of a comparison gets: `triples` (vanilla: `vanilla_triples`) and `helpful` examples."""

    triples: int
    vanilla_triples: int
    helpful: int


class TrainingSet(NamedTuple):
    """What one method trains on, before it is turned into rows."""

    triples: Sequence[Triple] = ()
    examples: Sequence[Example] = ()
    preferences: Sequence[Preference] = ()


def plan_mixture(config: PrepareConfig, *, available_triples: int, available_helpful: int) -> MixtureCounts:
    """Count out a mixture from what there is.

    With the paper's 6,000 triples and 60,000 helpful examples the defaults give the paper's counts:

    >>> plan_mixture(PrepareConfig(), available_triples=6000, available_helpful=60000)
    MixtureCounts(triples=3000, vanilla_triples=6000, helpful=60000)

    Raises:
        DataError: more is asked for than there is, or nothing would be left.
    """
    share = 2 if config.match_instances else 1
    per_triple = config.helpful_per_safety * _INSTANCES_PER_TRIPLE
    triples, helpful = config.num_triples, config.num_helpful
    if triples is None:
        most = available_helpful if helpful is None else min(helpful, available_helpful)
        triples = available_triples // share
        # a hair's breadth against 0.1 * 30 = 3.0000000000000004
        triples = floor(min(triples, most / per_triple + 1e-9)) if per_triple else triples
    counts = MixtureCounts(triples, triples * share, helpful if helpful is not None else round(triples * per_triple))
    for name, wanted, available in (
        ("triples", counts.vanilla_triples, available_triples),
        ("helpful examples", counts.helpful, available_helpful),
    ):
        if wanted > available:
            raise DataError(
                f"mixture: asked for {wanted} {name} ({_settings(config)}), {available} are available; "
                f"lower the counts or the ratio, or add {name}"
            )
    if counts.triples == 0:
        raise DataError(
            f"mixture: {available_triples} triples and {available_helpful} helpful examples leave no triple "
            f"to train on ({_settings(config)}); add data, lower `helpful_per_safety`, or set `num_triples`"
        )
    return counts


def _settings(config: PrepareConfig) -> str:
    parts = [f"num_triples {config.num_triples}" if config.num_triples is not None else "triples by the ratio"]
    parts += [f"helpful_per_safety {config.helpful_per_safety:g}"] if config.num_helpful is None else []
    parts += ["vanilla takes twice as many; `match_instances: false` ends that"] if config.match_instances else []
    return ", ".join(parts)


def draw_mixture(
    *, triples: Sequence[Triple], examples: Sequence[Example], num_triples: int, num_helpful: int, seed: int
) -> TrainingSet:
    """Draw a training set: the same for the same seed, whatever the order of the data; fewer are among more.

    Raises:
        DataError: there are fewer triples or examples.
    """
    return TrainingSet(
        _first(triples, num_triples, seed=seed, what="triples"),
        _first(examples, num_helpful, seed=seed, what="helpful examples"),
    )


def _first(items: Sequence[T], count: int, *, seed: int, what: str) -> list[T]:
    if count > len(items):
        raise DataError(f"mixture: asked for {count} {what}, {len(items)} are available; lower the counts or add data")
    return sorted(items, key=lambda item: short_hash(str(seed), item.id))[:count]


class HeldOut(NamedTuple):
    """Triples to train on, and requests (each with a harmful answer, for prefills) that none of them asks."""

    triples: list[Triple]
    requests: list[Request]


def sample(items: Sequence[Item], count: int, *, rng: Random) -> list[Item]:
    """Draw `count` items without repetition, in the order they stand in.

    >>> sample("abcdef", 3, rng=Random(0))
    ['a', 'd', 'f']

    Raises:
        DataError: more are asked for than there are, or fewer than none.
    """
    if not 0 <= count <= len(items):
        raise DataError(f"sample: asked for {count} items, {len(items)} are available; lower the count")
    return [items[index] for index in sorted(rng.sample(range(len(items)), count))]


def hold_out_requests(triples: Sequence[Triple], count: int, *, rng: Random) -> HeldOut:
    """Hold `count` requests out of training, with all of their triples.

    Requests that differ in case, spacing or punctuation only are one request. Each held-out request carries the harmful
    answer of its first triple.

    Raises:
        DataError: there are fewer requests.
    """
    first: dict[str, Triple] = {}
    for triple in triples:
        first.setdefault(match_key(triple.query), triple)
    held_out = set(sample(list(first), count, rng=rng))
    requests = [
        Request(
            id=short_hash(first[key].query),
            text=first[key].query,
            category=first[key].category,
            harmful=first[key].harmful,
        )
        for key in first
        if key in held_out
    ]
    return HeldOut([triple for triple in triples if match_key(triple.query) not in held_out], requests)
