"""Two judges on the same replies: how often they agree, beyond chance, and where they do not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from derta.errors import DataError
from derta.metrics.rates import Measure, outcome
from derta.records import Verdict


class Agreement(NamedTuple):
    """A two-by-two table of two judges; `agreement` is a share, `kappa` Cohen's, None where it is not defined."""

    both: int
    only_first: int
    only_second: int
    neither: int
    unscored: int
    agreement: float | None
    kappa: float | None
    differing: tuple[str, ...]


def cohen_kappa(*, both: int, only_first: int, only_second: int, neither: int) -> float | None:
    """Agreement beyond chance; None where nothing was judged, or where both judges always say one and the same.

    >>> cohen_kappa(both=20, only_first=5, only_second=10, neither=15)
    0.4

    Source: Cohen 1960; the example is the usual textbook one, (0.7 - 0.5) / (1 - 0.5).
    """
    total = both + only_first + only_second + neither
    if not total:
        return None
    yes = (both + only_first) * (both + only_second)
    no = (neither + only_first) * (neither + only_second)
    if yes + no == total * total:
        return None
    return ((both + neither) * total - yes - no) / (total * total - yes - no)


def agreement(first: Iterable[Verdict], second: Iterable[Verdict], *, measure: Measure) -> Agreement:
    """Compare two judges on one measure; replies that only one of them scored are counted as unscored.

    Raises:
        DataError: a judge has two verdicts on a prompt, or the two did not judge the same prompts.
    """
    ours, theirs = _by_prompt(first, measure), _by_prompt(second, measure)
    if ours.keys() != theirs.keys():
        missing = sorted(ours.keys() ^ theirs.keys())
        raise DataError(
            f"expected both judges on the same prompts, got {len(missing)} with one verdict ({missing[0]!r} …)"
        )
    scored = [(name, a, b) for name, a in ours.items() if a is not None and (b := theirs[name]) is not None]
    counts = {"both": 0, "only_first": 0, "only_second": 0, "neither": 0}
    for _, a, b in scored:
        counts["both" if a and b else "only_first" if a else "only_second" if b else "neither"] += 1
    return Agreement(
        **counts,
        unscored=len(ours) - len(scored),
        agreement=(counts["both"] + counts["neither"]) / len(scored) if scored else None,
        kappa=cohen_kappa(**counts),
        differing=tuple(name for name, a, b in scored if a != b),
    )


def _by_prompt(verdicts: Iterable[Verdict], measure: Measure) -> dict[str, bool | None]:
    found: dict[str, bool | None] = {}
    for verdict in verdicts:
        if verdict.prompt_id in found:
            raise DataError(f"expected one verdict on prompt {verdict.prompt_id!r} from {verdict.judge!r}, got two")
        found[verdict.prompt_id] = outcome(verdict, measure)
    return found
