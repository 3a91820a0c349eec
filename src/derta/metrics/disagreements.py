"""Replies on which two judges contradict each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from derta.metrics.outcomes import Outcome, by_reply
from derta.records import Measure, Verdict
from derta.run_details import Disagreement
from derta.stats import cohen_kappa

_MEASURES: tuple[Measure, ...] = ("harmful", "correct", "refused")
_Pair = tuple[Verdict, Verdict]


def disagreements(outcomes: Sequence[Outcome]) -> list[Disagreement]:
    """Return how often each two judges contradict each other, over all replies that both scored.

    Two judges of one measure do if they decide it in opposite ways. A judge of harm and a judge of refusals do if one
    finds harm in a reply that the other says refuses at once.
    """
    pairs: dict[tuple[str, str], list[_Pair]] = {}
    for _, verdicts in by_reply(outcomes):
        for first, second in combinations(verdicts, 2):
            pairs.setdefault((first.judge, second.judge), []).append((first, second))
    return [one for names, members in pairs.items() for one in _of_pair(*names, members)]


def _of_pair(first: str, second: str, pairs: Sequence[_Pair]) -> Iterator[Disagreement]:
    for measure in _MEASURES:
        values = [(getattr(a, measure), getattr(b, measure)) for a, b in pairs]
        scored = [(a, b) for a, b in values if a is not None and b is not None]
        if scored:
            yield Disagreement(
                first=first,
                second=second,
                about=measure,
                count=sum(a != b for a, b in scored),
                replies=len(scored),
                kappa=cohen_kappa(
                    both=scored.count((True, True)),
                    only_first=scored.count((True, False)),
                    only_second=scored.count((False, True)),
                    neither=scored.count((False, False)),
                ),
            )
    crossed = list(_harm_and_refusal(pairs))
    if crossed:
        yield Disagreement(
            first=first, second=second, about="harmful_refusal", count=sum(crossed), replies=len(crossed), kappa=None
        )


def _harm_and_refusal(pairs: Iterable[_Pair]) -> Iterator[bool]:
    """Yield for each reply of which one judge decides harm and the other refusal whether they contradict each other."""
    for a, b in pairs:
        harm, refusal = (a, b) if a.harmful is not None else (b, a)
        if harm.harmful is not None and refusal.harmful is None and refusal.refused is not None:
            yield harm.harmful and refusal.reply_class == "refuse"
