"""Decoding of token ids that continue other text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"
"""Text of bytes that are no whole character."""
_TEXTS: WeakKeyDictionary[PreTrainedTokenizerBase, dict[int, str]] = WeakKeyDictionary()
"""Texts of tokens after an EOS token by tokenizer, because texts share their frequent tokens; -1: without a token."""
_NO_TOKEN = -1


def decode_continuation(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """Decode ids after an EOS token: at the start of a text, SentencePiece decoders strip a blank."""
    if not token_ids:
        return ""
    head = _text_of(tokenizer, _NO_TOKEN)
    joint = _text_of(tokenizer, token_ids[0]) if len(token_ids) == 1 else _decode_after_eos(tokenizer, token_ids)
    assert joint.startswith(head), (joint, head)  # noqa: S101 - no decoder looks ahead
    return joint[len(head) :]


def _text_of(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    texts = _TEXTS.setdefault(tokenizer, {})
    if token not in texts:
        texts[token] = _decode_after_eos(tokenizer, [] if token == _NO_TOKEN else [token])
    return texts[token]


def _decode_after_eos(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    ids = [int(str(tokenizer.eos_token_id)), *token_ids]
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def positions_after_space(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> set[int]:
    """Return the positions t of a continuation before which its text ends in white space; no space is needed there.

    A character of several tokens, such as the bytes of a no-break space, counts where it is complete.
    """
    texts = _TEXTS.setdefault(tokenizer, {})
    for token in {*token_ids} - texts.keys():
        texts[token] = _text_of(tokenizer, token)
    positions: set[int] = set()
    run: list[int] = []  # tokens since the last complete character
    for t, token in enumerate(token_ids, start=1):
        run.append(token)
        text = texts[token] if len(run) == 1 else _decode_after_eos(tokenizer, run)
        if not text.endswith(UNFINISHED):
            run.clear()
        if text[-1:].isspace():
            positions.add(t)
    return positions
