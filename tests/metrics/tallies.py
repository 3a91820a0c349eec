"""Tallies and tables of two methods on one set of prompts."""

import numpy as np

from derta.metrics.units import Tally, Units


def one_set(num):
    return Units(np.zeros(num, int), np.arange(num), np.zeros(1, int))


def tally(*seeds):
    """A tally from the outcomes of each seed; None is unscored."""
    scored = np.array([[one is not None for one in seed] for seed in seeds], float)
    return Tally(np.array([[bool(one) for one in seed] for seed in seeds], float).sum(0), scored.sum(0))


def table(both, only_first, only_second, neither):
    """Outcomes of two methods from the counts of a fourfold table."""
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return first, second
