from math import sqrt
from statistics import NormalDist

import numpy as np
import pytest

from derta.metrics.sign_flip import sign_flip_p_value


def test_the_sign_flip_test_is_exact():
    rng = np.random.default_rng(3)
    signs = np.array([[1 if i >> bit & 1 else -1 for bit in range(12)] for i in range(2**12)])
    # multiples of a common step, of two steps (sets of 240 and 100 prompts), and any numbers
    for differences in (
        rng.integers(-5, 6, 12) / 45,
        rng.integers(-2, 3, 12) / np.where(np.arange(12) < 6, 480, 200),
        rng.normal(0.3, 1, 12),
    ):
        expected = np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12)
        found = sign_flip_p_value(differences)
        assert expected - 1e-12 <= found <= expected + 0.005
    assert sign_flip_p_value(np.zeros(5)) == 1.0


def test_the_sign_flip_test_of_many_clusters_is_that_of_the_normal_law_also_far_out():
    for shift in (0.1, 0.5):
        many = np.random.default_rng(0).normal(shift, 1, 300)
        z = abs(many.sum()) / sqrt(many @ many)
        assert sign_flip_p_value(many) == pytest.approx(2 * (1 - NormalDist().cdf(z)), rel=0.25, abs=1e-12)
