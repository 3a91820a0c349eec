"""Formats of safety datasets: the columns that identify each, and the parser of a row.

The names of columns are in lower case: `derta.columns.lower_names`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from derta.columns import REQUEST
from derta.data.context import CONTEXT_FIELDS, context_of
from derta.data.conversations import instruction_of, is_transcript, parse_cell
from derta.data.fields import (
    WILDGUARD_HARM,
    WILDGUARD_REFUSAL,
    DroppedRowError,
    flag_of,
    label_of,
    name_of,
    text_of,
    value_of,
)
from derta.data.pair_formats import PAIR_OPTIONAL, PKU_FIELDS, PROMPT, pair_of
from derta.errors import DataError
from derta.files import parse_record
from derta.records import Triple
from derta.sources import Row, fields_of

SAFE = ("safe", "safe_response")
HARMFUL = ("harmful", "harmful_response", "unsafe_response")
_COLUMNS = {"query": REQUEST, "safe": SAFE, "harmful": HARMFUL, "category": ("category",), "source": ("source",)}


class JudgedResponse(NamedTuple):
    """Response to a query with its safety label in the dataset."""

    query: str
    response: str
    safe: bool
    category: str | None = None


class TripleFormat(NamedTuple):
    """Format of a safety dataset: the required fields, the parser of a row, and the other fields that it reads.

    The parser returns a triple, or labelled responses, which are paired. With `has_source`, the rows name their source.
    """

    fields: tuple[str | tuple[str, ...], ...]
    read: Callable[[Row], Triple | list[JudgedResponse]]
    optional: tuple[str, ...] = ()
    has_source: bool = False


def _triple(row: Row) -> Triple:
    """Parse a row as a triple; of a list of responses the first is used, as in slices of PKU-SafeRLHF."""
    fields = fields_of(row)
    names = {ours: name_of(row, some) for ours, some in _COLUMNS.items() if any(name in fields for name in some)}
    values = {ours: _first(fields[name]) for ours, name in names.items()}
    if names["query"] == "instruction":
        values["query"] = instruction_of(row)
    values |= {name: str(values[name]) for name in ("category", "source") if isinstance(values.get(name), int)}
    filled = {name: value for name, value in values.items() if value is not None}
    return parse_record(Triple, filled | context_of(row), where=row.where)


def _first(value: object) -> object:
    return cast("list[Any]", value)[0] if isinstance(value, list) and value else value


def further_responses(row: Row) -> int:
    """Return the number of responses in a row's lists after the first, which are not used."""
    values = (fields_of(row).get(name) for name in (*SAFE, *HARMFUL))
    return sum(len(cast("list[Any]", value)) - 1 for value in values if isinstance(value, list) and value)


def _preference(row: Row) -> Triple:
    """Parse a pair as a triple: the chosen response is the safe one, the rejected one the harmful."""
    pair = pair_of(row)
    fields = {"query": pair.query, "safe": pair.chosen, "harmful": pair.rejected}
    context = {"messages": pair.messages, "tools": pair.tools}
    category = _category(fields_of(row).get("category"), where=row.where)
    return parse_record(Triple, {**fields, **context, "category": category}, where=row.where)


def _certain_preference(row: Row) -> Triple:
    """Parse a pair without a column of the prompt, but no transcript: in HH, rejected responses may be harmless."""
    chosen = value_of(row, "chosen")
    if isinstance(chosen, str) and is_transcript(chosen):
        raise DataError(
            f"{row.where}: chosen: expected turns with a safe response, got a transcript, whose rejected response "
            "may be harmless; set `format: hh` if the rejected ones are harmful"
        )
    return _preference(row)


def _pku_saferlhf(row: Row) -> list[JudgedResponse]:
    """Parse a row with two responses."""
    fields = fields_of(row)
    return [
        JudgedResponse(
            text_of(row, "prompt"),
            text_of(row, side),
            flag_of(row, f"is_{side}_safe"),
            _category(fields.get(f"{side}_harm_category"), where=row.where),
        )
        for side in ("response_0", "response_1")
    ]


def _beavertails(row: Row) -> list[JudgedResponse]:
    """Parse a row with one response."""
    category = _category(fields_of(row).get("category"), where=row.where)
    return [JudgedResponse(text_of(row, "prompt"), text_of(row, "response"), flag_of(row, "is_safe"), category)]


def _aisafetylab(row: Row) -> list[JudgedResponse]:
    """Parse a row with label 1 (refusal) or 2 (harmful); helpful answers (0) are loaded as helpful data."""
    label = str(value_of(row, "label"))
    if label not in {"0", "1", "2"}:
        raise DataError(f"{row.where}: label: expected 0 (helpful), 1 (refusal) or 2 (harmful), got {label!r}")
    if label == "0":
        raise DroppedRowError("helpful_answer")
    return [JudgedResponse(text_of(row, "input"), text_of(row, "output"), label == "1")]


def _wildguard(row: Row) -> list[JudgedResponse]:
    """Parse a row with a harmful response or a refusal; others, and prompts alone, are dropped."""
    response = text_of(row, "response")
    if not response:
        raise DroppedRowError("no_response")
    harmful = label_of(row, "response_harm_label", WILDGUARD_HARM)
    refusal = label_of(row, "response_refusal_label", WILDGUARD_REFUSAL)
    if harmful is None or refusal is None:
        raise DroppedRowError("unlabelled")
    if not harmful and not refusal:
        raise DroppedRowError("harmless_answer")
    category = text_of(row, "subcategory") if "subcategory" in fields_of(row) else ""
    return [JudgedResponse(text_of(row, "prompt"), response, not harmful, category or None)]


def _category(value: object, *, where: str) -> str | None:
    """Parse the first true category of a mapping from category to boolean (a string of one in CSV files)."""
    if isinstance(value, str) and value.startswith("{"):
        parsed = parse_cell(value)
        if isinstance(parsed, str):
            raise DataError(f"{where}: category: expected a mapping to True or False, got {value[:40]!r}")
        value = parsed
    if isinstance(value, dict):
        return next((str(key) for key, holds in cast("dict[Any, Any]", value).items() if holds), None)
    return str(value) if value else None


# In the order in which `auto` tries them: a format whose fields are a subset of another's comes later.
TRIPLE_FORMATS: dict[str, TripleFormat] = {
    "triples": TripleFormat(
        (REQUEST, SAFE, HARMFUL), _triple, (*CONTEXT_FIELDS, "category", "source"), has_source=True
    ),
    "pku_saferlhf": TripleFormat(
        PKU_FIELDS, _pku_saferlhf, tuple(f"response_{number}_harm_category" for number in (0, 1))
    ),
    "beavertails": TripleFormat(("prompt", "response", "is_safe"), _beavertails, ("category",)),
    "wildguard": TripleFormat(
        ("prompt", "response", "response_refusal_label", "response_harm_label"), _wildguard, ("subcategory",)
    ),
    "aisafetylab": TripleFormat(("input", "output", "label"), _aisafetylab),
    "preference": TripleFormat((PROMPT, "chosen", "rejected"), _preference, (*PAIR_OPTIONAL, "category")),
    "implicit_preference": TripleFormat(("chosen", "rejected"), _certain_preference, (*PAIR_OPTIONAL, "category")),
    "hh": TripleFormat(("chosen", "rejected"), _preference, PAIR_OPTIONAL),
}

UNCERTAIN: Mapping[str, Sequence[str]] = dict.fromkeys(
    ("preference", "implicit_preference"), ("score_chosen", "score_rejected", "chosen_model", "rejected_model")
)
"""Columns of preferences between harmless responses (UltraFeedback, CoCoNot), which are no triples."""
