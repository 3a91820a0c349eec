"""Escaping of the log records, warnings, tracebacks and usage errors of the command line."""

import logging
import sys
import warnings

from derta.cli.main import app
from derta.cli.terminal import EscapedRecord, escaped_terminal, exit_code_of, print_traceback

CLEAR = "\x1b[2J\x9b31m\u202e"
HOSTILE = f"{CLEAR}\nderta: forged"


def test_records_of_every_library_and_warnings_are_clean(capsys):
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("a_library")
    logger.addHandler(handler)
    try:
        with escaped_terminal():
            logger.warning("model of type %s", HOSTILE)
            logger.warning(HOSTILE)
            logger.warning("\x1b[31mred\x1b[0m")
            error = ValueError(HOSTILE)
            logger.error("failed", exc_info=(ValueError, error, None))
            sys.stderr.write(warnings.formatwarning(HOSTILE, UserWarning, "file.py", 3, line=HOSTILE))
            assert logging.getLogRecordFactory() is EscapedRecord
    finally:
        logger.removeHandler(handler)
    print_traceback(ValueError, ValueError(CLEAR), None)
    err = capsys.readouterr().err
    assert not [character for character in err if character != "\n" and not character.isprintable()]
    assert not [line for line in err.splitlines() if line.startswith("derta: forged")]
    assert err.count("⟨U+001B⟩[2J") == 6
    assert "\nred\n" in err
    assert logging.getLogRecordFactory() is not EscapedRecord


def test_an_error_of_the_command_line_is_escaped_and_its_code_is_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["derta", "judge", f"--{CLEAR}"])
    assert exit_code_of(app) == 2
    err = capsys.readouterr().err
    assert "derta judge: No such option: --" in err
    assert "⟨U+202E⟩" in err  # typer escapes the others itself
    assert all(character == "\n" or character.isprintable() for character in err)
    monkeypatch.setattr(sys, "argv", ["derta", "--help"])
    assert exit_code_of(app) == 0
