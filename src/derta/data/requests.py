"""Readers of requests: harmful ones, harmless ones that look harmful, and questions with a reference answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from derta.data.fields import pick_format, text_of, value_of
from derta.data.helpful import instruction_of
from derta.errors import DataError
from derta.files import decode, parse_record
from derta.records import Request, short_hash
from derta.sources import Row, csv_records, fields_of, read_rows, read_zip


class RequestFormat(NamedTuple):
    """A layout of requests: the fields each row must have, and the reader of a row.

    A reader returns the fields of a `Request`, without `id` where the file has none of use in other files, and None for
    a row that was not asked for.
    """

    fields: tuple[str, ...]
    read: Callable[[Row], dict[str, object] | None]


def load_requests(
    source: str | Path, *, split: str = "train", format: str = "auto", limit: int | None = None
) -> list[Request]:
    """Return the requests of a file, a `datasets` folder or a hub data set; MMLU's `.zip` and bare strings too.

    A request that has no id in its file is named by its text's hash, so that it keeps its name in every file.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "requests.jsonl")
    ...     _ = path.write_text('{"question": "How many are 2 + 2?", "answer": "Two and two. #### 4"}')
    ...     [(request.text, request.answer) for request in load_requests(path)]
    [('How many are 2 + 2?', '4')]

    Args:
        source: A `.json`, `.jsonl`, `.csv` or `.parquet` file, a folder that `datasets` can load, or a hub id.
        split: Of a folder or a hub data set.
        format: A key of `REQUEST_FORMATS`, or `auto` to go by the field names; for XSTest name the side of it.
        limit: The most requests that are returned, from the first on.

    Raises:
        DataError: unknown format, a missing, empty or malformed field, or two requests of one id.
    """
    zipped = Path(source).suffix.lower() == ".zip"
    rows = mmlu_rows(Path(source)) if zipped else map(_bare_question, read_rows(source, split=split))
    key, known, rows = pick_format(rows, REQUEST_FORMATS, name=format, source=source)
    if key == "xstest":
        raise DataError(f"{source}: XSTest holds safe and unsafe requests; set the format xstest_safe or xstest_unsafe")
    seen: dict[str, str] = {}
    requests: list[Request] = []
    for row in rows:
        found = known.read(row)
        if found is None:
            continue
        request = _named(found, row)
        if request.id in seen:
            raise DataError(
                f"{row.where}: expected ids that differ, got {request.id!r} of {seen[request.id]} again; "
                "remove one of the rows"
            )
        seen[request.id] = row.where
        requests.append(request)
    if not requests:
        raise DataError(f"{source}: expected requests of format {key}, found none; check the labels")
    return requests[:limit]


def _named(found: dict[str, object], row: Row) -> Request:
    """A request without an id is named by its text."""
    return parse_record(Request, {"id": short_hash(str(found.get("text"))), **found}, where=row.where)


def _bare_question(row: Row) -> Row:
    return Row(row.where, {"question": row.value}) if isinstance(row.value, str) else row


def mmlu_rows(path: Path) -> Iterator[Row]:
    """Yield the test questions of MMLU's archive, in the order of their subjects.

    Raises:
        DataError: no zip file, no `…/test/*.csv` in it, or a line that has not six columns.
    """
    columns = ("question", "a", "b", "c", "d", "answer")
    for name, raw in read_zip(path, pattern="test/*_test.csv"):
        subject = Path(name).stem.removesuffix("_test")
        records = csv_records(decode(raw, where=f"{path}:{name}"), where=f"{path}:{name}")
        for index, (where, cells) in enumerate(records):
            if len(cells) != len(columns):
                raise DataError(f"{where}: expected the columns {', '.join(columns)}, got {len(cells)}; mend the row")
            named = dict(zip(columns, cells, strict=True))
            yield Row(where, {"subject": subject, "index": str(index), **named})


@cache
def _mmlu_template() -> str:
    return (files("derta.data") / "texts" / "mmlu_question.txt").read_text(encoding="utf-8")


def _mmlu(row: Row) -> dict[str, object]:
    """The question as the paper puts it, blanks in the file included."""
    parts = {name: value_of(row, name) for name in ("question", "a", "b", "c", "d")}
    subject = text_of(row, "subject")
    return {
        "id": f"mmlu-{subject}-{text_of(row, 'index')}",
        "text": _mmlu_template().format(**parts),
        "category": subject,
        "answer": text_of(row, "answer"),
    }


def _own(row: Row) -> dict[str, object]:
    return dict(fields_of(row))


def _harmbench(row: Row) -> dict[str, object]:
    r"""A contextual behaviour is asked below its context.

    Source: HarmBench, baselines, `f"{context_str}\n\n---\n\n{behavior}"`.
    """
    context, behavior = text_of(row, "ContextString"), text_of(row, "Behavior")
    text = f"{context}\n\n---\n\n{behavior}" if context else behavior
    return {"id": text_of(row, "BehaviorID"), "text": text, "category": text_of(row, "SemanticCategory") or None}


def _jailbreakbench(row: Row) -> dict[str, object]:
    """Its harmful and its benign behaviours share numbers and names, so that they are named by their text."""
    return {"text": text_of(row, "Goal"), "category": text_of(row, "Category") or None}


def _do_not_answer(row: Row) -> dict[str, object]:
    name, category = f"do_not_answer-{value_of(row, 'id')}", text_of(row, "risk_area") or None
    return {"id": name, "text": text_of(row, "question"), "category": category}


def _xstest(*labels: str) -> Callable[[Row], dict[str, object] | None]:
    def read(row: Row) -> dict[str, object] | None:
        label = text_of(row, "label")
        if label not in {"safe", "unsafe"}:
            raise DataError(f"{row.where}: label: expected safe or unsafe, got {label!r}; mend or remove the row")
        if label not in labels:
            return None
        name, category = f"xstest-{value_of(row, 'id')}", text_of(row, "type") or None
        return {"id": name, "text": text_of(row, "prompt"), "category": category}

    return read


def _instruction(row: Row) -> dict[str, object]:
    """AlpacaEval's answers, and Alpaca's, are references."""
    fields = fields_of(row)
    answer = text_of(row, "output") if "output" in fields else ""
    return {"text": instruction_of(row), "answer": answer or None, "category": fields.get("dataset")}


def _question(row: Row) -> dict[str, object]:
    """GSM8K's answer is what stands after its last `####`."""
    answer = text_of(row, "answer") if "answer" in fields_of(row) else ""
    return {"text": text_of(row, "question"), "answer": answer.rpartition("####")[2].strip() or None}


_XSTEST_FIELDS = ("id", "prompt", "type", "label")

# In the order in which `auto` tries them: whose fields are a part of another's come later.
REQUEST_FORMATS: dict[str, RequestFormat] = {
    "requests": RequestFormat(("id", "text"), _own),
    "harmbench": RequestFormat(("Behavior", "SemanticCategory", "BehaviorID", "ContextString"), _harmbench),
    "jailbreakbench": RequestFormat(("Index", "Goal", "Behavior", "Category"), _jailbreakbench),
    "do_not_answer": RequestFormat(("id", "risk_area", "question"), _do_not_answer),
    "xstest": RequestFormat(_XSTEST_FIELDS, _xstest()),
    "xstest_safe": RequestFormat(_XSTEST_FIELDS, _xstest("safe")),
    "xstest_unsafe": RequestFormat(_XSTEST_FIELDS, _xstest("unsafe")),
    "xstest_all": RequestFormat(_XSTEST_FIELDS, _xstest("safe", "unsafe")),
    "mmlu": RequestFormat(("subject", "index", "question", "a", "b", "c", "d", "answer"), _mmlu),
    "instructions": RequestFormat(("instruction",), _instruction),
    "questions": RequestFormat(("question",), _question),
}
