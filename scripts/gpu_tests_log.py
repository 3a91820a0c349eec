"""A pytest plugin that writes the outcome of each test at once, so that a killed run leaves its results.

Used by `scripts/gpu_check.py`: `pytest -p gpu_tests_log`, with the path of a JSON Lines file in GPU_TESTS_LOG.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest


def _write(test: str, outcome: str, *, seconds: float = 0.0, reason: str = "") -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # the controller gets the reports of all workers
        return
    record = {"test": test, "outcome": outcome, "seconds": round(seconds, 2), "reason": " ".join(reason.split())[:300]}
    with Path(os.environ["GPU_TESTS_LOG"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    if isinstance(report.longrepr, tuple):  # a skip: path, line, reason
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return crash.message if crash is not None else str(report.longrepr or "")[-250:]  # a traceback ends with the error


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write a test's outcome after its call, or after a phase that skipped or failed it."""
    if report.when == "call" or report.outcome != "passed":
        _write(report.nodeid, report.outcome, seconds=report.duration, reason=_reason(report))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Write a file that could not be collected as a failure, and one that skips itself as skipped."""
    if report.outcome != "passed":
        _write(report.nodeid, report.outcome, reason=_reason(report))
