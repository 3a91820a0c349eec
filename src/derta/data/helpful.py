"""Loading of helpful datasets: instructions with answers, conversations that end with an answer, and raw text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from derta.columns import lower_names
from derta.data.detection import parse_rows, pick_format
from derta.data.fields import RefusedRows, log_dropped
from derta.data.helpful_formats import HELPFUL_FORMATS, UNCERTAIN, Conversation
from derta.errors import DataError
from derta.files import parse_record
from derta.records import Example
from derta.sources import read_rows, source_name


class ReadExamples(NamedTuple):
    """Output of `read_examples`: the helpful examples of a dataset, and counts of the dropped rows by reason.

    `first_fault` names the first row that the chat template refused, with the template's message; empty without one.
    """

    examples: list[Example]
    dropped: Counter[str]
    first_fault: str = ""


def load_examples(
    source: str | Path,
    *,
    split: str = "train",
    format: str = "auto",
    limit: int | None = None,
    config: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[Example]:
    """Load the helpful examples of a file, a `datasets` folder or a Hub dataset; dropped rows are logged.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "helpful.jsonl")
    ...     _ = path.write_text('{"instruction": "Name a food.", "output": "Bread."}')
    ...     load_examples(path)[0].messages[-1].content
    'Bread.'

    Args:
        source: A file, a folder or a Hub id, see `derta.sources.read_rows`.
        split: Split of a folder or a Hub dataset.
        format: Key of `HELPFUL_FORMATS`, or `auto` to detect the format from the field names.
        limit: Maximum number of examples, counted from the first; None returns all.
        config: Configuration of a folder or a Hub dataset that has several.
        columns: Names of columns in the source, by the names that the format has: `{"prompt": "question"}`.

    Raises:
        DataError: See `read_examples`.
    """
    read = read_examples(source, split=split, format=format, limit=limit, config=config, columns=columns)
    log_dropped(source, summary=f"{len(read.examples)} helpful examples", dropped=read.dropped)
    return read.examples


def read_examples(
    source: str | Path,
    *,
    split: str = "train",
    format: str = "auto",
    limit: int | None = None,
    config: str | None = None,
    columns: Mapping[str, str] | None = None,
    fault_of: Callable[[Example], str | None] | None = None,
) -> ReadExamples:
    """Load the helpful examples of a dataset, with counts of the dropped rows; for the arguments see `load_examples`.

    A row with an empty turn, or whose last turn is not the assistant's, is dropped and counted. So is one for which
    `fault_of` returns a message, such as that the chat template refuses it; the first is named in the log.

    Raises:
        DataError: Unknown format, a missing or invalid field, or no example in the dataset.
    """
    rows = map(lower_names, read_rows(source, split=split, config=config, columns=columns))
    _, layout, rows = pick_format(
        rows, HELPFUL_FORMATS, name=format, source=source, columns=columns or (), uncertain=UNCERTAIN
    )
    dropped, refused, name = Counter[str](), RefusedRows(fault_of), source_name(source)
    examples: list[Example] = []
    for row, content in parse_rows(rows, layout.read, format=layout, source=source, dropped=dropped):
        if reason := _drop_reason(content):
            dropped[reason] += 1
            continue
        fields = {"text": content} if isinstance(content, str) else content._asdict()
        example = parse_record(Example, {**fields, "source": name}, where=row.where)
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


def _drop_reason(content: Conversation | str) -> str | None:
    """Return the reason for dropping a row, or None if it is valid."""
    if isinstance(content, str):
        return None if content else "empty_text"
    turns = content.messages
    if len(turns) < 2 or turns[-1].role != "assistant":
        return "no_answer"
    return "empty_turn" if any(turn.is_empty for turn in turns) or not turns[-1].content else None
