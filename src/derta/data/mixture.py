"""Mixture of triples and helpful examples in a training set: counts, seeded sampling and held-out requests."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from random import Random
from typing import NamedTuple, TypeVar

from derta.config import PrepareConfig
from derta.data.matching import RequestTurns, conversation_keys, request_key, request_turns
from derta.data.preferences import Preference
from derta.errors import DataError
from derta.records import Example, Request, Triple, context_keys, short_hash

T = TypeVar("T", Triple, Example)
Item = TypeVar("Item")
_INSTANCES_PER_TRIPLE = 2  # the paper counts (q, r) and (q, r-hat)
_USED = 0.9
"""Share of the triples that a mixture may use without a warning about the others."""


class MixtureCounts(NamedTuple):
    """Size of the training set of every method: `triples` (vanilla: `vanilla_triples`) and `helpful` examples.

    `vanilla_triples` is None if no method that is trained has vanilla's number of triples.
    """

    triples: int
    vanilla_triples: int | None
    helpful: int


class TrainingSet(NamedTuple):
    """Training set of one method, before tokenization.

    `counter` are the counter examples that a method may take, in the order in which it takes them.
    """

    triples: Sequence[Triple] = ()
    examples: Sequence[Example] = ()
    preferences: Sequence[Preference] = ()
    counter: Sequence[Example] = ()

    def identity(self, *settings: str) -> str:
        """Return a hash of the content, in order, and of `settings`.

        >>> TrainingSet([Triple(query="Bread?", safe="No.", harmful="Flour.")]).identity() == TrainingSet().identity()
        False
        """
        rows = (self.triples, self.examples, self.preferences, *([self.counter] if self.counter else []))
        return short_hash(*(",".join(one.id for one in each) for each in rows), *settings)


def plan_mixture(
    config: PrepareConfig, *, available_triples: int, available_helpful: int, triples_per_unit: int = 2
) -> MixtureCounts:
    """Compute the mixture counts from the numbers of available triples and examples.

    `triples_per_unit` is the largest one of the methods to train (see `Method.triples_per_unit`). If it is 1, as
    without vanilla, no triples are reserved for `match_instances`.

    With the paper's 6,000 triples and 60,000 helpful examples, the defaults give the paper's counts:

    >>> plan_mixture(PrepareConfig(), available_triples=6000, available_helpful=60000)
    MixtureCounts(triples=3000, vanilla_triples=6000, helpful=60000)
    >>> plan_mixture(PrepareConfig(), available_triples=3000, available_helpful=60000, triples_per_unit=1)
    MixtureCounts(triples=3000, vanilla_triples=None, helpful=60000)

    With 0, nothing is trained, and nothing is needed.

    Raises:
        DataError: The config requires more data than is available, or no triple remains.
    """
    if triples_per_unit == 0:
        return MixtureCounts(0, None, 0)
    share = 2 if config.match_instances and triples_per_unit > 1 else 1
    per_triple = config.helpful_per_safety * _INSTANCES_PER_TRIPLE
    triples, helpful = config.num_triples, config.num_helpful
    if triples is None:
        most = available_helpful if helpful is None else min(helpful, available_helpful)
        triples = available_triples // share
        # the tolerance absorbs rounding errors such as 0.1 * 30 = 3.0000000000000004
        triples = floor(min(triples, most / per_triple + 1e-9)) if per_triple else triples
    counts = MixtureCounts(
        triples,
        triples * share if triples_per_unit > 1 else None,
        helpful if helpful is not None else round(triples * per_triple),
    )
    settings = _settings(config, doubled=share > 1)
    for name, required, available in (
        ("triples", triples * share, available_triples),
        ("helpful examples", counts.helpful, available_helpful),
    ):
        if required > available:
            raise DataError(
                f"mixture: expected {required} {name} ({settings}), only {available} are available; "
                f"lower the counts or the ratio, or add {name}"
            )
    if counts.triples == 0:
        raise DataError(
            f"mixture: {available_triples} triples and {available_helpful} helpful examples are too few for one triple "
            f"to train on ({settings}); add data, lower `helpful_per_safety`, or set `num_triples`"
        )
    return counts


def unused_note(config: PrepareConfig, counts: MixtureCounts, *, available_triples: int, available_helpful: int) -> str:
    """Return a sentence on triples that are given and not trained on, with the key that leaves them out; else "".

    >>> counts = MixtureCounts(triples=8, vanilla_triples=None, helpful=160)
    >>> unused_note(PrepareConfig(), counts, available_triples=80, available_helpful=160).partition(":")[0]
    'Only 8 of 80 triples are trained on'
    """
    if not counts.triples:
        return ""
    used = max(counts.triples, counts.vanilla_triples or 0)
    share = used // counts.triples
    is_limited = config.num_triples is None and counts.triples < available_triples // share
    if not is_limited or used >= _USED * available_triples:
        return ""
    helpful, advice = available_helpful, "add helpful examples"
    if config.num_helpful is not None and config.num_helpful < available_helpful:
        helpful, advice = config.num_helpful, "raise `data.num_helpful`"
    return (
        f"Only {used} of {available_triples} triples are trained on: `data.helpful_per_safety` is "
        f"{config.helpful_per_safety:g}, which is {config.helpful_per_safety * _INSTANCES_PER_TRIPLE / share:g} "
        f"helpful examples for each, and there are {helpful}; {advice}, lower `data.helpful_per_safety`, or set "
        "`data.num_triples`."
    )


def _settings(config: PrepareConfig, *, doubled: bool) -> str:
    """Format the mixture options of a config for an error message; `doubled`: vanilla uses twice as many triples."""
    parts = [f"num_triples {config.num_triples}" if config.num_triples is not None else "triples by the ratio"]
    parts += [f"helpful_per_safety {config.helpful_per_safety:g}"] if config.num_helpful is None else []
    parts += ["vanilla uses twice as many, unless `match_instances: false`"] if doubled else []
    return ", ".join(parts)


def draw_mixture(
    *, triples: Sequence[Triple], examples: Sequence[Example], num_triples: int, num_helpful: int, seed: int
) -> TrainingSet:
    """Sample a training set by the seed, for any input order; a smaller set is a subset of a larger one.

    Raises:
        DataError: There are fewer triples or examples than required.
    """
    return TrainingSet(
        _first(triples, num_triples, seed=seed, what="triples"),
        _first(examples, num_helpful, seed=seed, what="helpful examples"),
    )


def _first(items: Sequence[T], count: int, *, seed: int, what: str) -> list[T]:
    """Return the `count` items with the lowest hash of seed and id."""
    if count > len(items):
        raise DataError(
            f"mixture: expected {count} {what}, only {len(items)} are available; lower the count or add data"
        )
    return shuffle(items, seed=seed)[:count]


def shuffle(items: Sequence[T], *, seed: int) -> list[T]:
    """Return the items in the order of the hash of seed and id, which is the same for any input order."""
    return sorted(items, key=lambda item: short_hash(str(seed), item.id))


class HeldOut(NamedTuple):
    """Triples for training, and held-out requests (each with a harmful response, for prefills) that no triple has."""

    triples: list[Triple]
    requests: list[Request]


def sample(items: Sequence[Item], count: int, *, rng: Random) -> list[Item]:
    """Sample `count` items without replacement, in their input order.

    >>> sample("abcdef", 3, rng=Random(0))
    ['a', 'd', 'f']

    Raises:
        DataError: `count` is negative or above the number of items.
    """
    if not 0 <= count <= len(items):
        raise DataError(f"sample: expected {count} items, only {len(items)} are available; lower the count")
    return [items[index] for index in sorted(rng.sample(range(len(items)), count))]


def hold_out_requests(triples: Sequence[Triple], count: int, *, rng: Random) -> HeldOut:
    """Split `count` requests off the training data, with all of their triples.

    Requests with the same normal form (`request_key`) are the same request. Each held-out request is returned with the
    context and the harmful response of its first triple. A triple with a held-out request as an earlier user turn is
    split off too.

    Raises:
        DataError: There are fewer requests than `count`.
    """
    first: dict[RequestTurns, Triple] = {}
    for triple in triples:
        first.setdefault(request_key(request_turns(triple.conversation)), triple)
    held_out = set(sample(list(first), count, rng=rng))
    requests = [_request_of(triple) for key, triple in first.items() if key in held_out]
    remaining = [triple for triple in triples if held_out.isdisjoint(conversation_keys(triple.conversation))]
    return HeldOut(remaining, requests)


def _request_of(triple: Triple) -> Request:
    return Request(
        id=short_hash(triple.query, *context_keys(triple.messages, triple.tools)),
        text=triple.query,
        category=triple.category,
        harmful=triple.harmful,
        messages=triple.messages,
        tools=triple.tools,
    )
