"""Files of labels that people fill in for a random sample of replies: CSV with a column for the label.

The rows are the first ones of a random order of all replies, so that a larger sample continues a smaller one. A row
belongs to one reply by the hash of its id, its prompt and its text; the other columns are for people.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from derta.errors import DataError
from derta.files import decode, read_bytes
from derta.formats.labels import BOTH, WORDS, UnknownLabelError, label_of_word
from derta.messages import short_hash
from derta.protocols import Case
from derta.provenance import case_hash
from derta.records import Measure
from derta.sources.tables import csv_records

COLUMNS = ("row", "reply_hash", "id", "sample", "request", "reply")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_DELIMITERS = (",", ";", "\t")
_NUMBER = re.compile("[0-9]{1,9}")


class LabelRow(NamedTuple):
    """Row of a file of labels: its place, the hash of its reply, the word of the label, and its outcome.

    The word is empty before somebody fills it in. The outcome is None without a word, and for an undecided label. The
    number is the row's place in the random sample, from 1; None if somebody removed it.
    """

    where: str
    reply_hash: str
    word: str
    truth: bool | None
    number: int | None = None


def reply_hash(case: Case) -> str:
    """Return the hash that ties a label to a reply: of its id, its sample, its prompt and its text.

    It starts with a letter, so that no program for tables reads it as a number.
    """
    return "h" + short_hash(case.reply.prompt_id, str(case.reply.sample), case_hash(*case))


def format_label_rows(cases: Iterable[Case], *, first: int, measure: Measure | None) -> str:
    """Format rows without labels as CSV, numbered from `first`; with a measure the header is before them.

    A text that a program for tables would run as a formula has an apostrophe before it.
    """
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    if measure is not None:
        writer.writerow((*COLUMNS, measure))
    for number, case in enumerate(cases, start=first):
        prompt, reply = case
        texts = (reply.prompt_id, prompt.request or prompt.text or "", reply.text)
        name, request, text = ("'" + one if one.startswith(_FORMULA) else one for one in texts)
        writer.writerow((number, reply_hash(case), name, reply.sample, request, text, ""))
    return output.getvalue()


class LabelText(NamedTuple):
    """Row of a file of labels with the texts that people read."""

    row: LabelRow
    request: str
    reply: str


class _Table(NamedTuple):
    """Contents of a file of labels: its delimiter, the place of each column, and the header and the rows."""

    delimiter: str
    places: dict[str, int]
    header: list[str]
    rows: list[tuple[str, list[str]]]


def read_label_rows(path: Path, *, measure: Measure) -> list[LabelRow]:
    """Load the rows of a file of labels; columns that people added are ignored.

    Raises:
        DataError: the file is no file of labels of this measure, a label is not known, or a reply has two rows.
    """
    return _label_rows(_read_table(path, measure), measure)


def read_label_texts(path: Path, *, measure: Measure) -> list[LabelText]:
    """Load the rows of a file of labels with their texts, without the apostrophe before a formula.

    Raises:
        DataError: as `read_label_rows`, or a column of the texts is missing.
    """
    table = _read_table(path, measure, also=("request", "reply"))
    rows = _label_rows(table, measure)
    texts = ([_text(cells, table.places[name]) for name in ("request", "reply")] for _, cells in table.rows)
    return [LabelText(row, request, reply) for row, (request, reply) in zip(rows, texts, strict=True)]


def format_with_label(path: Path, name: str, word: str, *, measure: Measure) -> str:
    """Return the text of a file of labels with the word as the label of one reply; all else stays.

    Args:
        path: The file.
        name: The hash of the reply.
        word: The label; empty to remove it.
        measure: Meaning of the labels.

    Raises:
        DataError: as `read_label_rows`, or no row has this hash.
    """
    table = _read_table(path, measure)
    place = table.places[measure]
    names = [row.reply_hash for row in _label_rows(table, measure)]
    if name not in names:
        raise DataError(f"{path}: expected a row of the reply {name!r:.40}, got none; the file changed, load it again")
    cells = table.rows[names.index(name)][1]
    cells += [""] * (place + 1 - len(cells))
    cells[place] = word
    output = io.StringIO()
    writer = csv.writer(output, delimiter=table.delimiter, lineterminator="\n")
    writer.writerows([table.header, *(cells for _, cells in table.rows)])
    mark = "\ufeff" if read_bytes(path).startswith(b"\xef\xbb\xbf") else ""
    return mark + output.getvalue()


def _read_table(path: Path, measure: Measure, *, also: tuple[str, ...] = ()) -> _Table:
    text = decode(read_bytes(path), where=str(path))
    delimiter = max(_DELIMITERS, key=text.split("\n", 1)[0].count)
    records = list(csv_records(text, where=str(path), delimiter=delimiter))
    if not records:
        raise DataError(f"{path}: expected a file of `derta label`, got an empty one; write it again")
    where, header = records[0]
    places = {name.strip().lower(): i for i, name in enumerate(header)}
    if missing := [name for name in ("reply_hash", measure, *also) if name not in places]:
        raise DataError(
            f"{where}: expected the columns {', '.join(('reply_hash', *also))} and {measure} of a file of `derta label "
            f"--measure {measure}`, got none named {missing[0]}"
        )
    return _Table(delimiter, places, header, records[1:])


def _label_rows(table: _Table, measure: Measure) -> list[LabelRow]:
    rows: list[LabelRow] = []
    seen: set[str] = set()
    for where, cells in table.rows:
        name, word = (_cell(cells, table.places[column]).strip() for column in ("reply_hash", measure))
        number = _cell(cells, table.places["row"]).strip() if "row" in table.places else ""
        row = _label_row(where, name, word, measure)
        row = row._replace(number=int(number) if _NUMBER.fullmatch(number) else None)
        if row.reply_hash in seen:
            raise DataError(f"{where}: expected one row for each reply, got {row.reply_hash} twice; delete one of them")
        seen.add(row.reply_hash)
        rows.append(row)
    return rows


def _cell(cells: list[str], place: int) -> str:
    return cells[place] if place < len(cells) else ""


def _text(cells: list[str], place: int) -> str:
    text = _cell(cells, place)
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text


def _label_row(where: str, name: str, word: str, measure: Measure) -> LabelRow:
    words = {**BOTH, **WORDS[measure]}
    try:
        return LabelRow(where, name, word, label_of_word(word, words) if word else None)
    except UnknownLabelError:
        raise DataError(
            f"{where}: {measure}: expected one of {', '.join(words)} or nothing, got {word[:40]!r}; fix the label"
        ) from None
