"""How many triples and helpful examples a training set holds, and which: counts that scale with the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from random import Random
from typing import NamedTuple, TypeVar

from derta.data.cleaning import match_key
from derta.data.methods import METHODS
from derta.errors import DataError
from derta.records import Example, Request, Triple, short_hash

T = TypeVar("T", Triple, Example)
Item = TypeVar("Item")
_INSTANCES_PER_TRIPLE = 2  # the paper counts (q, r) and (q, r-hat)


@dataclass(frozen=True, slots=True)
class Mixture:
    """What a training set is asked to hold.

    Attributes:
        triples: Triples that DeRTa gets (n); None takes what the data and the ratio allow. The paper has 3,000.
        helpful: Helpful examples; None takes `helpful_per_safety` for each safety instance (2n). The paper has 60,000.
        helpful_per_safety: Helpful examples for one safety instance.
        match_instances: Whether vanilla gets 2n triples, once each, so that its safety instances equal DeRTa's 2n, as
            in the paper; otherwise it gets the same n triples.
    """

    triples: int | None = None
    helpful: int | None = None
    helpful_per_safety: float = 10.0
    match_instances: bool = True


class MixtureCounts(NamedTuple):
    """What every method of a comparison gets: `triples` (vanilla: `vanilla_triples`) and `helpful` examples."""

    triples: int
    vanilla_triples: int
    helpful: int


class TrainingSet(NamedTuple):
    """What one method trains on, before it is turned into rows."""

    triples: list[Triple]
    examples: list[Example]


def plan_mixture(mixture: Mixture, *, available_triples: int, available_helpful: int) -> MixtureCounts:
    """Count out a mixture from what there is.

    With the paper's 6,000 triples and 60,000 helpful examples the defaults give the paper's counts:

    >>> plan_mixture(Mixture(), available_triples=6000, available_helpful=60000)
    MixtureCounts(triples=3000, vanilla_triples=6000, helpful=60000)

    Raises:
        DataError: a count or the ratio is negative, more is asked for than there is, or nothing would be left.
    """
    _check(mixture)
    share = 2 if mixture.match_instances else 1
    per_triple = mixture.helpful_per_safety * _INSTANCES_PER_TRIPLE
    triples = mixture.triples
    if triples is None:
        helpful = available_helpful if mixture.helpful is None else min(mixture.helpful, available_helpful)
        triples = available_triples // share
        # a hair's breadth against 0.1 * 30 = 3.0000000000000004
        triples = floor(min(triples, helpful / per_triple + 1e-9)) if per_triple else triples
    helpful = mixture.helpful if mixture.helpful is not None else round(triples * per_triple)
    counts = MixtureCounts(triples, triples * share, helpful)
    for name, asked, available in (
        ("triples", counts.vanilla_triples, available_triples),
        ("helpful examples", counts.helpful, available_helpful),
    ):
        if asked > available:
            raise DataError(
                f"mixture: asked for {asked} {name} ({_settings(mixture)}), {available} are available; "
                f"lower the counts or the ratio, or add {name}"
            )
    if counts.triples == 0:
        raise DataError(
            f"mixture: {available_triples} triples and {available_helpful} helpful examples leave no triple "
            f"to train on ({_settings(mixture)}); add data, lower `helpful_per_safety`, or set `triples`"
        )
    return counts


def _check(mixture: Mixture) -> None:
    ratio = mixture.helpful_per_safety
    if not 0 <= ratio <= 1000:
        raise DataError(f"mixture: helpful_per_safety: expected 0 to 1000, got {ratio}; the paper has 10")
    for name, count in (("triples", mixture.triples), ("helpful", mixture.helpful)):
        if count is not None and count < 0:
            raise DataError(f"mixture: {name}: expected a count from 0 up, got {count}")


def _settings(mixture: Mixture) -> str:
    said = [f"triples {mixture.triples}" if mixture.triples is not None else "triples by the ratio"]
    said += [f"helpful_per_safety {mixture.helpful_per_safety:g}"] if mixture.helpful is None else []
    said += ["vanilla takes twice as many; `match_instances: false` ends that"] if mixture.match_instances else []
    return ", ".join(said)


def draw_mixture(
    *, triples: Sequence[Triple], examples: Sequence[Example], counts: MixtureCounts, method: str, seed: int
) -> TrainingSet:
    """Draw one method's training set: the same for the same seed, whatever the order of the data.

    All methods get the same examples, and the triples of every method are among vanilla's.

    Raises:
        DataError: no such method, or fewer triples or examples than the counts ask for.
    """
    if method not in METHODS:
        raise DataError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    wanted = counts.vanilla_triples if METHODS[method].triples_per_unit > 1 else counts.triples
    return TrainingSet(
        _first(triples, wanted, seed=seed, what="triples"),
        _first(examples, counts.helpful, seed=seed, what="helpful examples"),
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


def hold_out_queries(triples: Sequence[Triple], count: int, *, rng: Random) -> HeldOut:
    """Hold `count` queries out of training, with all of their triples.

    Queries that differ in case, spacing or punctuation only are one query. Each held-out request carries the harmful
    answer of its first triple.

    Raises:
        DataError: there are fewer queries.
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
