"""Loading of request datasets: harmful and over-refusal requests, and questions with a reference answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from derta.columns import UnreadColumns, lower_names
from derta.data.detection import names_of, pick_format
from derta.data.fields import log_dropped
from derta.data.request_formats import REQUEST_FORMATS
from derta.data.suite_rows import check_turns
from derta.errors import DataError
from derta.files import decode, parse_record
from derta.records import Request, short_hash
from derta.sources import Row, csv_records, fields_of, read_rows, read_zip


class ReadRequests(NamedTuple):
    """Output of `read_requests`: the requests of a dataset, and the number of rows that repeat one."""

    requests: list[Request]
    repeated: int


def load_requests(
    source: str | Path,
    *,
    split: str = "train",
    format: str = "auto",
    limit: int | None = None,
    config: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[Request]:
    """Load the requests of a file (also MMLU's `.zip` and lists of strings), a `datasets` folder or a Hub dataset.

    The id of a request without one in its file is the hash of its text, so it is the same in every file. Of equal
    requests the first is returned; the others, and columns that are not read, are counted in a log message.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "requests.jsonl")
    ...     _ = path.write_text('{"question": "How many are 2 + 2?", "answer": "Two and two. #### 4"}')
    ...     [(request.text, request.answer) for request in load_requests(path)]
    [('How many are 2 + 2?', '4')]

    Args:
        source: A file, a folder of `datasets` or a Hub id, see `derta.sources.read_rows`; or MMLU's archive.
        split: Split of a folder or a Hub dataset.
        format: Key of `REQUEST_FORMATS`, or `auto` to detect the format from the field names. Where a file has
            harmful and harmless requests (XSTest, WildGuardMix, WildJailbreak), the subset must be set (`xstest_safe`,
            `xstest_unsafe` or `xstest_all`).
        limit: Maximum number of requests, counted from the first; None returns all.
        config: Configuration of a folder or a Hub dataset that has several.
        columns: Names of columns in the source, by the names that the format has: `{"prompt": "text"}`.

    Raises:
        DataError: Unknown format, a missing, empty or invalid field, or two different requests with the same id.
    """
    return read_requests(source, split=split, format=format, limit=limit, config=config, columns=columns).requests


def read_requests(
    source: str | Path,
    *,
    split: str = "train",
    format: str = "auto",
    limit: int | None = None,
    config: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> ReadRequests:
    """Load the requests of a dataset, with the number of repeated ones; for the arguments see `load_requests`.

    Raises:
        DataError: as in `load_requests`.
    """
    if Path(source).suffix.lower() == ".zip":
        if config is not None or columns:
            raise DataError(f"{source}: expected no `config` and no `columns` for MMLU's archive; remove them")
        rows = mmlu_rows(Path(source))
    else:
        rows = map(_bare_row, read_rows(source, split=split, config=config, columns=columns))
    key, layout, rows = pick_format(
        map(lower_names, rows), REQUEST_FORMATS, name=format, source=source, columns=columns or ()
    )
    requests: dict[str, tuple[str, Request]] = {}
    kinds: set[str] = set()
    unread, repeated, known = UnreadColumns(source), 0, names_of(layout)
    for row in rows:
        if layout.kind_of is not None and (kind := layout.kind_of(row)) is not None:
            kinds.add(kind)
        parsed = layout.read(row)
        if layout.optional is not None:
            unread.add(fields_of(row), known)
        if parsed is None:
            continue
        request = _request_of(parsed, row)
        first_where, first = requests.setdefault(request.id, (row.where, request))
        if first.model_copy(update={"category": request.category}) != request:
            raise DataError(
                f"{row.where}: expected unique ids, got {request.id!r} again for another request (first in "
                f"{first_where}); rename or remove one of the rows"
            )
        repeated += first is not request
    if len(kinds) > 1:
        names = " and ".join(sorted(kinds))
        formats = ", ".join(f"{key}_{kind}" for kind in (*sorted(kinds), "all"))
        raise DataError(f"{source}: holds {names} requests; expected the format of a subset: one of {formats}")
    unread.log()
    log_dropped(
        source, summary=f"{len(requests)} requests", dropped=Counter(repeated=repeated) if repeated else Counter()
    )
    if not requests:
        raise DataError(f"{source}: expected requests of format {key}, found none; check the labels")
    return ReadRequests([request for _, request in requests.values()][:limit], repeated)


def _request_of(parsed: dict[str, object], row: Row) -> Request:
    """Return the request of parsed fields; the default id is the hash of its text."""
    request = parse_record(Request, {"id": short_hash(str(parsed.get("text"))), **parsed}, where=row.where)
    if request.messages:
        check_turns(request.conversation, where=f"{row.where}: messages")
    return request


def _bare_row(row: Row) -> Row:
    """Return a row that is only a text, or only the turns of a conversation (CoSafe), with the name of its column."""
    if isinstance(row.value, str | list):
        return Row(row.where, {"question" if isinstance(row.value, str) else "messages": row.value})
    return row


def mmlu_rows(path: Path) -> Iterator[Row]:
    """Yield the test questions of MMLU's archive, in the order of their subjects.

    Raises:
        DataError: Not a zip file, no `…/test/*.csv` in it, or a line without exactly six columns.
    """
    columns = ("question", "a", "b", "c", "d", "answer")
    for name, raw in read_zip(path, pattern="test/*_test.csv"):
        subject = Path(name).stem.removesuffix("_test")
        records = csv_records(decode(raw, where=f"{path}:{name}"), where=f"{path}:{name}")
        for index, (where, cells) in enumerate(records):
            if len(cells) != len(columns):
                raise DataError(f"{where}: expected the columns {', '.join(columns)}, got {len(cells)}; fix the row")
            fields = dict(zip(columns, cells, strict=True))
            yield Row(where, {"subject": subject, "index": str(index), **fields})
