"""Tokenization of prompts and responses: BOS, the split between both, and markup in contents."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from derta.chat.templates import ChatFormat
from derta.chat.turns import (
    Span,
    Text,
    answer_content,
    answer_head,
    content_span,
    content_text,
    continuation_head,
    join_texts,
    prompt_text,
)
from derta.errors import ModelError
from derta.messages import Message, Tools
from derta.records import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "Sure"
_ANCHORS = (".", "\n", "a", "|", "5", "\u00e9")


class Turn(NamedTuple):
    """Token ids of a prompt and of the assistant's response, without a closing token.

    `response_ends[i]` is the number of characters of the response in its tokens 0 … i.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    response_ends: list[int]


class Encoded(NamedTuple):
    """Token ids of a text; `ends[i]` is the number of characters in tokens 0 … i."""

    ids: list[int]
    ends: list[int]


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a text, without BOS and EOS."""
    return tokenizer.encode(text, add_special_tokens=False)


def encode_text(chat: ChatFormat, text: Text) -> Encoded:
    """Return the token ids of a text, without BOS and EOS.

    Markup in contents, such as `</s>` in a request, is encoded as plain text: it is cut after its first character, and
    the parts are encoded one by one. The template's own control tokens are unchanged.
    """
    cuts = [cut for span in text.spans for cut in _markup_cuts(chat.markup, text.text, span)]
    if not cuts:
        return _encode_part(chat.tokenizer, text.text)
    ids: list[int] = []
    ends: list[int] = []
    for start, end in zip([0, *cuts], [*cuts, len(text.text)], strict=True):
        part = text.text[start:end]
        encoded = _encode_part(chat.tokenizer, part) if start == 0 else _encode_after_text(chat.tokenizer, part)
        ids += encoded.ids
        ends += [start + place for place in encoded.ends]
    return Encoded(ids, ends)


def _markup_cuts(markup: re.Pattern[str] | None, text: str, span: Span) -> Iterator[int]:
    """Yield the offset after the first character of each control token in a span, also of overlapping ones."""
    start, end = span
    while markup is not None and (match := markup.search(text, start, end)):
        yield match.start() + 1
        start = match.start() + 1


def _encode_part(tokenizer: PreTrainedTokenizerBase, text: str) -> Encoded:
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return Encoded([int(token) for token in encoding["input_ids"]], [int(end) for _, end in encoding["offset_mapping"]])


def _encode_after_text(tokenizer: PreTrainedTokenizerBase, text: str) -> Encoded:
    """Encode text that continues other text: after an anchor that no token shares with it."""
    for anchor in _ANCHORS:
        joint = _encode_part(tokenizer, anchor + text)
        if len(anchor) in joint.ends:
            split = max(i for i, end in enumerate(joint.ends) if end == len(anchor)) + 1
            return Encoded(joint.ids[split:], [end - len(anchor) for end in joint.ends[split:]])
    raise ModelError(f"cannot encode {text[:20]!r} as a continuation with this tokenizer; remove markup from the text")


def _with_one_bos(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """Prepend the BOS token if the tokenizer adds it by default and the template did not."""
    bos = tokenizer.bos_token_id
    if bos is None or ids[:1] == [bos] or tokenizer.encode("a")[:1] != [bos]:
        return ids
    return [int(str(bos)), *ids]


def encode_turn(
    chat: ChatFormat, messages: Sequence[Message], response: str, *, tools: Tools = None, closed: bool = False
) -> Turn:
    """Encode a conversation and its response as one text, and split the token ids at the start of the response.

    A token with characters of both belongs to the response: it is the token that the model must predict. The response
    is as the template writes it, without white space at its ends if the template removes it. With `closed`, the
    closing tokens follow.

    Raises:
        ModelError: the template refuses the conversation, or its generation prompt contradicts a finished turn.
    """
    head = answer_head(chat, messages, tools=tools)
    return encode_response(chat, head, answer_content(chat, messages, response, tools=tools), closed=closed)


def turn_span(chat: ChatFormat, messages: Sequence[Message], index: int, *, tools: Tools = None) -> range:
    """Return the positions of an assistant message among the token ids of the prompt that `encode_turn` returns.

    A token with characters of the message and of the template belongs to the message.

    Raises:
        ModelError: the template drops or rewrites the message.
    """
    head = answer_head(chat, messages, tools=tools)
    start, end = content_span(chat, messages, index, head=head.text, tools=tools)
    ids, ends = encode_text(chat, head)
    num_bos = len(_with_one_bos(chat.tokenizer, ids)) - len(ids)
    first = next(i for i, place in enumerate(ends) if place > start)
    last = next((i for i, place in enumerate(ends) if i > first and ends[i - 1] >= end and place > end), len(ends))
    return range(num_bos + first, num_bos + last)


def encode_after(chat: ChatFormat, prompt: Prompt, continuation: str) -> Turn:
    """Encode a prompt (raw, chat, or chat with prefill) and its continuation, split as in `encode_turn`.

    The continuation of a chat prompt without a prefill is an answer, after an empty thought if the model thinks.
    """
    return encode_response(chat, continuation_head(chat, prompt), continuation)


def encode_response(chat: ChatFormat, head: Text, response: str | Text, *, closed: bool = False) -> Turn:
    """Encode a text and its continuation as one text, and split the token ids between them."""
    start = len(head.text)
    ids, ends = encode_text(chat, join_texts(head, _response_text(chat, response, closed=closed)))
    split = next((i for i, end in enumerate(ends) if end > start), len(ids))
    return Turn(_with_one_bos(chat.tokenizer, ids[:split]), ids[split:], [end - start for end in ends[split:]])


def _response_text(chat: ChatFormat, response: str | Text, *, closed: bool) -> Text:
    text = content_text(response) if isinstance(response, str) else response
    return join_texts(text, Text(chat.closing)) if closed else text


def encode_continuation(chat: ChatFormat, text: str | Text, *, spaced: bool, closed: bool = False) -> list[int]:
    """Encode text that continues other text: with a leading space, or without one as after white space.

    The text before it is a line break, or a tab if the tokenizer merges the line break into the text.
    """
    return encode_after_text(chat, text, spaced=spaced, closed=closed).ids


def encode_after_text(chat: ChatFormat, text: str | Text, *, spaced: bool, closed: bool = False) -> Encoded:
    """Encode text as `encode_continuation` does; `ends` count its characters without the leading space."""
    response = _response_text(chat, text, closed=closed)
    joint = join_texts(Text(" "), response) if spaced else response
    anchors = (".",) if spaced else (".\n", ".\t")
    behind = (_encode_behind(chat, anchor, joint) for anchor in anchors)
    first = next(behind)
    chosen = first if first.is_separate else next((other for other in behind if other.is_separate), first)
    return Encoded(chosen.ids, [end - spaced for end in chosen.ends])


class _Continuation(NamedTuple):
    """Token ids of a text behind an anchor, and their ends in it; `is_separate` if a token ends with the anchor."""

    ids: list[int]
    ends: list[int]
    is_separate: bool


def _encode_behind(chat: ChatFormat, anchor: str, text: Text) -> _Continuation:
    ids, ends = encode_text(chat, join_texts(Text(anchor), text))
    split = next((i for i, end in enumerate(ends) if end > len(anchor)), len(ends))
    return _Continuation(ids[split:], [end - len(anchor) for end in ends[split:]], len(anchor) in ends)


def encode_prompt(chat: ChatFormat, prompt: Prompt) -> list[int]:
    """Return the input ids of a prompt (chat, chat with prefill, or raw text), with one BOS and an open last turn.

    A space at the end of the template is removed if the tokenizer merges it into the first token of the response.
    """
    text = prompt_text(chat, prompt)
    if prompt.mode == "raw" or prompt.prefill:
        return _with_one_bos(chat.tokenizer, encode_text(chat, text).ids)
    return encode_response(chat, text, _PROBE).prompt_ids
