"""Escaping of hidden characters in all text that reaches the terminal: log records, warnings, tracebacks and errors."""

from __future__ import annotations

import logging
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import typer

from derta.errors import did_you_mean, escape_entry, escape_hidden

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_USAGE_ERROR: Any = typer.BadParameter.__base__
"""Base class of the errors of command-line parsing, which typer does not export."""


class EscapedRecord(logging.LogRecord):
    """Log record whose message contains no control sequence, and starts only one line.

    It applies to the loggers of all libraries: they quote names and values of model folders, datasets and servers.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.exc_info and self.exc_info[0] is not None:
            self.exc_text = escape_entry("".join(traceback.format_exception(*self.exc_info)).rstrip("\n"))

    def getMessage(self) -> str:  # noqa: N802 - logging's name
        """Return the message, escaped and without colours, which libraries add for terminals."""
        return escape_entry(_COLOUR.sub("", super().getMessage()))


@contextmanager
def escaped_terminal() -> Generator[None]:
    """Escape the log records and warnings of the process while the block runs, and the traceback of its exception."""
    factory, format_warning = logging.getLogRecordFactory(), warnings.formatwarning

    def format_escaped(*args: Any, **kwargs: Any) -> str:
        return escape_entry(format_warning(*args, **kwargs).rstrip("\n")) + "\n"

    logging.setLogRecordFactory(EscapedRecord)
    warnings.formatwarning = format_escaped
    try:
        yield
    finally:
        logging.setLogRecordFactory(factory)
        warnings.formatwarning = format_warning
        sys.excepthook = print_traceback  # typer sets its own


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of an unexpected exception, escaped."""
    sys.stderr.write(escape_hidden("".join(traceback.format_exception(kind, error, trace))))


def exit_code_of(app: Callable[..., Any]) -> int:
    """Run a typer app and return its exit code; errors of the command line are printed, escaped."""
    try:
        return app(standalone_mode=False, prog_name="derta") or 0
    except _USAGE_ERROR as error:
        sys.stderr.write(escape_hidden(format_usage_error(error)) + "\n")
        return error.exit_code


def format_usage_error(error: Any) -> str:
    """Return an error of the command line in one line, with an example of the command."""
    context, message = error.ctx, " ".join(error.format_message().split())
    if context is None:
        return f"derta: {message}"
    path = context.command_path
    names = list(getattr(context.command, "commands", ()))
    unknown = context.args[0] if names and context.args else ""
    example = next((line.strip() for line in (context.command.help or "").splitlines() if "Example: " in line), "")
    parts = [message.rstrip(".")]
    if unknown and "did you mean" not in message.lower():
        parts.append(did_you_mean(unknown, names))
    if any(word in message for word in ("-q", "-v", "--quiet", "--verbose")):
        parts.append("global options are before the verb: `derta -q run ...`")
    parts += [example.replace("Example: ", "for example: ", 1)] if example else []
    return f"{path}: {'; '.join(parts)}; see `{path} --help`"
