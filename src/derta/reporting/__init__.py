"""HTML report and `summary.json` of a run, from the same numbers."""

from derta.reporting.page import read_summary, render_report, write_report

__all__ = ["read_summary", "render_report", "write_report"]
