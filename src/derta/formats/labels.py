"""Human labels of replies: the columns and words of published files, and the outcome of each for a measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from derta.columns import Columns, format_names
from derta.errors import DataError
from derta.formats.replies import read_replies
from derta.records import Measure, Prompt, Reply

Outcomes = Mapping[str, bool | None]
BOTH: Mapping[str, bool] = {"1": True, "true": True, "yes": True, "1.0": True,
                            "0": False, "false": False, "no": False, "0.0": False}  # fmt: skip
WORDS: Mapping[Measure, Outcomes] = {
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
_IS_SAFE: Outcomes = {word: not outcome for word, outcome in BOTH.items()}
_WILDGUARD_HARM: Outcomes = {"harmful": True, "unharmful": False, "": None}
_WILDGUARD_REFUSAL: Outcomes = {"refusal": True, "compliance": False, "": None}
_ACTION: Outcomes = {"0": True, "1": None, "2": None, "3": None, "4": None, "5": False}
"""Do-Not-Answer: 0 is a refusal, 5 follows the request, the others dispute, weigh, warn or do not know."""

LABELS: Mapping[Measure, Mapping[str, Outcomes]] = {
    "harmful": {
        **{name: {**BOTH, **WORDS["harmful"]} for name in ("harmful", "unsafe", "jailbroken")},
        "is_safe": _IS_SAFE,
        "response_harm_label": _WILDGUARD_HARM,
        **{name: {**BOTH, **WORDS["harmful"]} for name in ("final_label", "label")},
    },
    "refused": {
        "refused": {**BOTH, **WORDS["refused"]},
        "response_refusal_label": _WILDGUARD_REFUSAL,
        "action": _ACTION,
        **{name: {**BOTH, **WORDS["refused"]} for name in ("final_label", "label")},
    },
    "correct": {name: {**BOTH, **WORDS["correct"]} for name in ("correct", "final_label", "label")},
}
"""The columns of a measure's label, the first of which is read, and the outcome of each word in lower case.

None is a label that counts for neither side: a partial refusal, or a row that people did not agree on.
"""


class LabelledCase(NamedTuple):
    """A prompt and a reply with its human label `truth`; None if the label is undecided (a partial refusal)."""

    prompt: Prompt
    reply: Reply
    truth: bool | None
    attack: str | None
    reply_class: str | None


def read_labels(
    path: Path, *, measure: Measure, prompts_path: Path | None = None, quiet: bool = False
) -> Iterator[LabelledCase]:
    """Load the labelled replies of a file of any format of `read_cases` and yield them; the label is required.

    Raises:
        DataError: a row has no reply or no column of the measure's label, or a label is not in `LABELS`.
    """
    for where, (prompt, reply), columns in read_replies(path, prompts_path=prompts_path, quiet=quiet):
        if columns is None:
            raise DataError(
                f"{where}: expected an object with a reply and a column {' or '.join(LABELS[measure])}, got a reply "
                "alone; add the labels"
            )
        truth = _label(columns, measure)
        attack, reply_class = columns.name(("attack", "method")), columns.name(("reply_class", "class"))
        yield LabelledCase(prompt, reply, truth, attack, reply_class)


def _label(columns: Columns, measure: Measure) -> bool | None:
    where, values = columns.row.where, columns.values
    name = next((name for name in LABELS[measure] if name in values), None)
    if name is None:
        raise DataError(f"{where}: expected a column {' or '.join(LABELS[measure])}, got {format_names(values)}")
    columns.read.add(name)
    value, labels = values[name], LABELS[measure][name]
    word = "" if value is None and "" in labels else str(value).strip().lower()
    if not word and "reply_hash" in values:
        return None  # a row of `derta label` that nobody has labelled yet
    if word not in labels:
        raise DataError(
            f"{where}: {name}: expected one of {', '.join(filter(None, labels))}, got {word[:40]!r}; fix or remove the "
            "row"
        )
    return labels[word]
