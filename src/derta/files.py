"""Records in JSONL files: every fault told by file and line, and a kill while appending loses at most one line."""

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


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text) of each line that is not blank, in bounded memory.

    Raises:
        DataError: the file is missing, or a line is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path}:{number}: expected UTF-8 text, got byte 0x{raw[error.start]:02x}; "
                        "convert the file to UTF-8"
                    ) from error
                if line:
                    yield number, line
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror}); check the path") from error


def read_bytes(path: Path) -> bytes:
    """Return a whole file.

    Raises:
        DataError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror}); check the path") from error


def decode(raw: bytes, *, where: str) -> str:
    """Return UTF-8 text, with or without a byte-order mark; a wrong byte is reported with its line."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{where}:{line}: expected UTF-8 text, got byte 0x{raw[error.start]:02x}; convert the file to UTF-8"
        ) from error


def read_objects(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, parsed JSON) of each line; a torn or malformed line is told by its number."""
    for number, line in read_lines(path):
        try:
            yield number, parse_json(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}:{number}: expected one JSON object per line, got text that is not JSON "
                f"({format_json_error(error)}); fix or remove the line"
            ) from error


def parse_json(text: str) -> Any:
    r"""Parse JSON whose texts are whole: half of a surrogate pair (`"\ud83d"` alone) could not be written again.

    Raises:
        ValueError: the text is no JSON, a number is thousands of digits long, or a text is not whole.
        RecursionError: it is nested too deeply.
    """
    value = json.loads(text)
    if "\\ud" in text or "\\uD" in text:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def format_json_error(error: ValueError | RecursionError) -> str:
    """What is wrong with a text that `parse_json` refused, in a few words."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def format_validation_error(error: ValidationError) -> str:
    """The first fault of a pydantic error in one line: field, what was expected, what came."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "row"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{field}: {format_error_details(first)}{more}"


def format_error_details(found: ErrorDetails) -> str:
    """One fault of a pydantic error: what was expected, what came; a validator's own words stand as they are."""
    if found["type"] == "missing":
        return "expected a value, got none"
    told = str(found["ctx"]["error"]) if found["type"] == "value_error" and "ctx" in found else found["msg"]
    got = repr(found.get("input"))
    return f"{told}, got {got[:80]}{'…' if len(got) > 80 else ''}"


def parse_record(kind: type[R], value: object, *, where: str) -> R:
    """Validate one parsed object; `where` (file:line) leads the error.

    Raises:
        DataError: a field is missing, empty, of the wrong type or unknown.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise DataError(
            f"{where}: not a {kind.__name__.lower()}: {format_validation_error(error)}; fix or remove the row"
        ) from error


def read_records(path: Path | str, kind: type[R]) -> Iterator[R]:
    """Yield the records of a JSONL file one by one, in bounded memory.

    >>> from tempfile import TemporaryDirectory
    >>> from derta.records import Request
    >>> with TemporaryDirectory() as folder:
    ...     write_records(f"{folder}/requests.jsonl", [Request(id="7", text="How do I bake bread?")])
    ...     [request.id for request in read_records(f"{folder}/requests.jsonl", Request)]
    ['7']

    Raises:
        DataError: names the file and the line of the first row that is not a `kind`.
    """
    for number, value in read_objects(Path(path)):
        yield parse_record(kind, value, where=f"{path}:{number}")


def to_line(record: Record) -> str:
    """One line of JSON; absent fields are left out."""
    return record.model_dump_json(exclude_defaults=True) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing: to a neighbour first, then renamed over the old one.

    Raises:
        RunError: the disk is full or the folder cannot be written; the old file stays as it was.
    """
    _write_whole(path, [text])


def _write_whole(path: Path, pieces: Iterable[str]) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise RunError(f"{path}: cannot write it ({error.strerror}); free space or choose another folder") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_records(path: Path | str, records: Iterable[Record]) -> None:
    """Write all records as lines of JSON, or nothing; they are not held, so that there may be millions of them.

    >>> from tempfile import TemporaryDirectory
    >>> from derta.records import Reply
    >>> with TemporaryDirectory() as folder:
    ...     write_records(f"{folder}/replies.jsonl", [Reply(prompt_id="7", text="Sorry, no.")])
    ...     [reply.text for reply in read_records(f"{folder}/replies.jsonl", Reply)]
    ['Sorry, no.']
    """
    _write_whole(Path(path), map(to_line, records))


def drop_torn_line(path: Path) -> None:
    """Cut off a last line that a kill left without its newline; whole lines stay.

    Raises:
        RunError: the path is a folder, or a file that may not be changed.
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
    """Appends records to a file that an earlier, killed process may have begun.

    Each record reaches the operating system as one whole line before `add` returns.

    Raises:
        RunError: on a full disk; the lines before are whole.
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
        """Write one record."""
        line = to_line(record).encode()
        try:
            written = self._file.write(line)
        except OSError as error:
            raise RunError(f"{self._path}: cannot write ({error.strerror}); free space, then run again") from error
        if written != len(line):
            raise RunError(f"{self._path}: the disk is full; free space, then run again")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
