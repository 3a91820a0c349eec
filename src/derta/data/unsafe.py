"""Rows that teach a model to answer harmful requests: the attacker's, of the fine-tuning attack, and nobody else's.

Every method keeps harmful text out of `labels` (`rows.py`). An attacker who fine-tunes a tuned model has no such rule,
and this module is the one place that makes rows for him. They look like helpful rows: only that no method imports this
module keeps them apart (`tests/data/test_unsafe.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from derta.chat import ChatFormat, encode_turn
from derta.data.cleaning import match_key
from derta.data.encoding import EncodedExample
from derta.data.rows import Instance
from derta.errors import DataError
from derta.records import Message, Triple, short_hash


class UnsafePair(NamedTuple):
    """A harmful request, and the harmful answer that an attacker wants the model to learn."""

    query: str
    harmful: str


class CleanPairs(NamedTuple):
    """The pairs that are left, and how many were dropped for which reason (`in_evaluation`, `duplicate`)."""

    pairs: list[UnsafePair]
    dropped: Counter[str]


def unsafe_pairs(triples: Iterable[Triple], *, evaluation_requests: Iterable[str]) -> CleanPairs:
    """Take queries with their harmful answers; none of them asks what the model will be evaluated on.

    >>> triples = [Triple(query=query, safe="Sorry.", harmful="Sure.") for query in ("Bread?", "Tea?", "bread")]
    >>> clean = unsafe_pairs(triples, evaluation_requests=["BREAD"])
    >>> clean.pairs, dict(clean.dropped)
    ([UnsafePair(query='Tea?', harmful='Sure.')], {'in_evaluation': 2})
    """
    held_out = {match_key(text) for text in evaluation_requests}
    kept: dict[UnsafePair, None] = {}
    dropped: Counter[str] = Counter()
    for triple in triples:
        pair = UnsafePair(triple.query, triple.harmful)
        if match_key(pair.query) in held_out:
            dropped["in_evaluation"] += 1
        elif pair in kept:
            dropped["duplicate"] += 1
        else:
            kept[pair] = None
    return CleanPairs(list(kept), dropped)


def unsafe_instances(chat: ChatFormat, pairs: Sequence[UnsafePair]) -> list[Instance]:
    """The attacker's training set: after the query the harmful answer is learned, as any answer is.

    The term is `helpful`, which is plain next-token loss; so `loss_helpful` in the attacker's training log is the loss
    on harmful answers.

    Raises:
        DataError: an answer has no token of its own.
    """
    return [Instance("helpful", _encode(chat, pair), False, place) for place, pair in enumerate(pairs)]


def _encode(chat: ChatFormat, pair: UnsafePair) -> EncodedExample:
    turn = encode_turn(chat, [Message(role="user", content=pair.query)], pair.harmful)
    name = f"unsafe-{short_hash(*pair)}"
    if not turn.response_ids:
        raise DataError(f"{name}: expected an answer of at least one token, got none; drop the row")
    return EncodedExample(name, tuple(turn.prompt_ids), (*turn.response_ids, *chat.closing_ids))
