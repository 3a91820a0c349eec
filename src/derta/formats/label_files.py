"""Files of labels that people fill in for a random sample of replies: CSV with a column for the label.

The rows are the first ones of a random order of all replies, so that a larger sample continues a smaller one. A row
belongs to one reply by the hash of its id, its prompt and its text; the other columns are for people.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from derta.errors import DataError
from derta.files import decode, read_bytes
from derta.formats.labels import BOTH, WORDS
from derta.messages import short_hash
from derta.protocols import Case
from derta.provenance import case_hash
from derta.records import Measure
from derta.sources.tables import csv_records

COLUMNS = ("row", "reply_hash", "id", "sample", "request", "reply")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_DELIMITERS = (",", ";", "\t")


class LabelRow(NamedTuple):
    """Row of a file of labels: its place, the hash of its reply, the word of the label, and its outcome.

    The word is empty before somebody fills it in. The outcome is None without a word, and for an undecided label.
    """

    where: str
    reply_hash: str
    word: str
    truth: bool | None


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


def read_label_rows(path: Path, *, measure: Measure) -> list[LabelRow]:
    """Load the rows of a file of labels; columns that people added are ignored.

    Raises:
        DataError: the file is no file of labels of this measure, a label is not known, or a reply has two rows.
    """
    text = decode(read_bytes(path), where=str(path))
    header = text.split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=header.count)
    rows: list[LabelRow] = []
    places: dict[str, int] = {}
    seen: set[str] = set()
    for where, cells in csv_records(text, where=str(path), delimiter=delimiter):
        if not places:
            places = {name.strip().lower(): i for i, name in enumerate(cells)}
            if missing := [name for name in ("reply_hash", measure) if name not in places]:
                raise DataError(
                    f"{where}: expected the columns reply_hash and {measure} of a file of `derta label --measure "
                    f"{measure}`, got none named {missing[0]}"
                )
            continue
        name, word = (cells[i].strip() if i < len(cells) else "" for i in (places["reply_hash"], places[measure]))
        row = _label_row(where, name, word, measure)
        if row.reply_hash in seen:
            raise DataError(f"{where}: expected one row for each reply, got {row.reply_hash} twice; delete one of them")
        seen.add(row.reply_hash)
        rows.append(row)
    return rows


def _label_row(where: str, name: str, word: str, measure: Measure) -> LabelRow:
    words = {"": None, **BOTH, **WORDS[measure]}
    if word.lower() not in words:
        raise DataError(
            f"{where}: {measure}: expected one of {', '.join(filter(None, words))} or nothing, got {word[:40]!r}; "
            "fix the label"
        )
    return LabelRow(where, name, word, words[word.lower()])
