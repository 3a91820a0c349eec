"""Evaluation metrics computed from verdicts: rates with intervals, paired comparisons, judge calibration, curves."""

from derta.metrics.calibration import calibrate
from derta.metrics.comparisons import compare
from derta.metrics.rates import rate
from derta.metrics.summaries import Outcome, summarize

__all__ = ["Outcome", "calibrate", "compare", "rate", "summarize"]
