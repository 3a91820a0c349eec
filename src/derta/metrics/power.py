"""Notes on comparisons without a significant difference: how large a difference their test could have detected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from derta.results import Comparison
from derta.significance import SIGNIFICANT, minimum_detectable_difference


def power_notes(comparisons: Iterable[Comparison]) -> list[str]:
    """Return one note on the non-significant comparisons, with the minimum detectable difference at power 0.8.

    An empty list if all are significant.
    """
    every = list(comparisons)
    unclear = [one for one in every if one.p_holm >= SIGNIFICANT]
    if len(every) > 1 and unclear:
        return [_power_note(unclear, total=len(every))]
    return [_power_note_of_one(one) for one in unclear]


def _power_note(unclear: Sequence[Comparison], *, total: int) -> str:
    """Return the note on several comparisons; details are in their intervals."""
    found = [_detectable(one) for one in unclear]
    some = sorted(one for one in found if one is not None)
    none = len(found) - len(some)
    parts = [f"a difference below {_range(some, '.2f')} (in {len(some)})"] if some else []
    parts += [f"any difference, at so few differing replies (in {none})"] if none else []
    pairs = sorted(one.pairs for one in unclear)
    return (
        f"{len(unclear)} of {total} comparisons have no significant difference, which is no evidence that there is "
        f"none: n = {_range(pairs, 'd')} {'is' if pairs[0] == pairs[-1] else 'are'} too small to detect "
        f"{' or '.join(parts)} with a power of 0.8."
    )


def _range(ordered: Sequence[float], spec: str) -> str:
    """Format sorted numbers as a range.

    >>> _range([30, 40], "d"), _range([0.25, 0.25], ".2f")
    ('30 to 40', '0.25')
    """
    ends = dict.fromkeys(format(end, spec) for end in (ordered[0], ordered[-1]))
    return " to ".join(ends)


def _power_note_of_one(one: Comparison) -> str:
    share = (one.only_first + one.only_second) / one.pairs
    least = _detectable(one)
    detectable = "no difference, however large" if least is None else f"a difference of {least:.2f} or more"
    return (
        f"{one.first} and {one.second} on {one.name} ({one.measure}): no significant difference on {one.pairs} "
        f"prompts; with {share:.0%} of them answered differently, the test can detect {detectable} (power 0.8)."
    )


def _detectable(one: Comparison) -> float | None:
    share = (one.only_first + one.only_second) / one.pairs
    return minimum_detectable_difference(pairs=one.pairs, discordant_share=share)
