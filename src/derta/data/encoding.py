"""Tokenization of examples and answers, computed once before training; training rows are built from the token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from derta.chat import (
    ChatFormat,
    Turn,
    answer_head,
    content_text,
    encode_answers,
    encode_response,
    encode_text,
    encode_turn,
    join_texts,
)
from derta.errors import DataError, ModelError
from derta.records import Example, Message, Tools


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """Token ids of a helpful example.

    Attributes:
        id: Id of the example; of further rows of a conversation with a number.
        prompt_ids: Prompt before the first answer with labels.
        response_ids: That answer with its closing ids, and the turns after it.
        learned: Which of `response_ids` have labels; None: all.
        turns: Number of answers with labels.
    """

    id: str
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    learned: tuple[bool, ...] | None = None
    turns: int = 1


def encode_example(
    chat: ChatFormat, example: Example, *, assistant_turns: Literal["all", "last"] = "all"
) -> list[EncodedExample]:
    """Return the token ids of a conversation, with loss on its answers, or of a raw text, with loss on all of it.

    A conversation has one row, or several if the template writes earlier answers in another way than the last one (see
    `chat.encode_answers`).

    Raises:
        DataError: The last answer has no token, or the text has fewer than two (the first has no context to predict it
            from).
    """
    if example.text is not None:
        return [_encode_text(chat, example.id, example.text)]
    only_last = assistant_turns == "last"
    try:
        rows = list(encode_answers(chat, example.messages, tools=example.tools, only_last=only_last))
    except ModelError as error:
        raise ModelError(f"example {example.id} ({example.source or 'no source'}): {error}; or drop the row") from error
    last_answer = list(takewhile(bool, reversed(rows[-1].learned)))
    if not has_tokens(chat, example.messages[-1].content, num_closed=len(last_answer)):
        raise DataError(f"example {example.id}: expected an answer of at least one token, got none; drop the row")
    return [
        EncodedExample(
            f"{example.id}#{place}" if place else example.id,
            tuple(row.prompt_ids),
            tuple(row.response_ids),
            None if all(row.learned) else tuple(row.learned),
            row.turns,
        )
        for place, row in enumerate(reversed(rows))
    ]


def has_tokens(chat: ChatFormat, response: str, *, num_closed: int) -> bool:
    """Return whether a response has tokens, if it has `num_closed` together with its closing tokens."""
    return num_closed > len(chat.closing_ids) or bool(chat.tokenizer.encode(response, add_special_tokens=False))


def closed_turn(chat: ChatFormat, messages: Sequence[Message], response: str, *, tools: Tools = None) -> Turn | None:
    """Encode a conversation with its response and the closing tokens; None if the response has no token."""
    turn = encode_turn(chat, messages, response, tools=tools, closed=True)
    return turn if has_tokens(chat, response, num_closed=len(turn.response_ids)) else None


def continued_turn(
    chat: ChatFormat,
    messages: Sequence[Message],
    response: str,
    *,
    prefill: str = "",
    tools: Tools = None,
    closed: bool = True,
) -> Turn | None:
    """Encode a conversation with a response that continues a `prefill`, as one text; None if it has no token.

    The prefill is a part of the prompt. With `closed`, the closing tokens follow.
    """
    if not prefill and closed:
        return closed_turn(chat, messages, response, tools=tools)
    head = join_texts(answer_head(chat, messages, tools=tools), content_text(prefill))
    turn = encode_response(chat, head, response, closed=closed)
    return turn if has_tokens(chat, response, num_closed=len(turn.response_ids)) else None


def _encode_text(chat: ChatFormat, name: str, text: str) -> EncodedExample:
    """Return the token ids of BOS, text and EOS; the first token is input only, since it has no context."""
    bos, eos = chat.tokenizer.bos_token_id, chat.tokenizer.eos_token_id
    content = text if bos is None else text.removeprefix(str(chat.tokenizer.bos_token))
    ids = encode_text(chat, content_text(content)).ids
    if bos is not None:
        ids = [int(str(bos)), *ids]
    if len(ids) < 2:
        raise DataError(f"example {name}: expected a text of at least two tokens, got {len(ids)}; drop the row")
    return EncodedExample(name, (ids[0],), (*ids[1:], int(str(eos))))
