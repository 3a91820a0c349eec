"""From verdicts to numbers with intervals: rates, comparisons, calibrations, and the cells and curves of a summary."""

from derta.metrics.calibration import calibrate
from derta.metrics.comparisons import compare
from derta.metrics.rates import rate
from derta.metrics.summaries import Outcome, summarize

__all__ = ["Outcome", "calibrate", "compare", "rate", "summarize"]
