"""Reading of files of replies of any format, as rows with the columns of docs/replies.md."""

from __future__ import annotations

from collections.abc import Iterator
from os.path import expanduser
from pathlib import Path
from typing import Any, cast

from derta.errors import DataError
from derta.files import decode, parse_json
from derta.formats.inspect_logs import archive_rows, is_log, log_rows
from derta.formats.layouts import schema_rows
from derta.formats.tables_in_json import table_rows
from derta.sources import Row, fields_of, read_rows
from derta.sources.compression import plain_name, read_contents

_NOT_IN_SCHEMA = ("behavior", "number_of_queries", "queries_to_jailbreak", "prompt_tokens", "response_tokens")


def read_documents(path: Path) -> Iterator[Row]:
    """Yield the rows of a file of replies: strings, `Reply` records, or objects with the columns of our schema.

    Raises:
        DataError: the file is missing or malformed, or has no rows.
    """
    for row in _rows(Path(expanduser(path))):  # noqa: PTH111 - Path.expanduser raises where there is no home
        yield from schema_rows(row)


def _rows(path: Path) -> Iterator[Row]:
    if path.suffix.lower() == ".eval":
        yield from archive_rows(path)
        return
    document = _json_object(path) if plain_name(path).suffix.lower() == ".json" else None
    if is_completions(document):
        yield from completion_rows(document, where=str(path))
    elif is_artifact(document):
        yield from artifact_rows(document, where=str(path))
    elif is_log(document):
        yield from log_rows(document, where=str(path))
    else:
        yield from table_rows(document, where=str(path)) or read_rows(path)


def _json_object(path: Path) -> Any:
    """Return the content of a JSON file with one object; None for lists, JSON Lines and malformed files."""
    text = decode(read_contents(path), where=str(path))
    if not text.lstrip().startswith("{"):
        return None
    try:
        return parse_json(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        return None  # JSON Lines, or malformed: `read_rows` reports it


def is_completions(value: object) -> bool:
    """Return whether a JSON document is HarmBench's completions: lists of rows with a `test_case` by behaviour id."""
    if not isinstance(value, dict) or not value:
        return False
    lists = list(cast("dict[str, Any]", value).values())
    return all(isinstance(rows, list) for rows in lists) and all(
        isinstance(row, dict) and "test_case" in row for rows in lists for row in cast("list[Any]", rows)
    )


def completion_rows(value: object, *, where: str) -> Iterator[Row]:
    """Yield the rows of a document of `is_completions`: the behaviour id is the request's id.

    The behaviour's text is not in the file, so that the request is the test case, which an attack may have rewritten.

    >>> document = {"tea": [{"test_case": "How?", "generation": "Boil it.", "label": 0}]}
    >>> [row.value for row in completion_rows(document, where="a.json")]
    [{'request_id': 'tea', 'prompt': 'How?', 'generation': 'Boil it.', 'harmful': 0}]
    """
    names = {"test_case": "prompt", "label": "harmful", "judge": ""}
    for behavior, rows in cast("dict[str, list[dict[str, Any]]]", value).items():
        for index, row in enumerate(rows):
            renamed = {names.get(name, name): one for name, one in row.items() if names.get(name, name)}
            yield Row(f"{where}: {behavior}[{index}]", {"request_id": behavior, **renamed})


def is_artifact(value: object) -> bool:
    """Return whether a JSON document is an artifact of JailbreakBench: an object with a list of `jailbreaks`."""
    return isinstance(value, dict) and isinstance(cast("dict[str, Any]", value).get("jailbreaks"), list)


def artifact_rows(value: object, *, where: str) -> Iterator[Row]:
    """Yield the rows of an artifact, with the attack and the model of its parameters.

    >>> row = {"index": 3, "goal": "Tea?", "behavior": "Tea", "prompt": "Pretend. Tea?", "response": "No."}
    >>> document = {"parameters": {"method": "PAIR", "model": "m"}, "jailbreaks": [row]}
    >>> [row.value["attack"] for row in artifact_rows(document, where="a.json")]
    ['PAIR']
    """
    document = cast("dict[str, Any]", value)
    parameters = document.get("parameters")
    fields = cast("dict[str, Any]", parameters) if isinstance(parameters, dict) else {}
    common = {name: fields[key] for name, key in (("attack", "method"), ("model", "model")) if fields.get(key)}
    for number, row in enumerate(cast("list[Any]", document["jailbreaks"])):
        here = Row(f"{where}: jailbreaks[{number}]", row)
        known = {name: one for name, one in fields_of(here).items() if name not in _NOT_IN_SCHEMA}
        index = known.pop("index", None)
        yield Row(here.where, {**common, **known, "request_id": index})
