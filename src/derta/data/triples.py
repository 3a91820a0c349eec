"""Loading of safety datasets: triples, and responses labelled safe or unsafe, which are paired into triples."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from derta.columns import REQUEST
from derta.data.context import CONTEXT_FIELDS, context_of
from derta.data.fields import RefusedRows, flag_of, log_dropped, pick_format, text_of, value_of
from derta.errors import DataError
from derta.files import parse_record
from derta.records import Triple
from derta.sources import Row, fields_of, read_rows, source_name


class ReadTriples(NamedTuple):
    """Output of `read_triples`: the triples of a dataset, and counts of the dropped data by reason.

    `first_fault` names the first row that the chat template refused, with the template's message; empty without one.
    """

    triples: list[Triple]
    dropped: Counter[str]
    first_fault: str = ""


class JudgedResponse(NamedTuple):
    """Response to a query with its safety label in the dataset."""

    query: str
    response: str
    safe: bool
    category: str | None = None


class TripleFormat(NamedTuple):
    """Format of a safety dataset: the required fields, and the parser of a row.

    The parser `judged` returns the labelled responses of a row, to be paired; None if rows are triples.
    """

    fields: tuple[str, ...]
    judged: Callable[[Row], Iterator[JudgedResponse]] | None


def load_triples(
    source: str | Path,
    *,
    split: str = "train",
    format: str = "auto",
    limit: int | None = None,
    max_pairs_per_request: int = 1,
) -> list[Triple]:
    r"""Load the triples of a file, a `datasets` folder or a Hub dataset; dropped rows are logged.

    >>> from tempfile import TemporaryDirectory
    >>> rows = '{"prompt": "Bread?", "response": "Sorry, no.", "is_safe": true}\n'
    >>> rows += '{"prompt": "Bread?", "response": "Take flour.", "is_safe": false}\n'
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "judged.jsonl")
    ...     _ = path.write_text(rows)
    ...     [triple.model_dump(exclude_none=True) for triple in load_triples(path)]
    [{'query': 'Bread?', 'safe': 'Sorry, no.', 'harmful': 'Take flour.', 'source': 'judged'}]

    Args:
        source: A `.json`, `.jsonl`, `.csv` or `.parquet` file, a folder that `datasets` can load, or a Hub id.
        split: Split of a folder or a Hub dataset.
        format: Key of `TRIPLE_FORMATS`, or `auto` to detect the format from the field names.
        limit: Maximum number of triples; None returns all.
        max_pairs_per_request: Maximum number of pairs of a query, 1 in the paper; ignored if rows are triples.

    Raises:
        DataError: See `read_triples`.
    """
    read = read_triples(source, split=split, format=format, limit=limit, max_pairs_per_request=max_pairs_per_request)
    log_dropped(source, summary=f"{len(read.triples)} triples", dropped=read.dropped)
    return read.triples


def read_triples(
    source: str | Path,
    *,
    split: str = "train",
    format: str = "auto",
    limit: int | None = None,
    max_pairs_per_request: int = 1,
    fault_of: Callable[[Triple], str | None] | None = None,
) -> ReadTriples:
    """Load the triples of a dataset, with counts of the dropped data; for the arguments see `load_triples`.

    Rows that are triples are returned unchanged, and an empty field in one is an error. Of labelled responses, empty
    ones are dropped and counted, and the others are paired. A triple for which `fault_of` returns a message, such as
    that the chat template refuses its context, is dropped and counted; the first is named in the log.

    Raises:
        DataError: Unknown format, a missing or invalid field, or no triple in the dataset.
    """
    if max_pairs_per_request < 1:
        raise DataError(f"max_pairs_per_request: expected at least 1, got {max_pairs_per_request}; 1 is the paper's")
    rows = read_rows(source, split=split)
    _, layout, rows = pick_format(rows, TRIPLE_FORMATS, name=format, source=source)
    if layout.judged is None:
        return _accepted(rows, fault_of=fault_of, source=source, limit=limit)
    responses = (response for row in rows for response in layout.judged(row))
    read = pair_responses(responses, max_pairs_per_request=max_pairs_per_request, source=source_name(source))
    if not read.triples:
        raise DataError(
            f"{source}: expected queries with a safe and a harmful response, found none ({dict(read.dropped)}); "
            "check the labels"
        )
    return read._replace(triples=read.triples[:limit])


def pair_responses(
    responses: Iterable[JudgedResponse], *, max_pairs_per_request: int, source: str | None = None
) -> ReadTriples:
    """Pair the i-th harmful response to a query with its i-th safe response, cycling through the safe ones.

    >>> rows = [("q", "no", True), ("q", "step 1", False), ("q", "step 2", False), ("alone", "step 3", False)]
    >>> read = pair_responses([JudgedResponse(*row) for row in rows], max_pairs_per_request=2)
    >>> [(triple.safe, triple.harmful) for triple in read.triples], dict(read.dropped)
    ([('no', 'step 1'), ('no', 'step 2')], {'query_without_safe': 1})

    Dropped data is counted in responses (`empty_query`, `empty_response`, `repeated_response`, `beyond_max_pairs`) and
    in queries (`query_without_safe`, `query_without_harmful`).
    """
    dropped: Counter[str] = Counter()
    sides: dict[str, tuple[dict[str, None], dict[str, str | None]]] = {}
    for response in responses:
        if not response.query or not response.response:
            dropped["empty_response" if response.query else "empty_query"] += 1
            continue
        safe, harmful = sides.setdefault(response.query, ({}, {}))
        dropped["repeated_response"] += response.response in (safe if response.safe else harmful)
        if response.safe:
            safe[response.response] = None
        else:
            harmful.setdefault(response.response, response.category)
    triples: list[Triple] = []
    for query, (safe, harmful) in sides.items():
        if not safe or not harmful:
            dropped["query_without_safe" if harmful else "query_without_harmful"] += 1
            continue
        replies = list(safe)
        for i, (text, category) in enumerate(list(harmful.items())[:max_pairs_per_request]):
            paired = replies[i % len(replies)]
            triples.append(Triple(query=query, safe=paired, harmful=text, category=category, source=source))
        dropped["beyond_max_pairs"] += max(0, len(harmful) - max_pairs_per_request)
    return ReadTriples(triples, +dropped)


def _accepted(
    rows: Iterable[Row], *, fault_of: Callable[[Triple], str | None] | None, source: object, limit: int | None
) -> ReadTriples:
    """Parse rows that are triples, without those that `fault_of` has a message on."""
    refused = RefusedRows(fault_of)
    parsed = [(_triple(row), row.where) for row in rows]
    triples = [triple for triple, where in parsed if not refused.has(triple, where=where)]
    refused.log()
    if not triples:
        raise DataError(f"{source}: expected triples, found none; {refused.first_fault}")
    return ReadTriples(triples[:limit], refused.dropped, refused.first_fault)


def _triple(row: Row) -> Triple:
    """Parse a row as a triple; of a list of responses the first is used, as in slices of PKU-SafeRLHF."""
    fields = {key: value for key, value in fields_of(row).items() if key not in CONTEXT_FIELDS}
    first = {
        key: cast("list[Any]", value)[0] if isinstance(value, list) and value else value
        for key, value in fields.items()
    }
    if "query" not in first:
        name = next(name for name in REQUEST if name in first)
        first["query"] = first.pop(name)
    filled = {key: value for key, value in first.items() if value is not None}
    return parse_record(Triple, filled | context_of(row), where=row.where)


def _pku_saferlhf(row: Row) -> Iterator[JudgedResponse]:
    """Parse a row with two responses."""
    fields = fields_of(row)
    for side in ("response_0", "response_1"):
        category = _category(fields.get(f"{side}_harm_category"), where=row.where)
        safe = flag_of(row, f"is_{side}_safe")
        yield JudgedResponse(text_of(row, "prompt"), text_of(row, side), safe, category)


def _beavertails(row: Row) -> Iterator[JudgedResponse]:
    """Parse a row with one response."""
    category = _category(fields_of(row).get("category"), where=row.where)
    yield JudgedResponse(text_of(row, "prompt"), text_of(row, "response"), flag_of(row, "is_safe"), category)


def _aisafetylab(row: Row) -> Iterator[JudgedResponse]:
    """Parse a row with label 1 (refusal) or 2 (harmful); helpful answers (0) are loaded as helpful data."""
    label = str(value_of(row, "label"))
    if label not in {"0", "1", "2"}:
        raise DataError(f"{row.where}: label: expected 0 (helpful), 1 (refusal) or 2 (harmful), got {label!r}")
    if label != "0":
        yield JudgedResponse(text_of(row, "input"), text_of(row, "output"), label == "1")


def _category(value: object, *, where: str) -> str | None:
    """Parse the first true category of a mapping from category to boolean (a string of one in CSV files)."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError) as error:
            raise DataError(f"{where}: category: expected a mapping to True or False, got {value[:40]!r}") from error
    if isinstance(value, dict):
        return next((str(key) for key, holds in cast("dict[Any, Any]", value).items() if holds), None)
    return str(value) if value else None


TRIPLE_FORMATS: dict[str, TripleFormat] = {
    "triples": TripleFormat(("query", "safe", "harmful"), None),
    **{f"triples_{name}": TripleFormat((name, "safe", "harmful"), None) for name in REQUEST if name != "query"},
    "pku_saferlhf": TripleFormat(
        ("prompt", "response_0", "response_1", "is_response_0_safe", "is_response_1_safe"), _pku_saferlhf
    ),
    "beavertails": TripleFormat(("prompt", "response", "is_safe"), _beavertails),
    "aisafetylab": TripleFormat(("input", "output", "label"), _aisafetylab),
}
