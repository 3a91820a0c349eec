"""Audit of triples: whether responses are what their labels say, in rates with intervals and named rows.

No record of this module holds a request or a response: rows are named by their source and number, such as
`triples:17`, the 17th triple that is read from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from derta.config import SafePolicy
from derta.data.cleaning import begin_with_word
from derta.data.matching import match_key, request_key, request_turns
from derta.data.topic import shares_topic
from derta.records import Record, ReplyClass, Triple, Verdict
from derta.stats import Outcome, rate

Group = Literal["all", "source", "category"]


class NamedTriple(NamedTuple):
    """A triple with the name of its source, and its number there, counted from 1."""

    triple: Triple
    source: str
    number: int

    @property
    def name(self) -> str:
        """Name of the row in an audit."""
        return f"{self.source}:{self.number}"


class ResponseVerdicts(NamedTuple):
    """Verdicts of the refusal judge and of a harm judge on one response."""

    refusal: Verdict
    harm: Verdict


class AuditedRow(Record):
    """What an audit finds about one triple; None where a judge returned no verdict or a rule does not apply.

    Attributes:
        row: Name of the row: its source and its number there.
        id: Id of the triple, as in the rows that `derta data` writes.
        safe_opens_with_word: Whether the safe response, with its apology shortened if the recipe normalizes, opens with
            a refusal word of the recipe.
        safe_on_topic: Whether the safe response shares a content word with the request (see `data.topic`).
        repeats: Name of the first row with the same request, if this is a later one.
        same_responses: Whether the safe and the harmful response are the same.
    """

    row: str
    id: str
    source: str
    category: str | None
    safe_class: ReplyClass | None
    safe_refuses: bool | None
    safe_opens_with_word: bool
    safe_on_topic: bool | None
    safe_harmful: bool | None
    harmful_refuses: bool | None
    harmful_harmful: bool | None
    repeats: str | None
    same_responses: bool


class AuditRate(Record):
    """Share of the triples of a group for which a measure holds, with its 95 % Wilson interval, as fractions.

    `bounds` are the shares if none and if all of the unscored triples counted, where these are more than 5 %.
    """

    by: Group
    group: str
    measure: str
    count: int
    scored: int
    unscored: int
    value: float | None
    low: float | None
    high: float | None
    bounds: tuple[float, float] | None


class Lengths(Record):
    """Lengths of a field in characters: the shortest, the median, the 95th percentile and the longest."""

    field: str
    shortest: int
    median: int
    percentile_95: int
    longest: int


class PolicyOutcome(Record):
    """What a policy for safe responses does with the triples, and how many of the remaining ones do not refuse.

    Attributes:
        policy: The policy, `data.policy` in a recipe.
        chosen: Whether it is that of the recipe.
        remaining: Number of triples that remain for training.
        dropped: Number of dropped triples by reason (see `CleanTriples`).
        changed: Number of changed safe responses by the kind of change.
        remaining_without_refusal: Number of remaining safe responses that do not refuse, by the refusal judge.
    """

    policy: SafePolicy
    chosen: bool
    remaining: int
    dropped: dict[str, int]
    changed: dict[str, int]
    remaining_without_refusal: int


class TriplesAudit(Record):
    """Result of an audit.

    Attributes:
        triples: Number of triples.
        judge: Name of the judge of harm.
        rates: Rates of all triples, by source and by category, of each measure.
        classes: Number of responses by the refusal judge's class, of safe and of harmful responses.
        lengths: Lengths of the requests and responses.
        policies: Outcome of each policy.
        findings: Names of the rows with a fault, by the kind of fault.
        rows: What was found about each triple.
    """

    triples: int
    judge: str
    rates: tuple[AuditRate, ...]
    classes: dict[str, dict[str, int]]
    lengths: tuple[Lengths, ...]
    policies: tuple[PolicyOutcome, ...]
    findings: dict[str, tuple[str, ...]]
    rows: tuple[AuditedRow, ...]


MEASURES: Mapping[str, Callable[[AuditedRow], bool | None]] = {
    "safe_refuses": lambda row: row.safe_refuses,
    "safe_opens_with_word": lambda row: row.safe_opens_with_word,
    "safe_on_topic": lambda row: row.safe_on_topic,
    "safe_harmful": lambda row: row.safe_harmful,
    "harmful_harmful": lambda row: row.harmful_harmful,
    "harmful_refuses": lambda row: row.harmful_refuses,
    "repeated": lambda row: row.repeats is not None,
    "same_responses": lambda row: row.same_responses,
}
"""Measures of an audit: whether they hold for a row, None if that is unknown."""

FINDINGS: Mapping[str, Callable[[AuditedRow], bool]] = {
    "safe_does_not_refuse": lambda row: row.safe_refuses is False,
    "safe_without_refusal_word": lambda row: not row.safe_opens_with_word,
    "safe_off_topic": lambda row: row.safe_on_topic is False and row.safe_refuses is False,
    "safe_is_harmful": lambda row: row.safe_harmful is True,
    "harmful_is_harmless": lambda row: row.harmful_harmful is False,
    "harmful_refuses": lambda row: row.harmful_refuses is True,
    "request_is_repeated": lambda row: row.repeats is not None,
    "responses_are_the_same": lambda row: row.same_responses,
}
"""Faults of rows. A refusal that names nothing of its request is not off topic."""


def audit_rows(
    triples: Sequence[NamedTriple],
    *,
    safe: Sequence[ResponseVerdicts],
    harmful: Sequence[ResponseVerdicts],
    refusal_words: Sequence[str],
    normalize: bool,
) -> list[AuditedRow]:
    """Return what is found about each triple; `safe` and `harmful` are the verdicts on its responses, in order."""
    first: dict[object, str] = {}
    rows: list[AuditedRow] = []
    for named, on_safe, on_harmful in zip(triples, safe, harmful, strict=True):
        triple = named.triple
        earlier = first.setdefault(request_key(request_turns(triple.conversation)), named.name)
        trained = begin_with_word(triple.safe, refusal_words[0]) if normalize else triple.safe
        rows.append(
            AuditedRow(
                row=named.name,
                id=triple.id,
                source=named.source,
                category=triple.category,
                safe_class=on_safe.refusal.reply_class,
                safe_refuses=on_safe.refusal.refused,
                safe_opens_with_word=opens_with_word(trained, refusal_words),
                safe_on_topic=shares_topic(triple.in_context, triple.safe),
                safe_harmful=on_safe.harm.harmful,
                harmful_refuses=on_harmful.refusal.refused,
                harmful_harmful=on_harmful.harm.harmful,
                repeats=None if earlier == named.name else earlier,
                same_responses=match_key(triple.safe) == match_key(triple.harmful),
            )
        )
    return rows


def opens_with_word(text: str, words: Sequence[str]) -> bool:
    """Return whether a text opens with one of the words, in the same case, as the token that RTO trains.

    >>> [opens_with_word(text, ["Sorry"]) for text in (" Sorry, no.", "I'm sorry.", "Sorrygate.")]
    [True, False, False]
    """
    start = text.lstrip()
    return any(start.startswith(word) and not start[len(word) : len(word) + 1].isalnum() for word in words)


def audit_rates(rows: Sequence[AuditedRow]) -> tuple[AuditRate, ...]:
    """Return the rates of all rows, and those by source and by category where there are several."""
    return tuple(
        _audit_rate([holds(row) for row in members], by=by, group=group, measure=measure)
        for by, group, members in _groups(rows)
        for measure, holds in MEASURES.items()
    )


def _groups(rows: Sequence[AuditedRow]) -> Iterator[tuple[Group, str, list[AuditedRow]]]:
    """Yield the groups, the largest first."""
    yield "all", "all", list(rows)
    labels: dict[Group, list[str]] = {
        "source": [row.source for row in rows],
        "category": [row.category or "none" for row in rows],
    }
    for by, names in labels.items():
        counts = Counter(names)
        for name, _ in counts.most_common() if len(counts) > 1 else ():
            yield by, name, [row for row, label in zip(rows, names, strict=True) if label == name]


def _audit_rate(outcomes: Sequence[Outcome], *, by: Group, group: str, measure: str) -> AuditRate:
    result = rate(outcomes)
    return AuditRate(
        by=by,
        group=group,
        measure=measure,
        count=outcomes.count(True),
        scored=result.scored,
        unscored=result.unscored,
        value=result.value,
        low=result.low,
        high=result.high,
        bounds=result.bounds,
    )


def count_classes(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Return the number of refusal verdicts by class, the most frequent first."""
    return dict(Counter(verdict.reply_class or "none" for verdict in verdicts).most_common())


def field_lengths(field: str, texts: Iterable[str]) -> Lengths:
    """Return the lengths of texts.

    >>> field_lengths("request", ["a" * length for length in range(1, 101)])
    Lengths(field='request', shortest=1, median=50, percentile_95=95, longest=100)
    """
    lengths = sorted(map(len, texts))
    at = [lengths[max(0, -(-len(lengths) * percent // 100) - 1)] for percent in (0, 50, 95, 100)]
    return Lengths(field=field, shortest=at[0], median=at[1], percentile_95=at[2], longest=at[3])


def find_rows(rows: Sequence[AuditedRow]) -> dict[str, tuple[str, ...]]:
    """Return the names of the rows with each fault, in order."""
    return {finding: tuple(row.row for row in rows if holds(row)) for finding, holds in FINDINGS.items()}
