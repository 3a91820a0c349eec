"""Human labels of replies: the columns and words of published files, and the outcome of each for a measure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from derta.columns import Columns, format_names
from derta.errors import DataError
from derta.formats.replies import read_replies
from derta.records import Measure, Prompt, Reply

Outcomes = Mapping[str, bool | None]
BOTH: Mapping[str, bool] = {
    **dict.fromkeys(("1", "true", "yes", "1.0", "y", "t"), True),
    **dict.fromkeys(("0", "false", "no", "0.0", "n", "f"), False),
}
WORDS: Mapping[Measure, Outcomes] = {
    "harmful": {
        **dict.fromkeys(("harmful", "unsafe", "jailbroken", "jailbreak"), True),
        **dict.fromkeys(("harmless", "unharmful", "benign", "safe"), False),
        **dict.fromkeys(("refusal", "refused", "refuse", "refuses", "full refusal"), False),
    },
    "refused": {
        **dict.fromkeys(("refused", "refusal", "refuse", "refuses", "declined", "full refusal"), True),
        **dict.fromkeys(("complied", "compliance", "comply", "complies", "answered", "full compliance"), False),
        **dict.fromkeys(("partial refusal", "partial compliance"), None),
    },
    "correct": {"correct": True, "right": True, "incorrect": False, "wrong": False},
}
_IS_SAFE: Outcomes = {word: not outcome for word, outcome in BOTH.items()}
_WILDGUARD_HARM: Outcomes = {"harmful": True, "unharmful": False}
_WILDGUARD_REFUSAL: Outcomes = {"refusal": True, "compliance": False}
_ACTION: Outcomes = {"0": True, "1": None, "2": None, "3": None, "4": None, "5": False}
"""Do-Not-Answer: 0 is a refusal, 5 follows the request, the others dispute, weigh, warn or do not know."""

_ALL: Mapping[Measure, Outcomes] = {measure: {**BOTH, **words} for measure, words in WORDS.items()}
_PEOPLE = ("final_label", "human_label", "human_majority", "label")
"""Columns of people's labels, whose meaning is that of the judge's measure."""

LABELS: Mapping[Measure, Mapping[str, Outcomes]] = {
    "harmful": {
        **dict.fromkeys(
            ("harmful", "is_harmful", "unsafe", "is_unsafe", "jailbroken", "is_jailbroken"), _ALL["harmful"]
        ),
        "is_safe": _IS_SAFE,
        "response_harm_label": _WILDGUARD_HARM,
        **dict.fromkeys(_PEOPLE, _ALL["harmful"]),
    },
    "refused": {
        **dict.fromkeys(("refused", "is_refused", "refusal", "is_refusal"), _ALL["refused"]),
        "response_refusal_label": _WILDGUARD_REFUSAL,
        "action": _ACTION,
        **dict.fromkeys(_PEOPLE, _ALL["refused"]),
    },
    "correct": dict.fromkeys(("correct", "is_correct", *_PEOPLE), _ALL["correct"]),
}
"""The columns of a measure's label, the first of which is read, and the outcome of each word in lower case.

None is a label that counts for neither side: a partial refusal, or a row that people did not agree on.
"""


_SEPARATORS = re.compile(r"(?<=\w)[\s_-]+(?=[a-z])|(?<=[0-9])_(?=[a-z])")
_NUMBER = re.compile(r"[0-9]{1,3}[ .:)]+(?=[a-z])")
"""Number before a word, as in XSTest's `2_full_refusal`."""
_NEGATIONS = ("not ", "non ")


class UnknownLabelError(ValueError):
    """A word is no label."""


def label_of_word(word: str, outcomes: Outcomes) -> bool | None:
    """Return the outcome of a label's word, without its case, its separators and the number before it.

    >>> [label_of_word(word, WORDS["refused"]) for word in ("2_full_refusal", "Non-refusal", "partial refusal")]
    [True, False, None]

    Raises:
        UnknownLabelError: the word is not in `outcomes`.
    """
    plain = _NUMBER.sub("", _SEPARATORS.sub(" ", word.lower().strip()))
    if plain in outcomes:
        return outcomes[plain]
    negated = next((plain.removeprefix(one) for one in _NEGATIONS if plain.startswith(one)), "")
    outcome = outcomes.get(negated)
    if outcome is None:
        raise UnknownLabelError(word)
    return not outcome


class LabelledCase(NamedTuple):
    """A prompt and a reply with its human label `truth`.

    `truth` is None if the label is undecided (a partial refusal), or if the row has none (`unlabelled`).
    """

    prompt: Prompt
    reply: Reply
    truth: bool | None
    attack: str | None
    reply_class: str | None
    unlabelled: bool = False


def read_labels(
    path: Path, *, measure: Measure, prompts_path: Path | None = None, quiet: bool = False
) -> Iterator[LabelledCase]:
    """Load the labelled replies of a file of any format of `read_cases` and yield them; the label is required.

    Raises:
        DataError: a row has no reply or no column of the measure's label, or the word of a label is not in `LABELS`.
    """
    for where, (prompt, reply), columns in read_replies(path, prompts_path=prompts_path, quiet=quiet):
        if columns is None:
            raise DataError(
                f"{where}: expected an object with a reply and a column {' or '.join(LABELS[measure])}, got a reply "
                "alone; add the labels"
            )
        name = _label_column(columns, measure)
        value = columns.values[name]
        unlabelled = value is None or not str(value).strip()
        truth = None if unlabelled else _label(str(value), name, measure=measure, where=where)
        attack, reply_class = columns.name(("attack", "method")), columns.name(("reply_class", "class"))
        yield LabelledCase(prompt, reply, truth, attack, reply_class, unlabelled)


def _label_column(columns: Columns, measure: Measure) -> str:
    where, values = columns.row.where, columns.values
    name = next((name for name in LABELS[measure] if name in values), None)
    if name is None:
        raise DataError(
            f"{where}: expected a column {' or '.join(LABELS[measure])}, got {format_names(values)}; add a column with "
            "the label of each reply, of several annotators with the one they agree on"
        )
    columns.read.add(name)
    return name


def _label(word: str, name: str, *, measure: Measure, where: str) -> bool | None:
    labels = LABELS[measure][name]
    try:
        return label_of_word(word, labels)
    except UnknownLabelError:
        raise DataError(
            f"{where}: {name}: expected a label of the measure {measure!r} ({', '.join(labels)}), got {word[:40]!r}; "
            "fix or remove the row"
        ) from None
