from math import sqrt

import numpy as np
import pytest
from tallies import one_set, tally

from derta.metrics.bootstrap import kept_share, ratio_of_means


def test_the_kept_share_is_that_of_the_mean_reduction():
    # base 1, full 0, own 1/4: three quarters are kept
    units = one_set(40)
    base, full, own = tally([True] * 40), tally([False] * 40), tally([i % 4 == 0 for i in range(40)])
    share = kept_share(units, base, full, own)
    assert share.value == 0.75
    # the reduction is 1 in every resample: the share is a mean of 40 outcomes
    deviation = sqrt(0.75 * 0.25 / 40)
    assert (share.low, share.high) == pytest.approx((0.75 - 1.96 * deviation, 0.75 + 1.96 * deviation), abs=0.03)
    some, few = tally([i % 4 != 0 for i in range(40)]), tally([i % 2 == 0 for i in range(40)])
    assert kept_share(units, some, own, few).value == 0.5  # base 3/4, full 1/4, own 1/2
    assert kept_share(units, full, base, own) is None
    assert kept_share(units, base, full, tally([None] * 40)) is None


def test_a_ratio_of_lengths_has_an_interval_over_prompts():
    rng = np.random.default_rng(0)
    base = rng.integers(10, 60, 200).astype(float)
    own = base * 1.1 + rng.normal(0, 5, 200)
    ratio = ratio_of_means(own, base)
    assert ratio.low < 1.1 < ratio.high
    assert 0.01 < ratio.high - ratio.low < 0.08
    assert ratio_of_means(own[:0], base[:0]) is None
