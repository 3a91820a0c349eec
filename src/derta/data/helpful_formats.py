"""Formats of helpful datasets: the columns that identify each, and the parser of a row.

The names of columns are in lower case: `derta.columns.lower_names`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from derta.columns import REPLY, REQUEST
from derta.data.context import tools_of
from derta.data.conversations import EARLIER, as_turns, column_messages, request_messages
from derta.data.fields import (
    WILDGUARD_HARM,
    WILDGUARD_REFUSAL,
    DroppedRowError,
    label_of,
    name_of,
    text_of,
    value_of,
)
from derta.data.pair_formats import PAIR_OPTIONAL, PROMPT, conversations_of
from derta.errors import DataError, kind_of
from derta.messages import JsonObject
from derta.records import Message
from derta.sources import Row

ANSWER = (*REPLY, "answer")
LABELS = (
    *("label", "labels", "is_safe", "final_label", "jailbroken", "harmful", "unsafe", "refused"),
    *("prompt_harm_label", "response_harm_label", "response_refusal_label"),
)
"""Columns of labelled replies, some of which are harmful or refuse: no helpful data."""


class Conversation(NamedTuple):
    """The messages of a conversation that ends with an answer, with the definitions of its tools."""

    messages: tuple[Message, ...]
    tools: tuple[JsonObject, ...] | None = None


class HelpfulFormat(NamedTuple):
    """Format of a helpful dataset: the required fields, the parser of a row, and the other fields that it reads.

    The parser returns a conversation, or a raw text.
    """

    fields: tuple[str | tuple[str, ...], ...]
    read: Callable[[Row], Conversation | str]
    optional: tuple[str, ...] = ()


def _turns(row: Row, name: str) -> Conversation:
    """Parse the turns of a conversation, with the system prompt in a column of its own."""
    value = value_of(row, name)
    if value is None:
        raise DroppedRowError("no_answer")
    if as_turns(value) is None:
        got = "a list of other values" if isinstance(value, list) else kind_of(value)
        raise DataError(f"{row.where}: {name}: expected a list of turns, got {got}; fix the row")
    return Conversation(tuple(request_messages(row, [name])), tools_of(row))


def _answered(row: Row, requests: Sequence[str], answers: Sequence[str]) -> Conversation:
    """Parse a request and its answer, each a text or turns."""
    request = request_messages(row, requests)
    answer = column_messages(row, name_of(row, answers), role="assistant")
    return Conversation((*request, *answer), tools_of(row))


def _chosen(row: Row) -> Conversation:
    """Parse the preferred conversation of a pair."""
    return Conversation(tuple(conversations_of(row)[0]), tools_of(row))


def _text(row: Row) -> str:
    return text_of(row, "text")


def _aisafetylab(row: Row) -> Conversation:
    """Parse a row with label 0, a helpful answer; refusals (1) and harmful answers (2) are loaded as triples."""
    if str(value_of(row, "label")) != "0":
        raise DroppedRowError("refusal_or_harmful")
    return _answered(row, ["input"], ["output"])


def _wildjailbreak(row: Row) -> Conversation:
    """Parse a row with a benign request; the completions of harmful requests are refusals."""
    kind = text_of(row, "data_type")
    style, _, harm = kind.partition("_")
    if style not in {"vanilla", "adversarial"} or harm not in {"harmful", "benign"}:
        raise DataError(f"{row.where}: data_type: expected such as vanilla_benign, got {kind[:40]!r}; fix the row")
    if harm == "harmful":
        raise DroppedRowError("harmful_request")
    return _answered(row, [style], ["completion"])


def _wildguard(row: Row) -> Conversation:
    """Parse a row with a harmless request that is answered."""
    labels = {"prompt_harm": WILDGUARD_HARM, "response_harm": WILDGUARD_HARM, "response_refusal": WILDGUARD_REFUSAL}
    for name, words in labels.items():
        label = label_of(row, f"{name}_label", words)
        if label is not False:
            raise DroppedRowError("unlabelled" if label is None else name)
    return _answered(row, ["prompt"], ["response"])


# In the order in which `auto` tries them: a format whose fields are a subset of another's comes later.
HELPFUL_FORMATS: dict[str, HelpfulFormat] = {
    "messages": HelpfulFormat(("messages",), partial(_turns, name="messages"), (*EARLIER, "tools")),
    "wildjailbreak": HelpfulFormat(("vanilla", "adversarial", "completion", "data_type"), _wildjailbreak),
    "wildguard": HelpfulFormat(
        ("prompt", "response", "prompt_harm_label", "response_refusal_label", "response_harm_label"), _wildguard
    ),
    "preference": HelpfulFormat((PROMPT, "chosen", "rejected"), _chosen, PAIR_OPTIONAL),
    "sharegpt": HelpfulFormat(("conversations",), partial(_turns, name="conversations"), (*EARLIER, "tools")),
    "implicit_preference": HelpfulFormat(("chosen", "rejected"), _chosen, PAIR_OPTIONAL),
    "hh": HelpfulFormat(("chosen", "rejected"), _chosen, PAIR_OPTIONAL),
    "alpaca": HelpfulFormat(
        ("instruction", "output"), partial(_answered, requests=["instruction"], answers=["output"]), EARLIER
    ),
    "dolly": HelpfulFormat(
        ("instruction", "context", "response"),
        partial(_answered, requests=["instruction"], answers=["response"]),
        EARLIER,
    ),
    "aisafetylab": HelpfulFormat(("input", "output", "label"), _aisafetylab),
    "prompt_completion": HelpfulFormat(
        (REQUEST, ANSWER), partial(_answered, requests=REQUEST, answers=ANSWER), (*EARLIER, "tools")
    ),
    "text": HelpfulFormat(("text",), _text),
}

UNCERTAIN: Mapping[str, Sequence[str]] = dict.fromkeys(("prompt_completion", "alpaca", "dolly"), LABELS)
"""Columns next to which the rows of a detected format may be no helpful data."""
