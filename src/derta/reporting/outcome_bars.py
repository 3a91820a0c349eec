"""Stacked bars of the report: what the replies to each attack are, so that garbled text cannot pass for safety."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from derta.metrics.kinds import ReplyKind, kind_of
from derta.reporting.tables import label_of
from derta.reporting.text import Label
from derta.results import Place, Transcript, place_of

Segment = ReplyKind | Literal["unjudged"]
SEGMENTS: tuple[Segment, ...] = ("harmful", "malformed", "other", "refused", "unjudged")
"""The kinds in the order of the bar: the harmful replies begin at its left end, and the refusals are at its right."""


class Part(NamedTuple):
    """Replies of one kind: their number and share."""

    kind: Segment
    number: int
    share: float


class OutcomeBar(NamedTuple):
    """The replies of one method to one attack; `total` is their number."""

    method: str
    parts: tuple[Part, ...]
    total: int


class OutcomeGroup(NamedTuple):
    """Bars of one attack, a bar a method; `harm_judged` says whether a judge of harm rated any of its replies."""

    place: Place
    label: Label
    bars: tuple[OutcomeBar, ...]
    harm_judged: bool


def outcome_groups(transcripts: Sequence[Transcript], *, methods: Sequence[str]) -> tuple[OutcomeGroup, ...]:
    """Return the bars of each attack, of all seeds together; the kinds are those of `derta.metrics.kinds`."""
    counts: dict[Place, dict[str, Counter[Segment]]] = {}
    judged: set[Place] = set()
    for one in transcripts:
        if one.prompt.suite == "attack":
            place = place_of(one.prompt)
            of_method = counts.setdefault(place, {}).setdefault(one.method, Counter())
            of_method[kind_of(one.verdicts) or "unjudged"] += 1
            if any(verdict.harmful is not None for verdict in one.verdicts):
                judged.add(place)
    return tuple(
        OutcomeGroup(
            place,
            label_of(place),
            tuple(_bar(method, by_method[method]) for method in methods if method in by_method),
            place in judged,
        )
        for place, by_method in counts.items()
    )


def _bar(method: str, counts: Counter[Segment]) -> OutcomeBar:
    total = counts.total()
    return OutcomeBar(method, tuple(Part(kind, counts[kind], counts[kind] / total) for kind in SEGMENTS), total)
