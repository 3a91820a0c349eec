"""A pytest plugin that writes the tests and the outcome of each at once, so that a killed run leaves its results.

Used by `scripts/gpu_check.py`: `pytest -p gpu_tests_log`, with the path of a JSON Lines file in GPU_TESTS_LOG.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest


def _append(record: dict[str, Any]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # the controller gets the reports of all workers
        return
    with Path(os.environ["GPU_TESTS_LOG"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _write(test: str, outcome: str, *, seconds: float = 0.0, reason: str = "") -> None:
    reason = " ".join(reason.split())[:300]
    _append({"test": test, "outcome": outcome, "seconds": round(seconds, 2), "reason": reason})


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    if isinstance(report.longrepr, tuple):  # a skip: path, line, reason
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return crash.message if crash is not None else str(report.longrepr or "")[-250:]  # a traceback ends with the error


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write which tests will run."""
    _append({"collected": [item.nodeid for item in session.items]})


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: Sequence[str]) -> None:
    """Write which tests will run, once for each worker: all collect the same."""
    del node
    _append({"collected": list(ids)})


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write a test's outcome after its call, or after a phase that skipped or failed it."""
    if report.when == "call" or report.outcome != "passed":
        _write(report.nodeid, report.outcome, seconds=report.duration, reason=_reason(report))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Write a file that could not be collected as a failure, and one that skips itself as skipped."""
    if report.outcome != "passed":
        _write(report.nodeid, report.outcome, reason=_reason(report))
