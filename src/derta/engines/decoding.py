"""Greedy and sampled decoding with banned tokens, forced refusals and a KV cache; finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from derta.chat import ChatFormat, encode_continuation
from derta.engines.batching import NonFiniteLogitsError, forward, select_rows
from derta.engines.capacity import finished_share
from derta.engines.prefix_cache import Prefix, prefill
from derta.engines.sampling import Draws, TokenDraws, sample_tokens, uniform, without_banned
from derta.engines.threshold import RefusalForcing, forced_tokens
from derta.errors import ModelError
from derta.records import Decoding

_NOT_FINITE = -1
"""Result of `next_tokens` for a row whose logits are NaN or infinite."""


class BannedTokens(NamedTuple):
    """Token sequences that are banned in the first `steps` generated tokens; see `Decoding`."""

    sequences: tuple[tuple[int, ...], ...]
    steps: int | None = None
    top_k: int | None = None


class GeneratedRow(NamedTuple):
    """Tokens generated for row `row` of a batch, without the stop token."""

    row: int
    token_ids: list[int]
    stop_reason: Literal["eos", "length"]


def banned_tokens(chat: ChatFormat, decoding: Decoding, *, stop_ids: Collection[int]) -> BannedTokens:
    """Encode the banned texts of a prompt, with and without a leading space; texts with unknown tokens are skipped.

    Args:
        chat: Chat format with the tokenizer.
        decoding: Decoding options of the prompt.
        stop_ids: Stop tokens, banned too with `decoding.ban_end`.

    Raises:
        ModelError: The tokenizer can encode none of the texts.
    """
    forms = {
        tuple(encode_continuation(chat, text, spaced=spaced)) for text in decoding.banned for spaced in (False, True)
    }
    sequences = sorted(form for form in forms if form and chat.tokenizer.unk_token_id not in form)
    if not sequences:
        raise ModelError(
            f"expected a banned text that this tokenizer can encode, got {list(decoding.banned)!r:.80}; choose others, "
            "such as the first word of this model's refusals"
        )
    ends = tuple((token,) for token in sorted(stop_ids)) if decoding.ban_end else ()
    return BannedTokens((*sequences, *ends), decoding.steps, decoding.top_k)


def banned_next(generated: Sequence[int], sequences: Sequence[tuple[int, ...]]) -> set[int]:
    """Return the tokens that would complete a banned sequence after the generated tokens.

    >>> banned_next([7, 1], [(5,), (1, 2), (7, 3), (7, 1, 4)])
    {2, 4, 5}
    """
    return {
        last
        for *before, last in sequences
        if len(before) <= len(generated) and list(generated[len(generated) - len(before) :]) == before
    }


def next_tokens(
    logits: Float[Tensor, "row vocab"],
    rows: Sequence[tuple[Sequence[int], BannedTokens | None]] | None,
    forcing: RefusalForcing | None = None,
    prefilled: Sequence[int] | None = None,
    draws: TokenDraws | None = None,
) -> list[int]:
    """Return the next token of each row: the most likely token that is not banned; `_NOT_FINITE` if there is none.

    `rows` holds each row's generated tokens and banned tokens; None if no row has banned tokens and none is forced.
    With `draws`, the token is drawn from the distribution of those that are not banned. With `forcing`, a refusal token
    replaces it at an alarm, by the model's own probabilities; a banned one is never forced. `prefilled` is the number
    of tokens of each row's answer that its prompt has.
    """
    # max returns the first of ties, as argmax does, which is three to five times slower on a CPU (LOG.md, 17). It is
    # finite unless a logit is NaN or infinite, or all are -inf. Marked on the device, so that one copy fetches both.
    largest = logits.max(dim=-1)
    bans = {place: (generated, one) for place, (generated, one) in enumerate(rows or ()) if _is_active(one, generated)}
    banned = {place: banned_next(generated, one.sequences) for place, (generated, one) in bans.items() if one}
    widths = {place: one.top_k for place, (_, one) in bans.items() if one}
    picked = largest.indices if draws is None else sample_tokens(without_banned(logits, banned, widths), draws)
    chosen: list[int] = picked.where(largest.values.isfinite(), _NOT_FINITE).tolist()
    for place, tokens in banned.items() if draws is None else ():
        if chosen[place] in tokens:
            width = min(widths[place] or len(tokens) + 1, logits.shape[-1])
            ranked: list[int] = logits[place].float().topk(width).indices.tolist()
            chosen[place] = next((token for token in ranked if token not in tokens), chosen[place])
    if forcing is None or rows is None:
        return chosen
    generated = [tokens for tokens, _ in rows]
    positions = [len(tokens) + n for tokens, n in zip(generated, prefilled or [0] * len(rows), strict=True)]
    forced = forced_tokens(logits, generated, forcing, positions=positions, banned=banned)
    return [
        token if token == _NOT_FINITE or refusal is None else refusal
        for token, refusal in zip(chosen, forced, strict=True)
    ]


def _is_active(bans: BannedTokens | None, generated: Sequence[int]) -> bool:
    return bans is not None and (bans.steps is None or len(generated) < bans.steps)


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    banned: Sequence[BannedTokens | None] | None = None,
    prefixes: Sequence[Prefix | None] | None = None,
    forcing: RefusalForcing | None = None,
    prefilled: Sequence[int] | None = None,
    draws: Draws | None = None,
) -> Iterator[GeneratedRow]:
    """Yield each row's generated tokens when the row ends; the others continue in a smaller batch.

    On a GPU ended rows stay in the batch, unread, until a quarter of it has ended.

    By default decoding is greedy. Of equally likely tokens the first is chosen, as in `model.generate`.

    Args:
        model: Causal language model.
        prompts: Token ids of each prompt.
        max_new_tokens: Maximum number of generated tokens.
        stop_ids: Tokens that end a row; they are not part of the output.
        banned: Banned tokens of each row.
        prefixes: Shared prefix of each row, or None for a row without one (see `find_prefixes`).
        forcing: The refusal tokens to force at alarms.
        prefilled: Number of tokens of each answer that its prompt has; None: none.
        draws: How tokens are drawn; None: the most likely one is chosen.

    Raises:
        NonFiniteLogitsError: the logits of a row are NaN or infinite.
    """
    logits, cache, mask = prefill(model, prompts, prefixes)
    live = list(range(len(prompts)))
    token_ids: list[list[int]] = [[] for _ in prompts]
    ended: set[int] = set()
    bans = banned or [None] * len(prompts)
    while True:
        plain = banned is None and forcing is None
        histories = None if plain else [(token_ids[row], None if row in ended else bans[row]) for row in live]
        starts = None if prefilled is None else [prefilled[row] for row in live]
        chosen = next_tokens(logits, histories, forcing, starts, _next_draws(draws, live, token_ids))
        running = [(place, row) for place, row in enumerate(live) if row not in ended]
        for place, row in running:
            if chosen[place] == _NOT_FINITE:
                raise NonFiniteLogitsError(row)
        for place, row in running:
            if chosen[place] in stop_ids:
                ended.add(row)
                yield GeneratedRow(row, token_ids[row], "eos")
                continue
            token_ids[row].append(chosen[place])
            if len(token_ids[row]) == max_new_tokens:
                ended.add(row)
                yield GeneratedRow(row, token_ids[row], "length")
        unfinished = [place for place, row in enumerate(live) if row not in ended]
        if not unfinished:
            return
        if len(live) - len(unfinished) > finished_share(mask.device) * len(live):
            mask = select_rows(unfinished, mask=mask, cache=cache)
            live, chosen = [live[place] for place in unfinished], [chosen[place] for place in unfinished]
        input_ids = torch.tensor(chosen, device=mask.device).clamp(min=0)[:, None]  # of an ended row: any token
        mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
        output = forward(model, input_ids=input_ids, mask=mask, cache=cache, logits_to_keep=1)
        logits, cache = output.logits[:, -1], output.past_key_values


def _next_draws(draws: Draws | None, rows: Sequence[int], token_ids: Sequence[Sequence[int]]) -> TokenDraws | None:
    if draws is None:
        return None
    uniforms = [uniform(draws.seeds[row], len(token_ids[row])) for row in rows]
    return TokenDraws(draws.temperature, draws.top_p, uniforms)
