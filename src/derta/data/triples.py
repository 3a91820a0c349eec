"""Loading of safety datasets: triples, preferences, and responses labelled safe or unsafe, which are paired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from derta.columns import lower_names
from derta.data.detection import parse_rows, pick_format
from derta.data.fields import RefusedRows, log_dropped
from derta.data.triple_formats import TRIPLE_FORMATS, UNCERTAIN, JudgedResponse, further_responses
from derta.errors import DataError
from derta.records import Triple
from derta.sources import read_rows, source_name


class ReadTriples(NamedTuple):
    """Output of `read_triples`: the triples of a dataset, and counts of the dropped data by reason.

    `first_fault` names the first row that the chat template refused, with the template's message; empty without one.
    """

    triples: list[Triple]
    dropped: Counter[str]
    first_fault: str = ""


def load_triples(
    source: str | Path,
    *,
    split: str = "train",
    format: str = "auto",
    limit: int | None = None,
    config: str | None = None,
    columns: Mapping[str, str] | None = None,
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
        source: A file, a folder or a Hub id, see `derta.sources.read_rows`.
        split: Split of a folder or a Hub dataset.
        format: Key of `TRIPLE_FORMATS`, or `auto` to detect the format from the field names.
        limit: Maximum number of triples; None returns all.
        config: Configuration of a folder or a Hub dataset that has several.
        columns: Names of columns in the source, by the names that the format has: `{"query": "question"}`.
        max_pairs_per_request: Maximum number of pairs of a query, 1 in the paper; ignored if rows are triples.

    Raises:
        DataError: See `read_triples`.
    """
    read = read_triples(
        source,
        split=split,
        format=format,
        limit=limit,
        config=config,
        columns=columns,
        max_pairs_per_request=max_pairs_per_request,
    )
    log_dropped(source, summary=f"{len(read.triples)} triples", dropped=read.dropped)
    return read.triples


def read_triples(
    source: str | Path,
    *,
    split: str = "train",
    format: str = "auto",
    limit: int | None = None,
    config: str | None = None,
    columns: Mapping[str, str] | None = None,
    max_pairs_per_request: int = 1,
    fault_of: Callable[[Triple], str | None] | None = None,
) -> ReadTriples:
    """Load the triples of a dataset, with counts of the dropped data; for the arguments see `load_triples`.

    Rows that are triples are returned unchanged, and an empty field in one is an error. Preferences and labelled
    responses that are empty are dropped and counted, and labelled responses are paired. A triple for which `fault_of`
    returns a message, such as that the chat template refuses its context, is dropped and counted; the first is named
    in the log.

    Raises:
        DataError: Unknown format, a missing or invalid field, or no triple in the dataset.
    """
    if max_pairs_per_request < 1:
        raise DataError(f"max_pairs_per_request: expected at least 1, got {max_pairs_per_request}; 1 is the paper's")
    rows = map(lower_names, read_rows(source, split=split, config=config, columns=columns))
    _, layout, rows = pick_format(
        rows, TRIPLE_FORMATS, name=format, source=source, columns=columns or (), uncertain=UNCERTAIN
    )
    dropped, refused, name = Counter[str](), RefusedRows(fault_of), source_name(source)
    parsed = parse_rows(rows, layout.read, format=layout, source=source, dropped=dropped)
    triples: list[Triple] = []
    responses: list[JudgedResponse] = []
    for row, value in parsed:
        if isinstance(value, Triple):
            dropped["further_responses"] += further_responses(row)
            if not refused.has(value, where=row.where):
                triples.append(value if layout.has_source else value.model_copy(update={"source": name}))
        else:
            responses += value
    paired = pair_responses(responses, max_pairs_per_request=max_pairs_per_request, source=name)
    refused.log()
    triples += paired.triples
    dropped = +dropped + paired.dropped + refused.dropped
    if not triples:
        raise DataError(
            f"{source}: expected triples, or queries with a safe and a harmful response, found none ({dict(dropped)}); "
            f"{refused.first_fault or 'check the labels'}"
        )
    return ReadTriples(triples[:limit], dropped, refused.first_fault)


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
