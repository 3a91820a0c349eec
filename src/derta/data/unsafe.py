"""Training rows of the fine-tuning attack, with loss on harmful responses; only the attacker uses them.

Every method excludes harmful text from `labels` (`rows.py`). An attacker who fine-tunes a model has no such rule, and
only this module builds rows for this. Their format is that of helpful rows: the only separation is that no method
imports this module (`tests/data/test_unsafe.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from derta.chat import ChatFormat
from derta.data.encoding import EncodedExample, closed_turn
from derta.data.matching import RequestTurns, conversation_keys, request_key
from derta.data.rows import Instance
from derta.errors import DataError
from derta.records import Message, Tools, Triple, context_keys, short_hash


class UnsafePair(NamedTuple):
    """Harmful request, after its context, with the harmful response that the attacker trains on."""

    query: str
    harmful: str
    messages: tuple[Message, ...] = ()
    tools: Tools = None

    @property
    def texts(self) -> list[str]:
        """Content of the pair as texts, for hashes."""
        return [self.query, self.harmful, *context_keys(self.messages, self.tools)]

    @property
    def id(self) -> str:
        """Id of the pair, a hash of its content."""
        return f"unsafe-{short_hash(*self.texts)}"

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The context and the query, as the messages before the response."""
        return (*self.messages, Message(role="user", content=self.query))


class CleanPairs(NamedTuple):
    """Output of `unsafe_pairs`: the remaining pairs, and counts of the dropped ones (`in_evaluation`, `duplicate`)."""

    pairs: list[UnsafePair]
    dropped: Counter[str]


def unsafe_pairs(triples: Iterable[Triple], *, evaluation_requests: Iterable[RequestTurns]) -> CleanPairs:
    """Return the queries with their harmful responses, without duplicates and evaluation requests.

    >>> triples = [Triple(query=query, safe="Sorry.", harmful="Sure.") for query in ("Bread?", "Tea?", "bread")]
    >>> clean = unsafe_pairs(triples, evaluation_requests=["BREAD"])
    >>> [(pair.query, pair.harmful) for pair in clean.pairs], dict(clean.dropped)
    ([('Tea?', 'Sure.')], {'in_evaluation': 2})
    """
    held_out = {request_key(request) for request in evaluation_requests}
    pairs: dict[str, UnsafePair] = {}
    dropped: Counter[str] = Counter()
    for triple in triples:
        pair = UnsafePair(triple.query, triple.harmful, triple.messages, triple.tools)
        if not held_out.isdisjoint(conversation_keys(pair.conversation)):
            dropped["in_evaluation"] += 1
        elif pair.id in pairs:
            dropped["duplicate"] += 1
        else:
            pairs[pair.id] = pair
    return CleanPairs(list(pairs.values()), dropped)


def unsafe_instances(chat: ChatFormat, pairs: Sequence[UnsafePair]) -> list[Instance]:
    """Return the attacker's training set, with loss on the whole harmful response.

    The term is `helpful`, which is standard next-token loss; so `loss_helpful` in the attacker's training log is the
    loss on harmful responses.

    Raises:
        DataError: A response has no token.
    """
    return [Instance("helpful", _encode(chat, pair), False, index) for index, pair in enumerate(pairs)]


def _encode(chat: ChatFormat, pair: UnsafePair) -> EncodedExample:
    """Return the token ids of a pair in the format of a helpful example."""
    turn = closed_turn(chat, pair.conversation, pair.harmful, tools=pair.tools)
    if turn is None:
        raise DataError(f"{pair.id}: expected an answer of at least one token, got none; drop the row")
    return EncodedExample(pair.id, tuple(turn.prompt_ids), tuple(turn.response_ids))
