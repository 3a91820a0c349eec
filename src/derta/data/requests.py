"""Loading of request datasets: harmful and over-refusal requests, and questions with a reference answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from derta.columns import REQUEST, UnreadColumns
from derta.data.fields import pick_format, text_of, value_of
from derta.data.helpful import instruction_of
from derta.errors import DataError
from derta.files import decode, parse_record
from derta.records import Request, short_hash
from derta.sources import Row, csv_records, fields_of, read_rows, read_zip


class RequestFormat(NamedTuple):
    """Format of a request dataset: the required fields, the parser of a row, and optional fields that it reads.

    Other fields are named in a log message; None: all are known, and none is named.

    The parser returns the fields of a `Request`, or None for a row to skip. The field `id` is absent if the ids of the
    file are not unique across files.
    """

    fields: tuple[str, ...]
    read: Callable[[Row], dict[str, object] | None]
    optional: tuple[str, ...] | None = None


def load_requests(
    source: str | Path, *, split: str = "train", format: str = "auto", limit: int | None = None
) -> list[Request]:
    """Load the requests of a file (also MMLU's `.zip` and lists of strings), a `datasets` folder or a Hub dataset.

    The id of a request without one in its file is the hash of its text, so it is the same in every file.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "requests.jsonl")
    ...     _ = path.write_text('{"question": "How many are 2 + 2?", "answer": "Two and two. #### 4"}')
    ...     [(request.text, request.answer) for request in load_requests(path)]
    [('How many are 2 + 2?', '4')]

    Args:
        source: A `.json`, `.jsonl`, `.csv` or `.parquet` file, a folder that `datasets` can load, or a Hub id.
        split: Split of a folder or a Hub dataset.
        format: Key of `REQUEST_FORMATS`, or `auto` to detect the format from the field names; for XSTest the subset
            must be set (`xstest_safe`, `xstest_unsafe` or `xstest_all`).
        limit: Maximum number of requests, counted from the first; None returns all.

    Raises:
        DataError: Unknown format, a missing, empty or invalid field, or two requests with the same id.
    """
    zipped = Path(source).suffix.lower() == ".zip"
    rows = mmlu_rows(Path(source)) if zipped else map(_bare_question, read_rows(source, split=split))
    key, layout, rows = pick_format(rows, REQUEST_FORMATS, name=format, source=source)
    if key == "xstest":
        raise DataError(f"{source}: XSTest holds safe and unsafe requests; set the format xstest_safe or xstest_unsafe")
    seen: dict[str, str] = {}
    requests: list[Request] = []
    unread = UnreadColumns(source)
    for row in rows:
        parsed = layout.read(row)
        if layout.optional is not None:
            unread.add(fields_of(row), (*layout.fields, *layout.optional))
        if parsed is None:
            continue
        request = _request_of(parsed, row)
        if request.id in seen:
            raise DataError(
                f"{row.where}: expected unique ids, got {request.id!r} again (first in {seen[request.id]}); "
                "remove one of the rows"
            )
        seen[request.id] = row.where
        requests.append(request)
    unread.log()
    if not requests:
        raise DataError(f"{source}: expected requests of format {key}, found none; check the labels")
    return requests[:limit]


def _request_of(parsed: dict[str, object], row: Row) -> Request:
    """Return the request of parsed fields; the default id is the hash of its text."""
    return parse_record(Request, {"id": short_hash(str(parsed.get("text"))), **parsed}, where=row.where)


def _bare_question(row: Row) -> Row:
    return Row(row.where, {"question": row.value}) if isinstance(row.value, str) else row


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


@cache
def _mmlu_template() -> str:
    """Load the prompt template of an MMLU question (cached)."""
    return (files("derta.data") / "texts" / "mmlu_question.txt").read_text(encoding="utf-8")


def _mmlu(row: Row) -> dict[str, object]:
    """Format the question with the paper's template; blanks in the file are preserved."""
    parts = {name: value_of(row, name) for name in ("question", "a", "b", "c", "d")}
    subject = text_of(row, "subject")
    return {
        "id": f"mmlu-{subject}-{text_of(row, 'index')}",
        "text": _mmlu_template().format(**parts),
        "category": subject,
        "answer": text_of(row, "answer"),
    }


def _requests(row: Row) -> dict[str, object]:
    """Return the fields of a row in our format."""
    return dict(fields_of(row))


def _harmbench(row: Row) -> dict[str, object]:
    r"""Parse a row; a contextual behaviour is formatted below its context.

    Source: HarmBench, baselines, `f"{context_str}\n\n---\n\n{behavior}"`.
    """
    context, behavior = text_of(row, "ContextString"), text_of(row, "Behavior")
    text = f"{context}\n\n---\n\n{behavior}" if context else behavior
    return {"id": text_of(row, "BehaviorID"), "text": text, "category": text_of(row, "SemanticCategory") or None}


def _jailbreakbench(row: Row) -> dict[str, object]:
    """Parse a row; its harmful and benign behaviours share numbers and names, so the id is the hash of the text."""
    return {"text": text_of(row, "Goal"), "category": text_of(row, "Category") or None}


def _do_not_answer(row: Row) -> dict[str, object]:
    name, category = f"do_not_answer-{value_of(row, 'id')}", text_of(row, "risk_area") or None
    return {"id": name, "text": text_of(row, "question"), "category": category}


def _xstest(*labels: str) -> Callable[[Row], dict[str, object] | None]:
    """Return a parser that skips the rows with other labels."""

    def read(row: Row) -> dict[str, object] | None:
        label = text_of(row, "label")
        if label not in {"safe", "unsafe"}:
            raise DataError(f"{row.where}: label: expected safe or unsafe, got {label!r}; fix or remove the row")
        if label not in labels:
            return None
        name, category = f"xstest-{value_of(row, 'id')}", text_of(row, "type") or None
        return {"id": name, "text": text_of(row, "prompt"), "category": category}

    return read


def _instruction(row: Row) -> dict[str, object]:
    """Parse a row of AlpacaEval or Alpaca; its output is the reference answer."""
    fields = fields_of(row)
    answer = text_of(row, "output") if "output" in fields else ""
    return {"text": instruction_of(row), "answer": answer or None, "category": fields.get("dataset")}


def _column(name: str) -> Callable[[Row], dict[str, object]]:
    """Return a parser of the request in one column; a column `category` is read too."""

    def read(row: Row) -> dict[str, object]:
        return {"text": text_of(row, name), "category": fields_of(row).get("category")}

    return read


def _question(row: Row) -> dict[str, object]:
    """Parse a row of GSM8K; its answer is the text after the last `####`."""
    answer = text_of(row, "answer") if "answer" in fields_of(row) else ""
    return {"text": text_of(row, "question"), "answer": answer.rpartition("####")[2].strip() or None}


_FORMAT_OF = {"instruction": "instructions", "question": "questions"}


def _column_format(name: str) -> RequestFormat:
    """Return the format of a file with the requests in one column."""
    if name == "instruction":
        return RequestFormat((name,), _instruction, ("input", "output", "dataset"))
    if name == "question":
        return RequestFormat((name,), _question, ("answer",))
    return RequestFormat((name,), _column(name), ("category",))


_XSTEST_FIELDS = ("id", "prompt", "type", "label")

# In the order in which `auto` tries them: a format whose fields are a subset of another's comes later.
REQUEST_FORMATS: dict[str, RequestFormat] = {
    "requests": RequestFormat(("id", "text"), _requests),
    "harmbench": RequestFormat(("Behavior", "SemanticCategory", "BehaviorID", "ContextString"), _harmbench),
    "jailbreakbench": RequestFormat(("Index", "Goal", "Behavior", "Category"), _jailbreakbench),
    "do_not_answer": RequestFormat(("id", "risk_area", "question"), _do_not_answer),
    "xstest": RequestFormat(_XSTEST_FIELDS, _xstest()),
    "xstest_safe": RequestFormat(_XSTEST_FIELDS, _xstest("safe")),
    "xstest_unsafe": RequestFormat(_XSTEST_FIELDS, _xstest("unsafe")),
    "xstest_all": RequestFormat(_XSTEST_FIELDS, _xstest("safe", "unsafe")),
    "mmlu": RequestFormat(("subject", "index", "question", "a", "b", "c", "d", "answer"), _mmlu),
    **{_FORMAT_OF.get(name, name): _column_format(name) for name in REQUEST},
}
