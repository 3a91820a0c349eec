"""Two methods on the same prompts: which succeeded where the other did not, and whether that can be chance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from derta.metrics.rates import Judged, Key, Measure, outcomes_by_cell
from derta.results import METHODS_WITH_THE_FIRST, Comparison
from derta.stats import holm, minimum_detectable_difference, sign_test

Seeds = Mapping[int, Iterable[Judged]]


def _prompt_means(by_seed: Seeds, measure: Measure) -> dict[Key, dict[str, float]]:
    """The mean outcome over seeds of each prompt that was scored, by cell."""
    gathered: dict[Key, dict[str, list[bool]]] = {}
    for judged in by_seed.values():
        for key, outcomes in outcomes_by_cell(judged, measure=measure).items():
            for prompt_id, one in outcomes.items():
                if one is not None:
                    gathered.setdefault(key, {}).setdefault(prompt_id, []).append(one)
    return {key: {name: fmean(ones) for name, ones in prompts.items()} for key, prompts in gathered.items()}


def compare(
    first: Seeds, second: Seeds, *, first_name: str, second_name: str, judge: str, measure: Measure
) -> list[Comparison]:
    """One comparison for each cell that both methods have, on the prompts scored for both; one pair is one prompt.

    With one seed the test is the exact McNemar test, with several the sign test on each prompt's means. `p_holm` is
    corrected over the comparisons of this call; for a family of several calls, correct them together (`corrected`).
    """
    ours, theirs = _prompt_means(first, measure), _prompt_means(second, measure)
    found: list[Comparison] = []
    for key in (key for key in ours if key in theirs):
        shared = [prompt_id for prompt_id in ours[key] if prompt_id in theirs[key]]
        if not shared:
            continue
        test = sign_test([ours[key][name] - theirs[key][name] for name in shared])
        found.append(
            Comparison(
                first=first_name,
                second=second_name,
                suite=key[0],
                name=key[1],
                judge=judge,
                measure=measure,
                first_value=fmean(ours[key][name] for name in shared),
                second_value=fmean(theirs[key][name] for name in shared),
                **test._asdict(),
                p_holm=test.p_value,
            )
        )
    return corrected(found)


def corrected(comparisons: Sequence[Comparison], question: str = METHODS_WITH_THE_FIRST) -> list[Comparison]:
    """The same comparisons, Holm-corrected as the one family that answers a question."""
    adjusted = holm([one.p_value for one in comparisons])
    return [
        one.model_copy(update={"p_holm": p, "question": question}) for one, p in zip(comparisons, adjusted, strict=True)
    ]


def too_small_to_tell(comparisons: Iterable[Comparison]) -> list[str]:
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
