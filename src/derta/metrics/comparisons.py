"""Two models on the same prompts, by one judge or pairwise, and two judges on the same replies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Literal, NamedTuple, cast

from derta.errors import DataError
from derta.metrics.rates import (
    PromptVerdict,
    measure_of_verdicts,
    outcomes_by_key,
    outcomes_by_place,
    outcomes_by_prompt,
)
from derta.records import Measure, ReplyKey, Verdict
from derta.results import METHODS_WITH_THE_FIRST, Cell, Comparison, Place, cell_of
from derta.stats import Rate, cohen_kappa, holm, minimum_detectable_difference, rate, sign_test, wilson_bounds

VerdictsBySeed = Mapping[int, Iterable[PromptVerdict]]
JUDGE = "pairwise"
PairwiseOutcome = Literal["ours", "theirs", "tie"]
_POINTS: dict[PairwiseOutcome, float] = {"ours": 1.0, "tie": 0.5, "theirs": 0.0}
PromptMeans = dict[str, float]
"""The mean outcome over seeds and samples of each prompt that was scored."""


def compare(
    first: Iterable[Verdict],
    second: Iterable[Verdict],
    *,
    measure: Measure | None = None,
    first_name: str = "first",
    second_name: str = "second",
    name: str = "all prompts",
) -> Comparison:
    """Compare one judge's verdicts on two models, on the prompts scored for both; one pair is one prompt.

    The test is the exact McNemar test, or with several samples a prompt the sign test on each prompt's means.

    >>> ours = [Verdict(prompt_id=str(i), judge="harm", harmful=i < 1) for i in range(10)]
    >>> theirs = [Verdict(prompt_id=str(i), judge="harm", harmful=i < 8) for i in range(10)]
    >>> found = compare(ours, theirs)
    >>> found.first_value, found.second_value, found.only_second, found.p_value
    (0.1, 0.8, 7, 0.015625)

    Args:
        first: verdicts on the first model's replies.
        second: verdicts on the second model's, by the same judge.
        measure: the field that is compared; by default the only one that the verdicts fill.
        first_name: the first model's name in the comparison.
        second_name: the second model's.
        name: the name of the set of prompts.

    Raises:
        DataError: verdicts of several judges, two on one reply, or no prompt that was scored for both.
    """
    ours, theirs = list(first), list(second)
    if plain := [one for one in cast("list[object]", [*ours, *theirs]) if not isinstance(one, Verdict)]:
        raise DataError(f"expected verdicts, which tell what reply each is on, got {plain[0]!r:.60}; use `derta.judge`")
    judges = list(dict.fromkeys(verdict.judge for verdict in (*ours, *theirs)))
    if len(judges) != 1:
        raise DataError(f"expected verdicts of one judge, got those of {', '.join(judges) or 'none'}; compare by judge")
    counted = measure or measure_of_verdicts((*ours, *theirs))
    our_means, their_means = (
        _prompt_means(outcomes_by_prompt([outcomes_by_key(held, counted)])) for held in (ours, theirs)
    )
    place = Place("helpfulness" if counted == "correct" else "attack", name)
    found = _comparison(
        our_means, their_means, place, names=(first_name, second_name), judge=judges[0], measure=counted
    )
    if found is None:
        raise DataError(
            "expected verdicts on the same prompts, found none that was scored for both; give verdicts on one set of "
            "prompts"
        )
    return found


def _prompt_means(outcomes: Mapping[str, Sequence[bool | None]]) -> PromptMeans:
    scored = {prompt_id: [one for one in ones if one is not None] for prompt_id, ones in outcomes.items()}
    return {prompt_id: fmean(ones) for prompt_id, ones in scored.items() if ones}


def _comparison(
    ours: PromptMeans, theirs: PromptMeans, place: Place, *, names: tuple[str, str], judge: str, measure: Measure
) -> Comparison | None:
    shared = [prompt_id for prompt_id in ours if prompt_id in theirs]
    if not shared:
        return None
    test = sign_test([ours[prompt_id] - theirs[prompt_id] for prompt_id in shared])
    parts = place._asdict()
    del parts["category"]
    return Comparison(
        first=names[0],
        second=names[1],
        judge=judge,
        measure=measure,
        first_value=fmean(ours[prompt_id] for prompt_id in shared),
        second_value=fmean(theirs[prompt_id] for prompt_id in shared),
        p_holm=test.p_value,
        **parts,
        **test._asdict(),
    )


def compare_cells(
    first: VerdictsBySeed, second: VerdictsBySeed, *, first_name: str, second_name: str, judge: str, measure: Measure
) -> list[Comparison]:
    """One comparison for each cell that both methods have, on the prompts scored for both; one pair is one prompt.

    With one seed the test is the exact McNemar test, with several the sign test on each prompt's means. `p_holm` is
    corrected over the comparisons of this call; for a family of several calls, use `holm_corrected` on all of them.
    """
    ours, theirs = (outcomes_by_place(seeds.values(), measure) for seeds in (first, second))
    names = (first_name, second_name)
    found = [
        _comparison(
            _prompt_means(ours[place]), _prompt_means(theirs[place]), place, names=names, judge=judge, measure=measure
        )
        for place in ours
        if place in theirs
    ]
    return holm_corrected([one for one in found if one is not None])


def holm_corrected(comparisons: Sequence[Comparison], question: str = METHODS_WITH_THE_FIRST) -> list[Comparison]:
    """The same comparisons, Holm-corrected as the one family that answers a question."""
    adjusted = holm([one.p_value for one in comparisons])
    return [
        one.model_copy(update={"p_holm": p, "question": question}) for one, p in zip(comparisons, adjusted, strict=True)
    ]


def power_notes(comparisons: Iterable[Comparison]) -> list[str]:
    """A sentence on each comparison that finds nothing, saying what difference it could have found."""
    notes: list[str] = []
    for one in comparisons:
        if one.p_holm < 0.05:
            continue
        share = (one.only_first + one.only_second) / one.pairs
        least = minimum_detectable_difference(pairs=one.pairs, discordant_share=share)
        can = f"a difference of {least:.2f} or more" if least is not None else "no difference, however large"
        notes.append(
            f"{one.first} and {one.second} on {one.name} ({one.measure}): {one.pairs} prompts cannot tell them apart; "
            f"with {share:.0%} of them answered differently, they would show {can} (power 0.8)."
        )
    return notes


def win_rate_cell(preferences: Sequence[PairwiseOutcome | None], *, first: str, second: str) -> Cell:
    """The share of prompts won, ties counted half, with a Wilson interval; None is unscored.

    Ties vary less than wins and losses do, so that with ties the interval is somewhat too wide, never too narrow.

    >>> cell = win_rate_cell(["ours", "ours", "tie", "theirs", None], first="a", second="b")
    >>> cell.value, cell.scored, cell.unscored
    (0.625, 4, 1)
    """
    points = [_POINTS[one] for one in preferences if one is not None]
    value = sum(points) / len(points) if points else None
    low, high = (None, None) if value is None else wilson_bounds(value, len(points))
    return cell_of(
        Rate(value, low, high, len(points), len(preferences) - len(points)),
        place=Place("helpfulness", f"against {second}"),
        method=first,
        seed=None,
        judge=JUDGE,
        measure="win_rate",
    )


def position_bias_cell(orders: Sequence[tuple[PairwiseOutcome | None, ...]], *, first: str, second: str) -> Cell:
    """The share of prompts on which the order of the replies decided, of those asked about: how far to trust the judge.

    Each entry is what was said in the one order and in the other; empty where nothing was asked.
    """
    decided = [None if None in said else len(set(said)) > 1 for said in orders if said]
    return cell_of(
        rate(decided),
        place=Place("analysis", f"against {second}"),
        method=first,
        seed=None,
        judge=JUDGE,
        measure="order_decided",
    )


def preference_comparison(
    preferences: Sequence[PairwiseOutcome | None], *, first: str, second: str
) -> Comparison | None:
    """Wins against losses by the exact sign test, ties apart; None where nothing was scored."""
    points = [2 * _POINTS[one] - 1 for one in preferences if one is not None]
    if not points:
        return None
    test = sign_test(points)
    won = (sum(points) / len(points) + 1) / 2
    return Comparison(
        first=first,
        second=second,
        suite="helpfulness",
        name=f"against {second}",
        judge=JUDGE,
        measure="win_rate",
        first_value=won,
        second_value=1 - won,
        **test._asdict(),
        p_holm=test.p_value,
    )


class Agreement(NamedTuple):
    """A two-by-two table of two judges; `agreement` is a share, `kappa` Cohen's, None where it is not defined."""

    both: int
    only_first: int
    only_second: int
    neither: int
    unscored: int
    agreement: float | None
    kappa: float | None
    differing: tuple[ReplyKey, ...]


def agreement(first: Iterable[Verdict], second: Iterable[Verdict], *, measure: Measure) -> Agreement:
    """Compare two judges on one measure; replies that only one of them scored are counted as unscored.

    Raises:
        DataError: a judge has two verdicts on a reply, or the two did not judge the same replies.
    """
    ours, theirs = outcomes_by_key(first, measure), outcomes_by_key(second, measure)
    if ours.keys() != theirs.keys():
        missing = sorted(ours.keys() ^ theirs.keys())
        raise DataError(
            f"expected both judges on the same prompts, got {len(missing)} with one verdict ({missing[0][0]!r} …)"
        )
    scored = [(key, a, b) for key, a in ours.items() if a is not None and (b := theirs[key]) is not None]
    counts = {"both": 0, "only_first": 0, "only_second": 0, "neither": 0}
    for _, a, b in scored:
        counts["both" if a and b else "only_first" if a else "only_second" if b else "neither"] += 1
    return Agreement(
        **counts,
        unscored=len(ours) - len(scored),
        agreement=(counts["both"] + counts["neither"]) / len(scored) if scored else None,
        kappa=cohen_kappa(**counts),
        differing=tuple(key for key, a, b in scored if a != b),
    )
