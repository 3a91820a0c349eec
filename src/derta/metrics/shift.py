"""Test of whether a judge's verdicts on new replies are compatible with its verdicts on calibration replies."""

from __future__ import annotations

from collections.abc import Mapping

from derta.records import Measure, Verdict

SHIFT_LEVEL = 0.01
Strata = Mapping[str, tuple[int, int]]
"""Calibration replies by stratum (see `verdict_stratum`): how many are labelled true, and how many false."""
_STEPS = 201  # shares of true replies that are tried


def verdict_stratum(verdict: Verdict, measure: Measure) -> str:
    """Return the kind of a verdict: its class of reply, or the fifth of its score, and the outcome.

    >>> verdict_stratum(Verdict(prompt_id="1", judge="harm", harmful=True, score=0.93), "harmful")
    'True, score 0.8'
    """
    outcome = verdict.outcome(measure)
    if verdict.reply_class is not None:
        return f"{outcome}, {verdict.reply_class}"
    if verdict.score is not None:
        return f"{outcome}, score {min(4, int(verdict.score * 5)) / 5}"
    return f"{outcome}"


def shift_p_value(observed: Mapping[str, int], strata: Strata) -> float | None:
    """Return the p-value of the hypothesis that new replies differ from the calibration in the share of true ones only.

    Then the distribution of the verdicts over the strata is a mixture of those of the true and the false calibration
    replies, and the correction of a rate by sensitivity and specificity is valid. The best mixture is compared with the
    observed counts by a chi-square statistic that includes the sampling error of the calibration. The test cannot see a
    judge that errs differently with the same verdicts, for example on false replies that all look like true ones.

    >>> strata = {"True": (90, 20), "False": (10, 80)}
    >>> round(shift_p_value({"True": 55, "False": 45}, strata) or 0, 1)
    1.0
    >>> (shift_p_value({"True": 5, "False": 295}, strata) or 0) < 0.01  # fewer than the false positives alone
    True

    Returns:
        None if the calibration has no strata, or labels of one kind only.
    """
    import numpy as np
    from scipy.stats import chi2

    names = sorted({*observed, *strata})
    counts = np.array([observed.get(name, 0) for name in names], dtype=float)
    both = np.array([strata.get(name, (0, 0)) for name in names], dtype=float)
    totals = both.sum(axis=0)
    if len(names) < 2 or not totals.all() or not counts.sum():
        return None
    smoothed = (both + 0.5) / (totals + len(names) / 2)
    shares = np.linspace(0.0, 1.0, _STEPS)[:, None]
    expected = shares * smoothed[:, 0] + (1 - shares) * smoothed[:, 1]
    of_true, of_false = smoothed[:, 0] / totals[0], smoothed[:, 1] / totals[1]
    variance = expected / counts.sum() + shares**2 * of_true + (1 - shares) ** 2 * of_false
    statistic = ((counts / counts.sum() - expected) ** 2 / variance).sum(axis=1).min()
    return float(chi2.sf(statistic, max(1, len(names) - 2)))
