"""Tokenization of prompts and responses, with BOS and EOS handling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from derta.chat.templates import ChatFormat, render
from derta.errors import ModelError
from derta.records import Message, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "Sure"
_MARK = "derta-turn-7319"


class Turn(NamedTuple):
    """Token ids of a prompt and of the assistant's response, without a closing token.

    `response_ends[i]` is the number of characters of the response in its tokens 0 … i.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    response_ends: list[int]


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a text, without BOS and EOS."""
    return tokenizer.encode(text, add_special_tokens=False)


def _with_one_bos(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """Prepend the BOS token if the tokenizer adds it by default and the template did not."""
    bos = tokenizer.bos_token_id
    if bos is None or ids[:1] == [bos] or tokenizer.encode("a")[:1] != [bos]:
        return ids
    return [int(str(bos)), *ids]


def prompt_text(chat: ChatFormat, messages: Sequence[Message]) -> str:
    """Return the formatted conversation, up to the start of the assistant's response."""
    return render(chat, messages, add_generation_prompt=True)


def encode_turn(chat: ChatFormat, messages: Sequence[Message], response: str) -> Turn:
    """Encode a conversation and its response as one text, and split the token ids at the start of the response.

    A token with characters of both belongs to the response: it is the token that the model must predict.
    """
    return _encode_joint(chat, prompt_text(chat, messages), response)


def turn_span(chat: ChatFormat, messages: Sequence[Message], index: int) -> range:
    """Return the positions of an assistant message among the token ids of the prompt that `encode_turn` returns.

    A token with characters of the message and of the template belongs to the message.

    Raises:
        ModelError: the template drops or rewrites the message.
    """
    text = prompt_text(chat, messages)
    marked = [*messages]
    marked[index] = messages[index].model_copy(update={"content": _MARK})
    before, mark, after = prompt_text(chat, marked).partition(_MARK)
    content = text[len(before) : len(text) - len(after)]
    if not mark or before + content + after != text or content.strip() != messages[index].content.strip():
        raise ModelError(
            f"expected the chat template to write message {index} of a conversation as it is, got "
            f"{content.strip()[:40]!r}; set another `template`"
        )
    start, end = len(before), len(text) - len(after)
    encoding = chat.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ends = [int(place) for _, place in encoding["offset_mapping"]]
    num_bos = len(_with_one_bos(chat.tokenizer, [int(token) for token in encoding["input_ids"]])) - len(ends)
    first = next(i for i, place in enumerate(ends) if place > start)
    last = next((i for i, place in enumerate(ends) if i > first and ends[i - 1] >= end and place > end), len(ends))
    return range(num_bos + first, num_bos + last)


def encode_after(chat: ChatFormat, prompt: Prompt, continuation: str) -> Turn:
    """Encode a prompt (raw, chat, or chat with prefill) and its continuation, split as in `encode_turn`."""
    if prompt.mode == "raw":
        return _encode_joint(chat, prompt.text or "", continuation)
    return _encode_joint(chat, prompt_text(chat, prompt.messages or ()) + (prompt.prefill or ""), continuation)


def _encode_joint(chat: ChatFormat, head: str, text: str) -> Turn:
    encoding = chat.tokenizer(head + text, add_special_tokens=False, return_offsets_mapping=True)
    ids = [int(token) for token in encoding["input_ids"]]
    ends = [int(end) for _, end in encoding["offset_mapping"]]
    split = next((i for i, end in enumerate(ends) if end > len(head)), len(ids))
    return Turn(_with_one_bos(chat.tokenizer, ids[:split]), ids[split:], [end - len(head) for end in ends[split:]])


def encode_continuation(chat: ChatFormat, text: str, *, spaced: bool) -> list[int]:
    """Encode text that continues other text: with a leading space, or without one as after a line break."""
    anchor = "." if spaced else ".\n"
    joint = anchor + (" " if spaced else "") + text
    encoding = chat.tokenizer(joint, add_special_tokens=False, return_offsets_mapping=True)
    ends = [int(end) for _, end in encoding["offset_mapping"]]
    split = next((i for i, end in enumerate(ends) if end > len(anchor)), len(ends))
    return [int(token) for token in encoding["input_ids"][split:]]


def encode_prompt(chat: ChatFormat, prompt: Prompt) -> list[int]:
    """Return the input ids of a prompt (chat, chat with prefill, or raw text), with one BOS and an open last turn.

    A space at the end of the template is removed if the tokenizer merges it into the first token of the response.
    """
    if prompt.mode == "raw":
        return _with_one_bos(chat.tokenizer, encode(chat.tokenizer, prompt.text or ""))
    messages = prompt.messages or ()
    if prompt.prefill:
        turn = encode_turn(chat, messages, prompt.prefill)
        return turn.prompt_ids + turn.response_ids
    return encode_turn(chat, messages, _PROBE).prompt_ids
