"""Console output: progress bars and log lines on standard error, results on standard output."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from rich import progress
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from derta.cli.launch import is_main_process
from derta.errors import escape_entry, escape_hidden, escape_json
from derta.protocols import Display
from derta.results import TextTable

LOGGER = logging.getLogger("derta")
LINE_SECONDS = 30.0
"""Seconds between two lines on a task where there is no terminal."""
_FEWEST = 9
"""Width from which on the other columns of a table are narrowed no further before the first one is."""
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


class _Elapsed(progress.TimeElapsedColumn):
    def render(self, task: progress.Task) -> Text:
        return Text("elapsed ") + Text(format_seconds(task.finished_time if task.finished else task.elapsed))


class _Remaining(progress.TimeRemainingColumn):
    max_refresh = 0.5

    def render(self, task: progress.Task) -> Text:
        return Text("" if task.finished else f"remaining {format_seconds(task.time_remaining)}")


def format_seconds(seconds: float | None) -> str:
    """Return a time in minutes and seconds, with hours where there are some.

    >>> format_seconds(20.4), format_seconds(3725), format_seconds(None)
    ('0:20', '1:02:05', '?')
    """
    if seconds is None:
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _LineTask:
    """Task of a process without a terminal: a line when it starts, every half minute, and when it ends."""

    def __init__(self, description: str, total: int, clock: Callable[[], float] = monotonic) -> None:
        self._description, self._total, self._clock = description, total, clock
        self._completed, self._started, self._printed = 0, clock(), clock()

    def update(self, completed: int) -> None:
        self._completed = completed
        if self._clock() - self._printed >= LINE_SECONDS and LOGGER.isEnabledFor(logging.INFO):
            self.print_line()

    def set_total(self, total: int) -> None:
        self._total = total

    def print_line(self) -> None:
        self._printed = self._clock()
        elapsed, done = self._printed - self._started, self._completed
        rest = elapsed / done * max(0, self._total - done) if done else None
        remaining = "" if done >= self._total else f", remaining {format_seconds(rest)}"
        line = f"{self._description} {done}/{self._total}, elapsed {format_seconds(elapsed)}{remaining}"
        _stderr.print(line, markup=False)


class RichProgress:
    """Progress on standard error: bars in a terminal, a line every half minute elsewhere, nothing with `--quiet`."""

    @contextmanager
    def task(self, description: str, *, total: int) -> Generator[_Task | _LineTask]:
        """Show progress while the `with` block runs."""
        text = escape_hidden(description).replace("\n", " ")
        if not _stderr.is_terminal:
            line = _LineTask(text, total)
            yield line
            if LOGGER.isEnabledFor(logging.INFO):
                line.print_line()
            return
        columns = (
            progress.TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            _Elapsed(),
            _Remaining(),
        )
        with progress.Progress(*columns, console=_stderr, disable=not LOGGER.isEnabledFor(logging.INFO)) as bars:
            yield _Task(bars, text, total)


def console_display() -> Display:
    """Return the display of the command line, and add a console handler to derta's logger once.

    `--quiet` and `--verbose` have set the logger's level.
    """
    if not any(isinstance(handler, ConsoleHandler) for handler in LOGGER.handlers):
        LOGGER.addHandler(ConsoleHandler())
    if LOGGER.level == logging.NOTSET:
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
    """Print a line or a table to standard output; text is never parsed as markup.

    A table fits the terminal. In a file or a pipe it is as wide as its text, unless COLUMNS is set.
    """
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=isinstance(value, str))
    if isinstance(value, str):
        console.print(escape_entry(value))
        return
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = max(console.width, sum(_widths(value, longest=_line)) + _borders(value))
    console.print(_Escaped(_render(value, width=console.width)))


def print_output(value: Any, *lines: str | TextTable, as_json: bool) -> None:
    """Print `value` as JSON, or the given lines and tables."""
    if as_json:
        print_json(value)
    else:
        for line in lines:
            print_result(line)


def _render(text: TextTable, *, width: int) -> Table:
    """Return a table whose cells are folded and never cut; words are folded only if the width has no room for them."""
    table = Table(title=text.title or None, caption=text.caption or None)
    for name, own in zip(text.header, _column_widths(text, width=width), strict=True):
        table.add_column(name, overflow="fold", width=own)
    for row in text.rows:
        table.add_row(*row)
    return table


def _column_widths(text: TextTable, *, width: int) -> list[int]:
    """Return the width of each column: that of its words, and more where text would be folded and there is room.

    Without room for all words, the widest columns give way, and the first one, which has the names, last.
    """
    widths, full = _widths(text, longest=_word), _widths(text, longest=_line)
    room = width - sum(widths) - _borders(text)
    for _ in range(min(room, sum(full) - sum(widths))):
        most = max(range(len(widths)), key=lambda column: full[column] - widths[column])
        widths[most] += 1
    for _ in range(-room):
        widest = max(range(1, len(widths)), key=lambda column: widths[column], default=0)
        widest = widest if widths[widest] > _FEWEST else widths.index(max(widths))
        widths[widest] = max(1, widths[widest] - 1)
    return widths


def _widths(text: TextTable, *, longest: Callable[[str], int]) -> list[int]:
    return [max(map(longest, column)) for column in zip(text.header, *text.rows, strict=True)]


def _word(text: str) -> int:
    return max(map(_line, text.split()), default=1)


def _line(text: str) -> int:
    return cell_len(escape_hidden(text)) or 1


def _borders(text: TextTable) -> int:
    """Return the width of the lines between columns, with a space on both sides of each cell."""
    return 3 * len(text.header) + 1


def print_json(value: Any) -> None:
    """Print JSON to standard output; hidden characters are JSON's escapes."""
    sys.stdout.write(escape_json(json.dumps(value, indent=2, ensure_ascii=False)) + "\n")
