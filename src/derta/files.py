"""JSONL input and output: parsing with file and line in every error, atomic writes, and appending that can resume."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from derta.errors import DataError, RunError
from derta.records import Record

R = TypeVar("R", bound=Record)


def read_lines(path: Path, *, complete_lines: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text) of each line that is not blank, without loading the whole file.

    With `complete_lines`, a last line without its newline is left out.

    Raises:
        DataError: the file is missing, or a line is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            yield from lines_of(file, where=path, complete_lines=complete_lines)
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror}); check the path") from error


def lines_of(file: Iterable[bytes], *, where: object, complete_lines: bool = False) -> Iterator[tuple[int, str]]:
    """Yield the lines of an open file as `read_lines` does; errors start with the file's name `where`."""
    for number, raw in enumerate(file, start=1):
        if complete_lines and not raw.endswith(b"\n"):
            return
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{where}:{number}: expected UTF-8 text, got byte 0x{raw[error.start]:02x}; convert the file to UTF-8"
            ) from error
        if line:
            yield number, line


def read_bytes(path: Path) -> bytes:
    """Return the contents of a file.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror}); check the path") from error


def decode(raw: bytes, *, where: str) -> str:
    """Decode UTF-8 text, with or without a byte-order mark; the error for an invalid byte names its line."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{where}:{line}: expected UTF-8 text, got byte 0x{raw[error.start]:02x}; convert the file to UTF-8"
        ) from error


def read_objects(path: Path, *, complete_lines: bool = False) -> Iterator[tuple[int, Any]]:
    """Yield (line number, parsed JSON) of each line; the error for an invalid or incomplete line names its number."""
    return objects_of(read_lines(path, complete_lines=complete_lines), where=path)


def objects_of(lines: Iterable[tuple[int, str]], *, where: object) -> Iterator[tuple[int, Any]]:
    """Parse numbered lines of JSON; errors start with the file's name `where`."""
    for number, line in lines:
        try:
            yield number, parse_json(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{where}:{number}: expected one JSON object per line, got text that is not JSON "
                f"({format_json_error(error)}); fix or remove the line"
            ) from error


def parse_json(text: str) -> Any:
    r"""Parse JSON and validate its strings: half of a surrogate pair (`"\ud83d"`) cannot be encoded as UTF-8 output.

    Raises:
        ValueError: invalid JSON, a number of thousands of digits, or a string with half of a surrogate pair.
        RecursionError: the JSON is nested too deeply.
    """
    value = json.loads(text)
    if "\\ud" in text or "\\uD" in text:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def format_json_error(error: ValueError | RecursionError) -> str:
    """Format an error of `parse_json` in a few words."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def format_validation_error(error: ValidationError) -> str:
    """Format the first fault of a pydantic error in one line: the field, the expected value, and the input."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "row"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{field}: {format_error_details(first)}{more}"


def format_error_details(details: ErrorDetails) -> str:
    """Format one fault of a pydantic error: the expected value and the input; a validator's message is unchanged."""
    if details["type"] == "missing":
        return "expected a value, got none"
    message = str(details["ctx"]["error"]) if details["type"] == "value_error" and "ctx" in details else details["msg"]
    value = repr(details.get("input"))
    return f"{message}, got {value[:80]}{'…' if len(value) > 80 else ''}"


def parse_record(kind: type[R], value: object, *, where: str) -> R:
    """Validate one parsed object and return it as a record; errors start with its location `where` (`file:line`).

    Raises:
        DataError: a field is missing, empty, unknown or of the wrong type.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise DataError(
            f"{where}: not a {kind.__name__.lower()}: {format_validation_error(error)}; fix or remove the row"
        ) from error


def read_records(path: Path | str, kind: type[R], *, complete_lines: bool = False) -> Iterator[R]:
    """Yield the records of a JSONL file one by one, without loading the whole file.

    With `complete_lines`, an incomplete last line is left out: another process may be writing it, or was killed.

    >>> from tempfile import TemporaryDirectory
    >>> from derta.records import Request
    >>> with TemporaryDirectory() as folder:
    ...     write_records(f"{folder}/requests.jsonl", [Request(id="7", text="How do I bake bread?")])
    ...     [request.id for request in read_records(f"{folder}/requests.jsonl", Request)]
    ['7']

    Raises:
        DataError: a row is not a valid `kind`; the error names the file and the line.
    """
    for number, value in read_objects(Path(path), complete_lines=complete_lines):
        yield parse_record(kind, value, where=f"{path}:{number}")


def to_line(record: Record) -> str:
    """Return a record as one line of JSON, without the fields that have their default value."""
    return record.model_dump_json(exclude_defaults=True) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: to a temporary file first, which then replaces the old file.

    Raises:
        RunError: the disk is full or the folder cannot be written; the old file is unchanged.
    """
    _write_whole(path, [text])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a file atomically, line by line, as `write_text`; a text of all lines is never in memory."""
    _write_whole(path, lines)


def _write_whole(path: Path, pieces: Iterable[str]) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # in a folder of a stranger it may be a link to another place
        with partial.open("x", encoding="utf-8") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise RunError(f"{path}: cannot write it ({error.strerror}); free space or choose another folder") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def sync_folder(folder: Path, *, recursive: bool = True) -> None:
    """Write a folder's files and entries to the disk itself, so that a power failure cannot truncate them."""
    for path in [*(folder.rglob("*") if recursive else ()), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_records(path: Path | str, records: Iterable[Record]) -> None:
    """Write records to a JSONL file atomically; an iterator is not loaded into memory.

    >>> from tempfile import TemporaryDirectory
    >>> from derta.records import Reply
    >>> with TemporaryDirectory() as folder:
    ...     write_records(f"{folder}/replies.jsonl", [Reply(prompt_id="7", text="Sorry, no.")])
    ...     [reply.text for reply in read_records(f"{folder}/replies.jsonl", Reply)]
    ['Sorry, no.']
    """
    _write_whole(Path(path), map(to_line, records))


def drop_torn_line(path: Path) -> None:
    """Remove an incomplete last line, which a killed process leaves without its newline.

    Raises:
        RunError: the path is a folder, or the file cannot be written.
    """
    if not path.exists():
        return
    try:
        with path.open("rb+") as file:
            _truncate_to_last_newline(file)
    except OSError as error:
        raise RunError(f"{path}: cannot open it ({error.strerror}); choose another file") from error


def _truncate_to_last_newline(file: IO[bytes]) -> None:
    size = file.seek(0, os.SEEK_END)
    end = size
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        file.truncate(end)


class Appender:
    """Writer that appends records to a JSONL file, and resumes a file that a killed process left.

    Each record is passed to the operating system as one complete line before `add` returns.

    Raises:
        RunError: the file cannot be opened or the disk is full; the lines already written are complete.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        drop_torn_line(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("ab", buffering=0)
        except OSError as error:
            raise RunError(f"{path}: cannot open it ({error.strerror}); choose another folder") from error

    def add(self, record: Record) -> None:
        """Append one record."""
        line = to_line(record).encode()
        try:
            written = self._file.write(line)
        except OSError as error:
            raise RunError(f"{self._path}: cannot write ({error.strerror}); free space, then run again") from error
        if written != len(line):
            raise RunError(f"{self._path}: the disk is full; free space, then run again")

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
