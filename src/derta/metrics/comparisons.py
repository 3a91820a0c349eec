"""Paired significance tests of two models, win rates of a pairwise judge, and agreement of two judges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Literal, NamedTuple, cast

from derta.errors import DataError
from derta.metrics.paired import difference_interval
from derta.metrics.rates import (
    PromptVerdict,
    measure_of_verdicts,
    outcomes_by_key,
    outcomes_by_place,
    outcomes_by_prompt,
)
from derta.metrics.units import Tally
from derta.records import Measure, ReplyKey, Verdict
from derta.results import METHODS_WITH_THE_FIRST, Cell, Comparison, Place, cell_of
from derta.significance import holm, sign_test
from derta.stats import Outcome, Rate, cohen_kappa, rate, wilson_bounds

VerdictsBySeed = Mapping[int, Iterable[PromptVerdict]]
JUDGE = "pairwise"
PairwiseOutcome = Literal["ours", "theirs", "tie"]
_POINTS: dict[PairwiseOutcome, float] = {"ours": 1.0, "tie": 0.5, "theirs": 0.0}
PromptMeans = dict[str, float]
"""Mean outcome of each scored prompt over its seeds and samples, by prompt id."""


def compare(
    first: Iterable[Verdict],
    second: Iterable[Verdict],
    *,
    measure: Measure | None = None,
    first_name: str = "first",
    second_name: str = "second",
    name: str = "all prompts",
) -> Comparison:
    """Compute a paired comparison of two models from one judge's verdicts on the prompts scored for both.

    A pair is a prompt; `left_out` of the result counts the other prompts. The test is the exact McNemar test, or with
    several samples per prompt the sign test on the prompts' means.

    >>> ours = [Verdict(prompt_id=str(i), judge="harm", harmful=i < 1) for i in range(10)]
    >>> theirs = [Verdict(prompt_id=str(i), judge="harm", harmful=i < 8) for i in range(10)]
    >>> result = compare(ours, theirs)
    >>> result.first_value, result.second_value, result.only_second, result.p_value
    (0.1, 0.8, 7, 0.015625)

    Args:
        first: Verdicts on the first model's replies.
        second: Verdicts on the second model's replies, by the same judge.
        measure: Field of the verdicts to compare; by default the only one that the verdicts fill.
        first_name: Name of the first model in the comparison.
        second_name: Name of the second model.
        name: Name of the set of prompts.

    Returns:
        The comparison; its `p_holm` is the `p_value`, as the family has one comparison.

    Raises:
        DataError: Verdicts of several judges, two verdicts on one reply, or no prompt scored for both models.
    """
    ours, theirs = list(first), list(second)
    if plain := [one for one in cast("list[object]", [*ours, *theirs]) if not isinstance(one, Verdict)]:
        raise DataError(f"expected Verdict records with prompt ids, got {plain[0]!r:.60}; use `derta.judge`")
    judges = list(dict.fromkeys(verdict.judge for verdict in (*ours, *theirs)))
    if len(judges) != 1:
        raise DataError(f"expected verdicts of one judge, got those of {', '.join(judges) or 'none'}; compare by judge")
    measure = measure or measure_of_verdicts((*ours, *theirs))
    first_outcomes, second_outcomes = (
        outcomes_by_prompt([outcomes_by_key(verdicts, measure)]) for verdicts in (ours, theirs)
    )
    place = Place("helpfulness" if measure == "correct" else "attack", name)
    comparison = _comparison(
        first_outcomes, second_outcomes, place, names=(first_name, second_name), judge=judges[0], measure=measure
    )
    if comparison is None:
        raise DataError(
            "expected verdicts on the same prompts, got no prompt scored for both; pass verdicts on one set"
        )
    return comparison


def _prompt_means(outcomes: Mapping[str, Sequence[Outcome]]) -> PromptMeans:
    scored = {prompt_id: [one for one in ones if isinstance(one, bool)] for prompt_id, ones in outcomes.items()}
    return {prompt_id: fmean(ones) for prompt_id, ones in scored.items() if ones}


def _tally(outcomes: Sequence[Sequence[Outcome]]) -> Tally:
    """Return the successes and scored cases of each prompt."""
    import numpy as np

    scored = [[one for one in ones if isinstance(one, bool)] for ones in outcomes]
    return Tally(np.array([sum(ones) for ones in scored], float), np.array([len(ones) for ones in scored], float))


def _comparison(
    first: Mapping[str, Sequence[Outcome]],
    second: Mapping[str, Sequence[Outcome]],
    place: Place,
    *,
    names: tuple[str, str],
    judge: str,
    measure: Measure,
) -> Comparison | None:
    ours, theirs = _prompt_means(first), _prompt_means(second)
    shared = [prompt_id for prompt_id in ours if prompt_id in theirs]
    if not shared:
        return None
    test = sign_test([ours[prompt_id] - theirs[prompt_id] for prompt_id in shared])
    low, high = difference_interval(*(_tally([each[prompt_id] for prompt_id in shared]) for each in (first, second)))
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
        difference_low=low,
        difference_high=high,
        left_out=len(first.keys() | second.keys()) - len(shared),
        **parts,
        **test._asdict(),
    )


def compare_cells(
    first: VerdictsBySeed, second: VerdictsBySeed, *, first_name: str, second_name: str, judge: str, measure: Measure
) -> list[Comparison]:
    """Compute a paired comparison for each cell of both methods, on the prompts scored for both.

    A pair is a prompt. With one seed the test is the exact McNemar test, with several the sign test on the prompts'
    means. `p_holm` is corrected over the comparisons of this call; for a family of several calls, pass all of their
    comparisons to `holm_corrected`.

    Args:
        first: Prompts with verdicts on the first method's replies, by seed.
        second: Prompts with verdicts on the second method's replies, by seed.
        first_name: Name of the first method.
        second_name: Name of the second method.
        judge: Name of the judge.
        measure: Field of the verdicts to compare.

    Returns:
        A comparison for each cell with at least one prompt scored for both methods; `left_out` counts its others.
    """
    ours, theirs = (outcomes_by_place(seeds.values(), measure) for seeds in (first, second))
    names = (first_name, second_name)
    comparisons = [
        _comparison(ours[place], theirs[place], place, names=names, judge=judge, measure=measure)
        for place in ours
        if place in theirs
    ]
    return holm_corrected([one for one in comparisons if one is not None])


def holm_corrected(comparisons: Sequence[Comparison], question: str = METHODS_WITH_THE_FIRST) -> list[Comparison]:
    """Return the comparisons with p-values Holm-corrected as one family; `question` is the name of the family."""
    adjusted = holm([one.p_value for one in comparisons])
    return [
        one.model_copy(update={"p_holm": p, "question": question}) for one, p in zip(comparisons, adjusted, strict=True)
    ]


def win_rate_cell(
    preferences: Sequence[PairwiseOutcome | None], *, first: str, second: str, unanswered: int = 0
) -> Cell:
    """Compute the win rate with a Wilson interval; a tie counts as half a win, None as unscored.

    `unanswered` counts those of the unscored pairs that lack a reply.

    Ties have less variance than wins and losses, so with ties the interval is somewhat too wide, never too narrow.

    >>> cell = win_rate_cell(["ours", "ours", "tie", "theirs", None], first="a", second="b")
    >>> cell.value, cell.scored, cell.unscored
    (0.625, 4, 1)
    """
    points = [_POINTS[one] for one in preferences if one is not None]
    value = sum(points) / len(points) if points else None
    low, high = (None, None) if value is None else wilson_bounds(value, len(points))
    return cell_of(
        Rate(value, low, high, len(points), len(preferences) - len(points) - unanswered, unanswered),
        place=Place("helpfulness", f"against {second}"),
        method=first,
        seed=None,
        judge=JUDGE,
        measure="win_rate",
    )


def position_bias_cell(orders: Sequence[tuple[PairwiseOutcome | None, ...]], *, first: str, second: str) -> Cell:
    """Compute the judge's position bias: the share of prompts with a preference that depends on the replies' order.

    Each entry holds the preferences for both orders; it is empty if the judge was not queried.
    """
    decided = [None if None in preferences else len(set(preferences)) > 1 for preferences in orders if preferences]
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
    """Compare wins with losses by the exact sign test, without ties; return None if no prompt was scored."""
    points = [2 * _POINTS[one] - 1 for one in preferences if one is not None]
    if not points:
        return None
    test = sign_test(points)
    win_rate = (sum(points) / len(points) + 1) / 2
    low, high = wilson_bounds(win_rate, len(points))
    return Comparison(
        first=first,
        second=second,
        suite="helpfulness",
        name=f"against {second}",
        judge=JUDGE,
        measure="win_rate",
        first_value=win_rate,
        second_value=1 - win_rate,
        **test._asdict(),
        p_holm=test.p_value,
        difference_low=2 * low - 1,  # of the win rate minus the loss rate, 1 - win rate
        difference_high=2 * high - 1,
        left_out=len(preferences) - len(points),
    )


class Agreement(NamedTuple):
    """Two-by-two table of two judges, with their agreement (a fraction) and Cohen's kappa; None where undefined."""

    both: int
    only_first: int
    only_second: int
    neither: int
    unscored: int
    agreement: float | None
    kappa: float | None
    differing: tuple[ReplyKey, ...]


def agreement(first: Iterable[Verdict], second: Iterable[Verdict], *, measure: Measure) -> Agreement:
    """Compute the agreement of two judges on one measure; a reply scored by only one of them counts as unscored.

    Args:
        first: Verdicts of the first judge.
        second: Verdicts of the second judge, on the same replies in any order.
        measure: Field of the verdicts to compare.

    Raises:
        DataError: A judge has two verdicts on a reply, or the judges have verdicts on different replies.
    """
    ours, theirs = outcomes_by_key(first, measure), outcomes_by_key(second, measure)
    if ours.keys() != theirs.keys():
        missing = sorted(ours.keys() ^ theirs.keys())
        raise DataError(
            f"expected both judges on the same prompts, got {len(missing)} with one verdict ({missing[0][0]!r} …)"
        )
    scored = [(key, a, b) for key, a in ours.items() if isinstance(a, bool) and isinstance(b := theirs[key], bool)]
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
