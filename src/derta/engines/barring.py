"""What may not be written at some places of a reply: attacks on the decode loop."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from torch import Tensor

from derta.chat import ChatFormat, encode_continuation
from derta.errors import ModelError
from derta.records import Decoding


class Bar(NamedTuple):
    """Token sequences that are never completed in the first `steps` tokens; see `Decoding`."""

    sequences: tuple[tuple[int, ...], ...]
    steps: int | None = None
    top_k: int | None = None


def bar(chat: ChatFormat, decoding: Decoding, *, stop_ids: Collection[int]) -> Bar:
    """Look up the tokens of barred texts, bare and after a blank; a text the tokenizer cannot write needs no bar.

    Raises:
        ModelError: it can write none of them.
    """
    forms = {
        tuple(encode_continuation(chat, text, spaced=spaced)) for text in decoding.banned for spaced in (False, True)
    }
    known = sorted(form for form in forms if form and chat.tokenizer.unk_token_id not in form)
    if not known:
        raise ModelError(
            f"expected a barred text that this tokenizer can write, got {list(decoding.banned)!r:.80}; name others, "
            "such as the first word of this model's refusals"
        )
    ends = tuple((token,) for token in sorted(stop_ids)) if decoding.ban_end else ()
    return Bar((*known, *ends), decoding.steps, decoding.top_k)


def barred_next(written: Sequence[int], sequences: Sequence[tuple[int, ...]]) -> set[int]:
    """The tokens that would complete a sequence after what is written.

    >>> barred_next([7, 1], [(5,), (1, 2), (7, 3), (7, 1, 4)])
    {2, 4, 5}
    """
    return {
        last
        for *before, last in sequences
        if len(before) <= len(written) and list(written[len(written) - len(before) :]) == before
    }


def choose(logits: Tensor, rows: Sequence[tuple[Sequence[int], Bar | None]] | None) -> list[int]:
    """The next token of each row: of `Float[Tensor, "row vocab"]` the likeliest, or that which its bar lets through.

    `rows` are each row's tokens so far, and its bar.
    """
    # as argmax, the first of ties, which takes three to five times as long on a CPU (LOG.md, 17)
    chosen: list[int] = logits.max(dim=-1).indices.tolist()
    for place, (written, own) in enumerate(rows or ()):
        if own is None or (own.steps is not None and len(written) >= own.steps):
            continue
        barred = barred_next(written, own.sequences)
        if chosen[place] in barred:
            width = min(own.top_k or len(barred) + 1, logits.shape[-1])
            ranked: list[int] = logits[place].float().topk(width).indices.tolist()
            chosen[place] = next((token for token in ranked if token not in barred), chosen[place])
    return chosen
