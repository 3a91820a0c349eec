"""Human labels of replies: parsing of CSV or JSONL files with various column names and label words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from derta.columns import REPLY, Columns, UnreadColumns, columns_of
from derta.errors import DataError
from derta.formats.replies import foreign_prompt
from derta.records import Measure, Prompt, Reply
from derta.sources import read_rows

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
    unread = UnreadColumns(path)
    for number, row in enumerate(read_rows(path)):
        columns = columns_of(row, numbers=True)
        text = columns.text(REPLY)
        if text is None:
            raise DataError(f"{row.where}: expected a column {' or '.join(REPLY)}, got {', '.join(columns.values)}")
        attack, reply_class = columns.text(("attack", "method")), columns.text(("reply_class", "class"))
        prompt = foreign_prompt(
            number, columns.request(), sent=columns.sent(), answer=columns.text(["answer"]), attack=attack
        )
        truth = _label(columns, measure)
        unread.add(columns.values, columns.read, has_request=prompt.request is not None)
        yield LabelledCase(prompt, Reply(prompt_id=prompt.id, text=text), truth, attack, reply_class)
    unread.log()


def _label(columns: Columns, measure: Measure) -> bool | None:
    where, values = columns.row.where, columns.values
    name = next((name for name in LABEL[measure] if name in values), None)
    if name is None:
        raise DataError(f"{where}: expected a column {' or '.join(LABEL[measure])}, got {', '.join(values)}")
    columns.read.add(name)
    word = str(values[name]).strip().lower()
    labels = {**BOTH, **WORDS[measure]}
    if word not in labels:
        raise DataError(
            f"{where}: {name}: expected 0 or 1, true or false, or one of {', '.join(WORDS[measure])}, got "
            f"{word[:40]!r}; fix or remove the row"
        )
    return labels[word]
