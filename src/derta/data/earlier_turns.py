"""Triples whose conversation went wrong before the last turn: the harmful response begins in an earlier answer.

A model that learns to break off within an answer may still go on with harm that an earlier answer began, as attacks
over several turns make it do. A split triple trains for this: its context ends with the first part of the harmful
response and a message of the user that asks to go on; the safe response, and the rest of the harmful one, are the last
turn. No text is added but the user's message, and all harmful text is read, never learned.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from derta.records import Message, Triple

_WORD_END = re.compile(r"(?<=\S)(?=\s)")


def split_triple(triple: Triple, follow_ups: Sequence[str]) -> Triple | None:
    """Return the triple with its harmful response split over two turns, at a word chosen by the triple's id.

    A response without white space is split between two characters. None if it has only one character.

    >>> triple = Triple(query="How is tea made?", safe="Sorry, no.", harmful="Boil water.")
    >>> split = split_triple(triple, ["Go on."])
    >>> [(message.role, message.content) for message in split.messages]
    [('user', 'How is tea made?'), ('assistant', 'Boil')]
    >>> split.query, split.safe, split.harmful, split.harmful_turns
    ('Go on.', 'Sorry, no.', 'water.', (1,))
    """
    harmful = triple.harmful.strip()
    cuts = [match.start() for match in _WORD_END.finditer(harmful)] or list(range(1, len(harmful)))
    if not cuts:
        return None
    rng = Random(f"earlier:{triple.id}")  # noqa: S311 - a reproducible draw
    cut, follow_up = rng.choice(cuts), rng.choice(follow_ups)
    context = (*triple.conversation, Message(role="assistant", content=harmful[:cut]))
    return triple.model_copy(
        update={
            "messages": context,
            "harmful_turns": (*triple.harmful_turns, len(context) - 1),
            "query": follow_up,
            "harmful": harmful[cut:].lstrip(),
        }
    )
