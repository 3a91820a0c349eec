"""Sign-flip (permutation) test of differences by cluster, over all signs.

For one set of prompts with one case each it is the exact McNemar test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from derta.metrics.units import Floats, Indices

_STEPS = 20_000  # of a lattice for the differences of a test
_MOST_PARTS = 24  # of the smallest difference, to find a lattice that has all


def sign_flip_p_value(sums: Floats) -> float:
    """Compute the two-sided sign-flip test of differences by cluster: how often random signs give as large a sum.

    The distribution over all signs is computed exactly, on a lattice that has the differences; without such, on a fine
    one, where sums within the rounding count as large.

    >>> import numpy as np
    >>> sign_flip_p_value(np.array([0.1] * 6 + [0.0])), sign_flip_p_value(np.array([0.3, -0.2, 0.2, 0.1]))
    (0.03125, 0.5)
    """
    import numpy as np

    row = sums[np.abs(sums) > 1e-12]
    if not len(row):
        return 1.0
    steps, tolerance = _lattice(np.abs(row))
    total = int(steps.sum())
    chances = np.zeros(total + 1)  # of the sum of the steps with a positive sign
    chances[0] = 1.0
    for step in steps.tolist():
        moved = 0.5 * chances
        moved[step:] += 0.5 * chances[: total + 1 - step]
        chances = moved
    least = abs(int((np.sign(row) * steps).sum())) - tolerance
    return min(1.0, float(chances[np.abs(2 * np.arange(total + 1) - total) >= least].sum()))


def _lattice(sizes: Floats) -> tuple[Indices, int]:
    """Return positive differences as numbers of steps, and by how many steps a sum may be wrong."""
    import numpy as np

    for parts in range(1, _MOST_PARTS + 1):
        scaled = sizes * (parts / sizes.min())
        if scaled.sum() <= _STEPS and np.abs(scaled - np.rint(scaled)).max() < 1e-6:
            return np.rint(scaled).astype(int), 0
    rounding = int(np.ceil(np.sqrt(len(sizes))))  # 3.5 standard deviations of a sum of rounding errors
    return np.rint(sizes * (_STEPS / sizes.sum())).astype(int), rounding
