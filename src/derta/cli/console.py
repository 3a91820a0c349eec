"""What the command line shows: progress and log lines on standard error, results on standard output."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from rich import progress
from rich.console import Console, RenderableType

from derta.cli.launch import is_main_process
from derta.errors import visible
from derta.protocols import Display

LOGGER = logging.getLogger("derta")
_stderr = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True, quiet=not is_main_process())


class ConsoleHandler(logging.Handler):
    """Write log records to standard error as plain lines, above a progress bar; markup is never interpreted.

    The lines of training steps are left out where a terminal shows the bar.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        if not (_stderr.is_terminal and record.name.endswith(".steps")):
            _stderr.print(visible(self.format(record)), markup=False)


class _Task:
    def __init__(self, shown: progress.Progress, description: str, total: int) -> None:
        self._progress = shown
        self._id = shown.add_task(description, total=total)

    def update(self, completed: int) -> None:
        self._progress.update(self._id, completed=completed)

    def set_total(self, total: int) -> None:
        self._progress.update(self._id, total=total)


class RichProgress:
    """Progress bars on standard error."""

    @contextmanager
    def task(self, description: str, *, total: int) -> Generator[_Task]:
        """Show a bar while the block runs."""
        columns = (
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=_stderr) as shown:
            yield _Task(shown, description, total)


def console_display() -> Display:
    """The display of the command line; it gives derta's logger a handler, once."""
    if not any(isinstance(handler, ConsoleHandler) for handler in LOGGER.handlers):
        LOGGER.addHandler(ConsoleHandler())
        LOGGER.setLevel(logging.INFO)
    return Display(RichProgress(), LOGGER)


def print_result(value: RenderableType) -> None:
    """Print a line or a table on standard output; a text is never read as markup."""
    told = visible(value) if isinstance(value, str) else value
    Console(highlight=False, markup=False, emoji=False, soft_wrap=isinstance(value, str)).print(told)


def print_found(found: Any, *lines: RenderableType, as_json: bool) -> None:
    """Print a result as JSON for a script, or as lines and tables to read."""
    if as_json:
        print_json(found)
    else:
        for line in lines:
            print_result(line)


def print_json(value: Any) -> None:
    """Print a result for a script, on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
