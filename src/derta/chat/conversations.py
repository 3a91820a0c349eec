"""Tokenization of conversations with labels on every answer of the assistant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from derta.chat.encoding import encode_response
from derta.chat.templates import ChatFormat
from derta.chat.turns import Span, Text, answer_content, answer_head, content_text, join_texts
from derta.messages import Message, Tools


class Answers(NamedTuple):
    """Token ids of a conversation, and which of the tokens after the prompt belong to answers with labels.

    Attributes:
        prompt_ids: Tokens before the first answer with labels.
        response_ids: The other tokens: the answers, each with its closing tokens, and the turns between them.
        learned: Whether each of `response_ids` has a label.
        turns: Number of answers with labels.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    learned: list[bool]
    turns: int


def encode_answers(
    chat: ChatFormat, messages: Sequence[Message], *, tools: Tools = None, only_last: bool = False
) -> Iterator[Answers]:
    """Encode a conversation that ends with an answer, so that every answer (or the last one) has labels once.

    An answer is learned where the model gives it in use: after the generation prompt of the turns before it. Most
    templates write all turns of a conversation in this way, which gives one row. A template that writes earlier answers
    in another way (without their empty thought, or with another closing token) gives a row of its own for each of them.
    Messages that only call tools have no labels.

    Raises:
        ModelError: the template refuses the conversation, or its generation prompt contradicts a finished turn.
    """
    last = len(messages) - 1
    head = answer_head(chat, messages[:last], tools=tools)
    final = answer_content(chat, messages[:last], messages[last].content, tools=tools)
    spans: list[Span] = [(len(head.text), len(head.text) + len(final) + len(chat.closing))]
    for index in range(last - 1, 0, -1) if not only_last else ():
        message = messages[index]
        if message.role != "assistant" or not message.content.strip() or message.tool_calls:
            continue
        before = answer_head(chat, messages[:index], tools=tools)
        answer = answer_content(chat, messages[:index], message.content, tools=tools)
        turn = before.text + answer + chat.closing
        if head.text.startswith(turn):
            spans.append((len(before.text), len(turn)))
        else:
            yield _answers(chat, before, answer, [(len(before.text), len(turn))])
    yield _answers(chat, head, final, spans[::-1])


def _answers(chat: ChatFormat, head: Text, answer: str, spans: Sequence[Span]) -> Answers:
    """Return the tokens of a text and its answer, with labels in these spans; the first token has none."""
    start = spans[0][0]
    cut = Text(head.text[:start], tuple(span for span in head.spans if span[1] <= start))
    rest = Text(head.text[start:], tuple((first - start, last - start) for first, last in head.spans if first >= start))
    turn = encode_response(chat, cut, join_texts(rest, content_text(answer)), closed=True)
    if len(spans) == 1:  # the answer that ends the text
        return Answers(turn.prompt_ids, turn.response_ids, [True] * len(turn.response_ids), 1)
    begins = [0, *turn.response_ends[:-1]]
    learned = [
        any(begin < last - start and end > first - start for first, last in spans)
        for begin, end in zip(begins, turn.response_ends, strict=True)
    ]
    return Answers(turn.prompt_ids, turn.response_ids, learned, len(spans))
