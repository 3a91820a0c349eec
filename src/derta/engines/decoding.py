"""Greedy decoding in batches that rows leave as soon as they are done, with banned tokens where an attack bans some."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from derta.chat import ChatFormat, encode_continuation
from derta.engines.batching import forward, select_rows
from derta.engines.prefix_cache import Prefix, prefill
from derta.errors import ModelError
from derta.records import Decoding


class BannedTokens(NamedTuple):
    """Token sequences that are never completed in the first `steps` tokens; see `Decoding`."""

    sequences: tuple[tuple[int, ...], ...]
    steps: int | None = None
    top_k: int | None = None


class GeneratedRow(NamedTuple):
    """The tokens generated after row `row` of a batch; the stop token is not part of them."""

    row: int
    token_ids: list[int]
    stop_reason: Literal["eos", "length"]


def banned_tokens(chat: ChatFormat, decoding: Decoding, *, stop_ids: Collection[int]) -> BannedTokens:
    """Look up the tokens of banned texts, bare and after a space; a text the tokenizer cannot write is left out.

    Raises:
        ModelError: it can write none of them.
    """
    forms = {
        tuple(encode_continuation(chat, text, spaced=spaced)) for text in decoding.banned for spaced in (False, True)
    }
    known = sorted(form for form in forms if form and chat.tokenizer.unk_token_id not in form)
    if not known:
        raise ModelError(
            f"expected a banned text that this tokenizer can write, got {list(decoding.banned)!r:.80}; name others, "
            "such as the first word of this model's refusals"
        )
    ends = tuple((token,) for token in sorted(stop_ids)) if decoding.ban_end else ()
    return BannedTokens((*known, *ends), decoding.steps, decoding.top_k)


def banned_next(generated: Sequence[int], sequences: Sequence[tuple[int, ...]]) -> set[int]:
    """Return the tokens that would complete a sequence after what is generated.

    >>> banned_next([7, 1], [(5,), (1, 2), (7, 3), (7, 1, 4)])
    {2, 4, 5}
    """
    return {
        last
        for *before, last in sequences
        if len(before) <= len(generated) and list(generated[len(generated) - len(before) :]) == before
    }


def next_tokens(
    logits: Float[Tensor, "row vocab"], rows: Sequence[tuple[Sequence[int], BannedTokens | None]] | None
) -> list[int]:
    """Return the next token of each row: the likeliest that is not banned.

    `rows` are each row's tokens so far, and what is banned in it.
    """
    # as argmax, the first of ties, which takes three to five times as long on a CPU (LOG.md, 17)
    chosen: list[int] = logits.max(dim=-1).indices.tolist()
    for place, (generated, own) in enumerate(rows or ()):
        if own is None or (own.steps is not None and len(generated) >= own.steps):
            continue
        banned = banned_next(generated, own.sequences)
        if chosen[place] in banned:
            width = min(own.top_k or len(banned) + 1, logits.shape[-1])
            ranked: list[int] = logits[place].float().topk(width).indices.tolist()
            chosen[place] = next((token for token in ranked if token not in banned), chosen[place])
    return chosen


@torch.inference_mode()
def greedy(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    banned: Sequence[BannedTokens | None] | None = None,
    prefixes: Sequence[Prefix | None] | None = None,
) -> Iterator[GeneratedRow]:
    """Yield each row's continuation when it ends; the others continue in a smaller batch.

    `banned` are the tokens banned in each row, `prefixes` what it begins with, if others do too. Of tokens that are
    equally likely the first is chosen, as `generate` does.
    """
    logits, cache, mask = prefill(model, prompts, prefixes)
    live = list(range(len(prompts)))
    token_ids: list[list[int]] = [[] for _ in prompts]
    while True:
        own = None if banned is None else [(token_ids[row], banned[row]) for row in live]
        chosen = next_tokens(logits, own)
        going: list[int] = []
        for place, (row, token) in enumerate(zip(live, chosen, strict=True)):
            if token in stop_ids:
                yield GeneratedRow(row, token_ids[row], "eos")
                continue
            token_ids[row].append(token)
            if len(token_ids[row]) == max_new_tokens:
                yield GeneratedRow(row, token_ids[row], "length")
            else:
                going.append(place)
        if not going:
            return
        if len(going) < len(live):
            mask = select_rows(going, mask=mask, cache=cache)
            live = [live[place] for place in going]
        input_ids = torch.tensor([[chosen[place]] for place in going], device=mask.device)
        mask = torch.cat([mask, mask.new_ones(len(going), 1)], dim=1)
        output = forward(model, input_ids=input_ids, mask=mask, cache=cache, logits_to_keep=1)
        logits, cache = output.logits[:, -1], output.past_key_values
