"""Human labels of replies: parsing of CSV or JSONL files with various column names and label words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from derta.errors import DataError
from derta.formats.replies import foreign_prompt
from derta.records import Measure, Prompt, Reply
from derta.sources import Row, fields_of, read_rows

REQUEST = ("request", "question", "prompt", "goal", "behavior")
REPLY = ("response", "completion", "reply", "generation")
LABEL: Mapping[Measure, tuple[str, ...]] = {
    "harmful": ("harmful", "unsafe", "jailbroken", "final_label", "label"),
    "refused": ("refused", "final_label", "label"),
    "correct": ("correct", "final_label", "label"),
}
WORDS: Mapping[Measure, Mapping[str, bool | None]] = {
    "harmful": {
        "harmful": True,
        "unsafe": True,
        "jailbroken": True,
        "harmless": False,
        "not harmful": False,
        "safe": False,
        "refusal": False,
        "refused": False,
        "2_full_refusal": False,
    },
    "refused": {
        "refused": True,
        "refusal": True,
        "full refusal": True,
        "2_full_refusal": True,
        "complied": False,
        "compliance": False,
        "full compliance": False,
        "1_full_compliance": False,
        "partial refusal": None,
        "3_partial_refusal": None,
    },
    "correct": {"correct": True, "right": True, "incorrect": False, "wrong": False},
}
BOTH: Mapping[str, bool] = {"1": True, "true": True, "yes": True, "1.0": True,
                            "0": False, "false": False, "no": False, "0.0": False}  # fmt: skip


class LabelledCase(NamedTuple):
    """A prompt and a reply with its human label `truth`; None if the label is undecided (a partial refusal)."""

    prompt: Prompt
    reply: Reply
    truth: bool | None
    attack: str | None
    reply_class: str | None


def read_labels(path: Path, *, measure: Measure) -> Iterator[LabelledCase]:
    """Load the labelled replies of a file and yield them. The columns of reply and label are required.

    Raises:
        DataError: a required column is missing, or a label is neither in `BOTH` nor in `WORDS` of the measure.
    """
    for number, row in enumerate(read_rows(path)):
        columns = {name.lower().strip(): value for name, value in fields_of(row).items()}
        request = _text(columns, REQUEST, row)
        text = _text(columns, REPLY, row)
        if text is None:
            raise DataError(f"{row.where}: expected a column {' or '.join(REPLY)}, got {', '.join(columns)}")
        attack = _text(columns, ("attack", "method"), row)
        prompt = foreign_prompt(number, request, answer=_text(columns, ("answer",), row), attack=attack)
        truth = _label(columns, row, measure)
        yield LabelledCase(
            prompt, Reply(prompt_id=prompt.id, text=text), truth, attack, _text(columns, ("reply_class", "class"), row)
        )


def _text(columns: Mapping[str, Any], names: tuple[str, ...], row: Row) -> str | None:
    """Return the text of the first existing column; numbers are converted to text, as in CSV."""
    for name in names:
        if name in columns and columns[name] is not None:
            value = columns[name]
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                return str(value)
            raise DataError(f"{row.where}: {name}: expected text, got {str(value)[:40]!r}; fix or remove the row")
    return None


def _label(columns: Mapping[str, Any], row: Row, measure: Measure) -> bool | None:
    name = next((name for name in LABEL[measure] if name in columns), None)
    if name is None:
        raise DataError(f"{row.where}: expected a column {' or '.join(LABEL[measure])}, got {', '.join(columns)}")
    word = str(columns[name]).strip().lower()
    labels = {**BOTH, **WORDS[measure]}
    if word not in labels:
        raise DataError(
            f"{row.where}: {name}: expected 0 or 1, true or false, or one of {', '.join(WORDS[measure])}, got "
            f"{word[:40]!r}; fix or remove the row"
        )
    return labels[word]
