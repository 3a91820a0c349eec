"""Console output: progress bars and log lines on standard error, results on standard output."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from rich import progress
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from derta.cli.launch import is_main_process
from derta.errors import escape_entry, escape_hidden, escape_json
from derta.protocols import Display
from derta.results import TextTable

LOGGER = logging.getLogger("derta")
_stderr = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True, quiet=not is_main_process())


class ConsoleHandler(logging.Handler):
    """Logging handler that prints records to standard error, above any progress bar; markup is not interpreted.

    Each record starts one line; its other lines are indented.
    In a terminal, the log lines of training steps are omitted, because the progress bar shows them.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Format and print a log record."""
        if not (_stderr.is_terminal and record.name.endswith(".steps")):
            _stderr.print(escape_entry(self.format(record)), markup=False)


class _Task:
    def __init__(self, bars: progress.Progress, description: str, total: int) -> None:
        self._progress = bars
        self._id = bars.add_task(description, total=total)

    def update(self, completed: int) -> None:
        self._progress.update(self._id, completed=completed)

    def set_total(self, total: int) -> None:
        self._progress.update(self._id, total=total)


class RichProgress:
    """Progress bars on standard error."""

    @contextmanager
    def task(self, description: str, *, total: int) -> Generator[_Task]:
        """Show a progress bar while the `with` block runs."""
        columns = (
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=_stderr) as bars:
            yield _Task(bars, escape_hidden(description).replace("\n", " "), total)


def console_display() -> Display:
    """Return the display of the command line, and add a console handler to derta's logger once."""
    if not any(isinstance(handler, ConsoleHandler) for handler in LOGGER.handlers):
        LOGGER.addHandler(ConsoleHandler())
        LOGGER.setLevel(logging.INFO)
    return Display(RichProgress(), LOGGER)


class _Escaped:
    """A table or another renderable object, with its texts escaped."""

    def __init__(self, value: RenderableType) -> None:
        self._value = value

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self._value, options):
            text = segment.text if segment.control else escape_hidden(segment.text)
            yield Segment(text, segment.style, segment.control)


def print_result(value: str | TextTable) -> None:
    """Print a line or a table to standard output; text is never parsed as markup."""
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=isinstance(value, str))
    console.print(escape_entry(value) if isinstance(value, str) else _Escaped(_render(value, width=console.width)))


def print_output(value: Any, *lines: str | TextTable, as_json: bool) -> None:
    """Print `value` as JSON, or the given lines and tables."""
    if as_json:
        print_json(value)
    else:
        for line in lines:
            print_result(line)


def _render(text: TextTable, *, width: int) -> Table:
    """Return a table whose cells are folded and never cut; names get up to 24 characters, if all columns can."""
    table = Table(title=text.title or None, caption=text.caption or None)
    names = [row[0] for row in text.rows]
    # a wider minimum than an equal share would push the last column out
    share = max(1, (width - 3 * len(text.header) - 1) // len(text.header))
    least = min(24, share, max(map(len, names), default=0))
    for number, name in enumerate(text.header):
        table.add_column(name, overflow="fold", min_width=None if number else least)
    for row in text.rows:
        table.add_row(*row)
    return table


def print_json(value: Any) -> None:
    """Print JSON to standard output; hidden characters are JSON's escapes."""
    sys.stdout.write(escape_json(json.dumps(value, indent=2, ensure_ascii=False)) + "\n")
