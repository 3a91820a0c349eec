"""From verdicts to numbers with intervals: cells, comparisons and curves of the summary."""
