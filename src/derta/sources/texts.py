"""Rows of JSON, JSON Lines and text files."""

from __future__ import annotations

import io
import json
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from derta.errors import DataError, kind_of
from derta.files import decode, format_json_error, lines_of, objects_of, parse_json
from derta.sources.compression import open_contents, read_contents
from derta.sources.rows import Row

_START_BYTES = 4096


def json_rows(path: Path) -> Iterator[Row]:
    """Yield the items of a JSON list, one JSON object as one row, or the lines of JSON Lines."""
    contents = read_contents(path)
    text = decode(contents, where=str(path))
    try:
        value = parse_json(text) if text.strip() else []
    except json.JSONDecodeError as error:
        more = error.msg == "Extra data"
        if more and "\n" in text[: error.pos]:  # a whole value, and another one on the next line
            yield from _rows_of_lines(path, io.BytesIO(contents))
            return
        advice = "put each object on a line" if more else "the file may be cut short: fetch it again"
        raise DataError(
            f"{path}:{error.lineno}: expected one JSON list, or one JSON object per line, got text that is not "
            f"({error.msg}); {advice}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: expected a JSON list of rows, got one that cannot be read ({format_json_error(error)}); fix it"
        ) from error
    if isinstance(value, dict):
        yield Row(f"{path}", value)
        return
    if not isinstance(value, list):
        raise DataError(f"{path}: expected a JSON list of rows, got {kind_of(value)}; keep only the list")
    for index, item in enumerate(cast("list[Any]", value)):
        yield Row(f"{path}[{index}]", item)


def jsonl_rows(path: Path) -> Iterator[Row]:
    """Yield the lines of a JSON Lines file, which is not loaded whole unless it is a JSON list."""
    with open_contents(path) as file:
        is_list = file.read(_START_BYTES).removeprefix(BOM_UTF8).lstrip().startswith(b"[")
        file.seek(0)
        if not is_list:
            yield from _rows_of_lines(path, file)
    if is_list:
        yield from json_rows(path)


def _rows_of_lines(path: Path, file: Iterable[bytes]) -> Iterator[Row]:
    for number, value in objects_of(lines_of(file, where=path), where=path):
        yield Row(f"{path}:{number}", value)


def line_rows(path: Path) -> Iterator[Row]:
    """Yield the lines of a text file, without the blanks around them; blank lines are skipped."""
    with open_contents(path) as file:
        for number, line in lines_of(file, where=path):
            yield Row(f"{path}:{number}", line)


def part_rows(path: Path, separator: str) -> Iterator[Row]:
    """Yield the parts of a text file between separator lines, stripped of white space; empty parts are skipped."""
    parts: list[tuple[int, list[str]]] = [(1, [])]
    for number, line in enumerate(decode(read_contents(path), where=str(path)).splitlines(), start=1):
        if line.strip() == separator:
            parts.append((number + 1, []))
        else:
            parts[-1][1].append(line)
    for number, lines in parts:
        if text := "\n".join(lines).strip():
            yield Row(f"{path}:{number}", text)
