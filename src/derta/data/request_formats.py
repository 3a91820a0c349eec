"""Formats of request datasets: the columns that identify each, and the parser of a row.

The names of columns are in lower case: `derta.columns.lower_names`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple, cast

from derta.columns import REQUEST
from derta.data.conversations import instruction_of
from derta.data.fields import text_of, value_of
from derta.data.suite_rows import (
    BBQ,
    CONVERSATION,
    RED_TEAM,
    bbq_request,
    contextual_request,
    conversation_request,
    red_team_request,
)
from derta.errors import DataError, kind_of
from derta.sources import Row, fields_of

Parse = Callable[[Row], dict[str, object] | None]


class RequestFormat(NamedTuple):
    """Format of a request dataset: the required fields, the parser of a row, and optional fields that it reads.

    Other fields are named in a log message; with `optional` None, all are known, and none is named.

    The parser returns the fields of a `Request`, or None for a row to skip. The field `id` is absent if the ids of the
    file are not unique across files. `kind_of` returns the kind of a row's request, harmful or not: a file with several
    kinds is refused, because one rate of both means nothing.
    """

    fields: tuple[str | tuple[str, ...], ...]
    read: Parse
    optional: tuple[str, ...] | None = None
    kind_of: Callable[[Row], str | None] | None = None


def _id_of(row: Row, name: str) -> str:
    """Return a number or text as an id."""
    value = value_of(row, name)
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value).strip()
    raise DataError(f"{row.where}: {name}: expected text or an integer, got {str(value)[:40]!r}; fix the row")


def _optional_text(row: Row, name: str) -> str | None:
    """Return the text of a field, or None if it is missing, null or empty; a number becomes text."""
    value = fields_of(row).get(name)
    return (_id_of(row, name) if isinstance(value, int) else text_of(row, name)) or None if value is not None else None


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


_OWN = ("category", "answer", "harmful", "steps", "messages", "tools")


def _requests(row: Row) -> dict[str, object]:
    """Return the fields of a row in our format; the id may be an integer."""
    fields = fields_of(row)
    return {
        "id": _id_of(row, "id"),
        "text": value_of(row, "text"),
        **{name: fields[name] for name in _OWN if name in fields},
    }


def _harmbench(row: Row) -> dict[str, object]:
    r"""Parse a row; a contextual behaviour is formatted below its context.

    Source: HarmBench, baselines, `f"{context_str}\n\n---\n\n{behavior}"`.
    """
    context, behavior = text_of(row, "contextstring"), text_of(row, "behavior")
    text = f"{context}\n\n---\n\n{behavior}" if context else behavior
    return {"id": text_of(row, "behaviorid"), "text": text, "category": text_of(row, "semanticcategory") or None}


def _jailbreakbench(row: Row) -> dict[str, object]:
    """Parse a row; its harmful and benign behaviours share numbers and names, so the id is the hash of the text."""
    return {"text": text_of(row, "goal"), "category": text_of(row, "category") or None}


def _sorry_bench(row: Row) -> dict[str, object]:
    """Parse a row; the files of different prompt styles share their numbers."""
    turns = value_of(row, "turns")
    if not isinstance(turns, list) or len(cast("list[Any]", turns)) != 1:
        got = f"{len(cast('list[Any]', turns))} turns" if isinstance(turns, list) else kind_of(turns)
        raise DataError(f"{row.where}: turns: expected a list of one text, got {got}; a request has one turn")
    style = _optional_text(row, "prompt_style")
    name = f"sorry_bench-{_id_of(row, 'question_id')}"
    return {
        "id": name if style in {None, "base"} else f"{name}-{style}",
        "text": text_of(Row(f"{row.where}: turns[0]", {"text": turns[0]}), "text"),
        "category": _optional_text(row, "category"),
    }


def _sorry_bench_base(row: Row) -> dict[str, object] | None:
    """Parse a row in the base style; skip the same requests in other styles."""
    return _sorry_bench(row) if _optional_text(row, "prompt_style") in {None, "base"} else None


def _wildjailbreak(row: Row) -> dict[str, object]:
    """Parse a row: the adversarial request, or the vanilla one of a row without it."""
    return {
        "text": text_of(row, "adversarial") or text_of(row, "vanilla"),
        "category": _optional_text(row, "data_type"),
    }


def _wildguard(row: Row) -> dict[str, object]:
    return {"text": text_of(row, "prompt"), "category": _optional_text(row, "subcategory")}


def _numbered(prefix: str, *, text: str, category: str, number: str = "id") -> Parse:
    """Return a parser of rows with a number of their own, a request and a category."""

    def read(row: Row) -> dict[str, object]:
        name = f"{prefix}-{_id_of(row, number)}"
        return {"id": name, "text": text_of(row, text), "category": _optional_text(row, category)}

    return read


def _instruction(row: Row) -> dict[str, object]:
    """Parse a row of AlpacaEval or Alpaca; its output is the reference answer."""
    fields = fields_of(row)
    answer = text_of(row, "output") if "output" in fields else ""
    return {"text": instruction_of(row), "answer": answer or None, "category": fields.get("dataset")}


def _column(name: str) -> Parse:
    """Return a parser of the request in one column; a column `category` is read too."""

    def read(row: Row) -> dict[str, object]:
        return {"text": text_of(row, name), "category": _optional_text(row, "category")}

    return read


def _question(row: Row) -> dict[str, object]:
    """Parse a row of GSM8K; its answer is the text after the last `####`."""
    answer = text_of(row, "answer") if "answer" in fields_of(row) else ""
    return {"text": text_of(row, "question"), "answer": answer.rpartition("####")[2].strip() or None}


def _kind(column: str, kinds: Mapping[str, str]) -> Callable[[Row], str | None]:
    """Return a function that returns the kind of a row's request by its label; None for an empty label."""

    def kind_of(row: Row) -> str | None:
        label = text_of(row, column)
        if not label:
            return None
        if label not in kinds:
            raise DataError(
                f"{row.where}: {column}: expected {' or '.join(kinds)}, got {label!r:.40}; fix or remove the row"
            )
        return kinds[label]

    return kind_of


def _with_subsets(
    name: str, fields: tuple[str, ...], read: Parse, *, label: str, kinds: Mapping[str, str], optional: tuple[str, ...]
) -> dict[str, RequestFormat]:
    """Return the format of a dataset with harmful and harmless requests, one for each subset, and one of all rows."""
    kind_of = _kind(label, kinds)

    def only(kind: str) -> Parse:
        return lambda row: read(row) if kind_of(row) == kind else None

    def every(row: Row) -> dict[str, object] | None:
        kind_of(row)  # checks the label
        return read(row)

    return {
        name: RequestFormat(fields, read, optional, kind_of),
        **{f"{name}_{kind}": RequestFormat(fields, only(kind), optional) for kind in dict.fromkeys(kinds.values())},
        f"{name}_all": RequestFormat(fields, every, optional),
    }


_FORMAT_OF = {"instruction": "instructions", "question": "questions"}


def _column_format(name: str) -> RequestFormat:
    """Return the format of a file with the requests in one column."""
    if name == "instruction":
        return RequestFormat((name,), _instruction, ("input", "output", "dataset"))
    if name == "question":
        return RequestFormat((name,), _question, ("answer",))
    return RequestFormat((name,), _column(name), ("category",))


def _only_category(read: Parse, category: str) -> Parse:
    """Return a parser that skips the rows of other categories."""

    def read_category(row: Row) -> dict[str, object] | None:
        fields = read(row)
        return fields if fields is not None and fields["category"] == category else None

    return read_category


_PHTEST = _numbered("phtest", text="request", category="harmfulness")

# In the order in which `auto` tries them: a format whose fields are a subset of another's comes later.
REQUEST_FORMATS: dict[str, RequestFormat] = {
    "requests": RequestFormat(("id", "text"), _requests, _OWN),
    "harmbench": RequestFormat(
        ("behavior", "semanticcategory", "behaviorid", "contextstring"), _harmbench, ("functionalcategory", "tags")
    ),
    "jailbreakbench": RequestFormat(("index", "goal", "behavior", "category"), _jailbreakbench, ("target", "source")),
    "do_not_answer": RequestFormat(
        ("id", "risk_area", "question"),
        _numbered("do_not_answer", text="question", category="risk_area"),
        ("types_of_harm", "specific_harms"),
    ),
    **_with_subsets(
        "xstest",
        ("id", "prompt", "type", "label"),
        _numbered("xstest", text="prompt", category="type"),
        label="label",
        kinds={"safe": "safe", "unsafe": "unsafe"},
        optional=("focus", "note"),
    ),
    "simple_safety_tests": RequestFormat(
        ("id", "harm_area", "prompt"),
        _numbered("simple_safety_tests", text="prompt", category="harm_area"),
        ("counter", "category"),
    ),
    "coconot": RequestFormat(
        ("id", "category", "subcategory", "prompt"), _numbered("coconot", text="prompt", category="category"), ()
    ),
    "phtest": RequestFormat(("id", "request", "harmfulness"), _PHTEST, ()),
    **{
        f"phtest_{kind}": RequestFormat(("id", "request", "harmfulness"), _only_category(_PHTEST, kind), ())
        for kind in ("harmless", "controversial")
    },
    "sorry_bench": RequestFormat(("question_id", "turns"), _sorry_bench, ("category", "prompt_style")),
    "sorry_bench_base": RequestFormat(("question_id", "turns"), _sorry_bench_base, ("category", "prompt_style")),
    **_with_subsets(
        "wildjailbreak",
        ("vanilla", "adversarial", "data_type"),
        _wildjailbreak,
        label="data_type",
        kinds={f"{style}_{kind}": kind for kind in ("harmful", "benign") for style in ("vanilla", "adversarial")},
        optional=("completion",),
    ),
    **_with_subsets(
        "wildguard",
        ("prompt", "adversarial", "prompt_harm_label"),
        _wildguard,
        label="prompt_harm_label",
        kinds={"harmful": "harmful", "unharmful": "unharmful"},
        optional=("subcategory", "response", "response_refusal_label", "response_harm_label"),
    ),
    "mmlu": RequestFormat(("subject", "index", "question", "a", "b", "c", "d", "answer"), _mmlu, ()),
    "bbq": RequestFormat(
        BBQ,
        bbq_request,
        ("answer_info", "additional_metadata", "question_index", "target_label"),
    ),
    "anthropic_red_team": RequestFormat(("transcript",), red_team_request, RED_TEAM),
    "harmbench_contextual": RequestFormat(("prompt", "context", "category"), contextual_request, ()),
    **{_FORMAT_OF.get(name, name): _column_format(name) for name in REQUEST},
    "conversations": RequestFormat((CONVERSATION,), conversation_request, ("category",)),
}
