"""Formats of preference datasets: the columns that identify each, and the parser of a row.

The names of columns are in lower case: `derta.columns.lower_names`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from derta.columns import REQUEST
from derta.data.context import tools_of
from derta.data.conversations import EARLIER, column_messages, is_plain, request_messages
from derta.data.fields import DroppedRowError, flag_of, text_of, value_of
from derta.errors import DataError
from derta.messages import JsonObject
from derta.records import Message
from derta.sources import Row, fields_of

PROMPT = (*REQUEST, "conversations")
"""Columns of the prompt of a pair; `conversations` is LLaMA-Factory's."""
PAIR_OPTIONAL = (*EARLIER, "tools")
PKU_FIELDS = ("prompt", "response_0", "response_1", "is_response_0_safe", "is_response_1_safe")


class PairRow(NamedTuple):
    """A query after its context (`messages`, `tools`), with a chosen and a rejected response."""

    query: str
    chosen: str
    rejected: str
    messages: tuple[Message, ...] = ()
    tools: tuple[JsonObject, ...] | None = None


def conversations_of(row: Row) -> tuple[list[Message], list[Message]]:
    """Return the conversations that end with the chosen and with the rejected response.

    The forms: a prompt, with responses or whole conversations next to it; whole conversations without a prompt, as
    turns or as transcripts (Anthropic's HH); or two texts, whose common words at the start are the prompt (TRL's
    implicit prompt; its rule, which splits words, is limited to whole words here).

    >>> row = Row("a.jsonl:1", {"chosen": "The sky is blue.", "rejected": "The sky is black."})
    >>> [message.content for message in conversations_of(row)[1]]
    ['The sky is', 'black.']

    Raises:
        DroppedRowError: See `conversations.messages_of`.
        DataError: A column is missing or has another type.
    """
    chosen, rejected = (column_messages(row, name, role="assistant") for name in ("chosen", "rejected"))
    if any(name in fields_of(row) for name in PROMPT):
        prompt = request_messages(row, PROMPT)
        return _joined(prompt, chosen), _joined(prompt, rejected)
    if all(is_plain(value_of(row, name)) for name in ("chosen", "rejected")):
        return _with_common_prompt(chosen[0].content, rejected[0].content)
    return chosen, rejected


def _joined(prompt: list[Message], response: list[Message]) -> list[Message]:
    """Return the prompt with a response, which may be a whole conversation of its own."""
    if not response or response[0].role == "assistant":
        return [*prompt, *response]
    has_system = response[0].role == "system" or not prompt or prompt[0].role != "system"
    return response if has_system else [prompt[0], *response]


def _with_common_prompt(chosen: str, rejected: str) -> tuple[list[Message], list[Message]]:
    pairs = enumerate(zip(chosen, rejected, strict=False))
    common = next((index for index, (one, other) in pairs if one != other), min(len(chosen), len(rejected)))
    end = max(chosen.rfind(" ", 0, common), chosen.rfind("\n", 0, common)) + 1
    request = Message(role="user", content=chosen[:end].strip())
    first, second = (Message(role="assistant", content=text[end:].strip()) for text in (chosen, rejected))
    return [request, first], [request, second]


def pair_of(row: Row) -> PairRow:
    """Return a row as a pair.

    Raises:
        DroppedRowError: `no_answer`, `different_prompts`, `no_request` (the turn before the responses is not the
            user's), `empty_turn`, `empty_response` or `same_responses`; see also `conversations_of`.
        DataError: A column is missing or has another type.
    """
    chosen, rejected = conversations_of(row)
    if not all(turns and turns[-1].role == "assistant" for turns in (chosen, rejected)):
        raise DroppedRowError("no_answer")
    context = chosen[:-1]
    if context != rejected[:-1]:
        raise DroppedRowError("different_prompts")
    if not context or context[-1].role != "user":
        raise DroppedRowError("no_request")
    if any(message.is_empty for message in context):
        raise DroppedRowError("empty_turn")
    return _checked(
        PairRow(context[-1].content, chosen[-1].content, rejected[-1].content, tuple(context[:-1]), tools_of(row))
    )


def pku_pair(row: Row, by: str) -> PairRow:
    """Return a row of PKU-SafeRLHF as a pair, by the column with the number of the preferred response.

    Raises:
        DroppedRowError: `chosen_is_unsafe`, or see `pair_of`.
        DataError: A column is missing or has another value.
    """
    number = str(value_of(row, by))
    if number not in {"0", "1"}:
        raise DataError(f"{row.where}: {by}: expected 0 or 1, got {number[:40]!r}; fix or remove the row")
    if not flag_of(row, f"is_response_{number}_safe"):
        raise DroppedRowError("chosen_is_unsafe")
    other = "1" if number == "0" else "0"
    if not text_of(row, "prompt"):
        raise DroppedRowError("empty_turn")
    return _checked(
        PairRow(text_of(row, "prompt"), text_of(row, f"response_{number}"), text_of(row, f"response_{other}"))
    )


def _checked(pair: PairRow) -> PairRow:
    if not pair.chosen or not pair.rejected:
        raise DroppedRowError("empty_response")
    if pair.chosen == pair.rejected:
        raise DroppedRowError("same_responses")
    return pair


class PairFormat(NamedTuple):
    """Format of a preference dataset: the required fields, the parser of a row, and the other fields that it reads."""

    fields: tuple[str | tuple[str, ...], ...]
    read: Callable[[Row], PairRow]
    optional: tuple[str, ...] = ()


PAIR_FORMATS: dict[str, PairFormat] = {
    "preference": PairFormat((PROMPT, "chosen", "rejected"), pair_of, PAIR_OPTIONAL),
    "implicit_preference": PairFormat(("chosen", "rejected"), pair_of, PAIR_OPTIONAL),
    "hh": PairFormat(("chosen", "rejected"), pair_of, PAIR_OPTIONAL),
    "pku_saferlhf": PairFormat((*PKU_FIELDS, "safer_response_id"), partial(pku_pair, by="safer_response_id")),
    "pku_saferlhf_better": PairFormat((*PKU_FIELDS, "better_response_id"), partial(pku_pair, by="better_response_id")),
}
