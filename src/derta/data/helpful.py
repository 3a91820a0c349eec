"""Loading of helpful datasets: instructions with answers, conversations that end with an answer, and raw text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from derta.data.fields import RefusedRows, log_dropped, pick_format, text_of, value_of
from derta.errors import DataError
from derta.files import parse_record
from derta.records import Example
from derta.sources import Row, fields_of, read_rows, source_name

SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


class ReadExamples(NamedTuple):
    """Output of `read_examples`: the helpful examples of a dataset, and counts of the dropped rows by reason.

    `first_fault` names the first row that the chat template refused, with the template's message; empty without one.
    """

    examples: list[Example]
    dropped: Counter[str]
    first_fault: str = ""


class HelpfulFormat(NamedTuple):
    """Format of a helpful dataset: the required fields, and the parser of a row.

    The parser returns the turns as (role, text), or a raw text, or None for a row to skip (e.g. a refusal).
    """

    fields: tuple[str, ...]
    read: Callable[[Row], list[tuple[str, str]] | str | None]


def load_examples(
    source: str | Path, *, split: str = "train", format: str = "auto", limit: int | None = None
) -> list[Example]:
    """Load the helpful examples of a file, a `datasets` folder or a Hub dataset; dropped rows are logged.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "helpful.jsonl")
    ...     _ = path.write_text('{"instruction": "Name a food.", "output": "Bread."}')
    ...     load_examples(path)[0].messages[-1].content
    'Bread.'

    Args:
        source: A `.json`, `.jsonl`, `.csv` or `.parquet` file, a folder that `datasets` can load, or a Hub id.
        split: Split of a folder or a Hub dataset.
        format: Key of `HELPFUL_FORMATS`, or `auto` to detect the format from the field names.
        limit: Maximum number of examples, counted from the first; None returns all.

    Raises:
        DataError: See `read_examples`.
    """
    read = read_examples(source, split=split, format=format, limit=limit)
    log_dropped(source, summary=f"{len(read.examples)} helpful examples", dropped=read.dropped)
    return read.examples


def read_examples(
    source: str | Path,
    *,
    split: str = "train",
    format: str = "auto",
    limit: int | None = None,
    fault_of: Callable[[Example], str | None] | None = None,
) -> ReadExamples:
    """Load the helpful examples of a dataset, with counts of the dropped rows; for the arguments see `load_examples`.

    A row with an empty turn, or whose last turn is not the assistant's, is dropped and counted. So is one for which
    `fault_of` returns a message, such as that the chat template refuses it; the first is named in the log.

    Raises:
        DataError: Unknown format, a missing or invalid field, or no example in the dataset.
    """
    rows = read_rows(source, split=split)
    _, layout, rows = pick_format(rows, HELPFUL_FORMATS, name=format, source=source)
    name = source_name(source)
    examples: list[Example] = []
    dropped: Counter[str] = Counter()
    refused = RefusedRows(fault_of)
    for row in rows:
        content = layout.read(row)
        if content is None:
            continue
        reason = _drop_reason(content)
        if reason:
            dropped[reason] += 1
            continue
        example = parse_record(Example, {**_format_content(content), "source": name}, where=row.where)
        if not refused.has(example, where=row.where):
            examples.append(example)
    refused.log()
    dropped += refused.dropped
    if not examples:
        raise DataError(
            f"{source}: expected helpful rows, found none ({dict(dropped)}); "
            f"{refused.first_fault or 'check the format'}"
        )
    return ReadExamples(examples[:limit], dropped, refused.first_fault)


def _format_content(content: list[tuple[str, str]] | str) -> dict[str, object]:
    """Format the content of a row as the fields of an `Example`."""
    if isinstance(content, str):
        return {"text": content}
    return {"messages": [{"role": role, "content": text} for role, text in content]}


def _drop_reason(turns: list[tuple[str, str]] | str) -> str | None:
    """Return the reason for dropping a row, or None if it is valid."""
    if isinstance(turns, str):
        return None if turns else "empty_text"
    if len(turns) < 2 or turns[-1][0] != "assistant":
        return "no_answer"
    return None if all(text for _, text in turns) else "empty_turn"


def instruction_of(row: Row) -> str:
    r"""Return the request of an Alpaca row: the instruction, followed by its input if there is one.

    >>> instruction_of(Row("a.json[0]", {"instruction": "Sort these.", "input": "b, a"}))
    'Sort these.\n\nb, a'
    """
    instruction = text_of(row, "instruction")
    context = text_of(row, "input") if "input" in fields_of(row) else ""
    return f"{instruction}\n\n{context}" if instruction and context else instruction


def _alpaca(row: Row) -> list[tuple[str, str]]:
    return [("user", instruction_of(row)), ("assistant", text_of(row, "output"))]


def _aisafetylab(row: Row) -> list[tuple[str, str]] | None:
    """Parse a row with label 0, a helpful answer; refusals (1) and harmful answers (2) are loaded as triples."""
    if str(value_of(row, "label")) != "0":
        return None
    return [("user", text_of(row, "input")), ("assistant", text_of(row, "output"))]


def _turns(row: Row, *, field: str, role: str, text: str, roles: Mapping[str, str] | None) -> list[tuple[str, str]]:
    value = value_of(row, field)
    if not isinstance(value, list):
        raise DataError(f"{row.where}: {field}: expected a list of turns, got a {type(value).__name__}; fix the row")
    turns: list[tuple[str, str]] = []
    for index, turn in enumerate(cast("list[Any]", value)):
        here = Row(f"{row.where}: {field}[{index}]", turn)
        name = text_of(here, role)
        turns.append((roles.get(name, name) if roles else name, text_of(here, text)))
    return turns


def _text(row: Row) -> str:
    return text_of(row, "text")


def _messages(row: Row) -> list[tuple[str, str]]:
    return _turns(row, field="messages", role="role", text="content", roles=None)


def _sharegpt(row: Row) -> list[tuple[str, str]]:
    return _turns(row, field="conversations", role="from", text="value", roles=SHAREGPT_ROLES)


# In the order in which `auto` tries them: instruction datasets have a column `text` too.
HELPFUL_FORMATS: dict[str, HelpfulFormat] = {
    "messages": HelpfulFormat(("messages",), _messages),
    "sharegpt": HelpfulFormat(("conversations",), _sharegpt),
    "alpaca": HelpfulFormat(("instruction", "output"), _alpaca),
    "aisafetylab": HelpfulFormat(("input", "output", "label"), _aisafetylab),
    "text": HelpfulFormat(("text",), _text),
}
