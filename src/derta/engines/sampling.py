"""Sampling of next tokens: temperature, nucleus, banned tokens, and random numbers that no batch changes.

The number that draws token t of a reply is a hash of the reply's seed and t. It is the position at which the token is
looked up in the cumulative distribution, in the order of token ids, so a reply is the same in every batch, as far as
the batch does not change the logits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

_TOP = 1024
"""Number of most likely tokens that mostly hold the nucleus; to sort a whole vocabulary takes far longer."""


class Draws(NamedTuple):
    """How the tokens of a batch are drawn: the temperature, the nucleus, and the random seed of each row."""

    temperature: float
    top_p: float
    seeds: tuple[int, ...]


class TokenDraws(NamedTuple):
    """How the next token of each row is drawn: `uniforms` are random numbers in [0, 1)."""

    temperature: float
    top_p: float
    uniforms: Sequence[float]


def uniform(seed: int, position: int) -> float:
    """Return the random number in [0, 1) for a token of a reply.

    >>> 0 <= uniform(7, 0) < 1, uniform(7, 0) == uniform(7, 0) != uniform(7, 1)
    (True, True)
    """
    digest = blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53


def sample_tokens(logits: Float[Tensor, "row vocab"], draws: TokenDraws) -> Int[Tensor, " row"]:
    """Draw the next token of each row; that of a row with NaN or infinite logits is arbitrary.

    >>> sample_tokens(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), TokenDraws(1.0, 1.0, [0.4, 0.6])).tolist()
    [0, 1]
    >>> sample_tokens(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), TokenDraws(1.0, 0.5, [0.99, 0.0])).tolist()
    [0, 1]
    """
    probabilities = (logits.float() / draws.temperature).softmax(dim=-1).double()
    if draws.top_p < 1:
        probabilities = nucleus(probabilities, draws.top_p)
    cumulative = probabilities.cumsum(dim=-1)
    total = cumulative[:, -1:].contiguous()
    points = torch.tensor(draws.uniforms, dtype=torch.float64, device=logits.device)[:, None] * total
    # the last token with a probability is the first at which the sum is reached
    last = torch.searchsorted(cumulative, total)
    drawn = torch.searchsorted(cumulative, points, right=True)
    return torch.minimum(drawn, last)[:, 0].clamp(max=logits.shape[-1] - 1)


def nucleus(probabilities: Float[Tensor, "row vocab"], top_p: float) -> Float[Tensor, "row vocab"]:
    """Return the probabilities of the fewest most likely tokens that sum to `top_p` or more, and 0 for the others.

    Of equally likely tokens the first is kept.

    >>> nucleus(torch.tensor([[0.1, 0.4, 0.3, 0.2]]), 0.6).tolist()[0][::2]
    [0.0, 0.30000001192092896]

    Source: Holtzman et al. 2020, equation 2.
    """
    values = probabilities.topk(min(_TOP, probabilities.shape[-1]), dim=-1).values
    if (values.sum(dim=-1) < top_p).any():
        values = probabilities.sort(dim=-1, descending=True).values
    count = ((values.cumsum(dim=-1) - values) < top_p).sum(dim=-1, keepdim=True)
    least = values.gather(-1, count - 1)
    equal = probabilities == least  # of these, as many as the nucleus has room for
    room = count - (probabilities > least).sum(dim=-1, keepdim=True)
    return probabilities.where((probabilities > least) | (equal & (equal.cumsum(dim=-1) <= room)), 0.0)


def without_banned(
    logits: Float[Tensor, "row vocab"], banned: Mapping[int, Collection[int]], top_k: Mapping[int, int | None]
) -> Float[Tensor, "row vocab"]:
    """Return the logits with only the candidates of `Decoding` left in the rows that have banned tokens.

    Args:
        logits: Logits of the next token.
        banned: Banned tokens of rows, by row.
        top_k: Number of candidates of the same rows; None: all tokens.
    """
    if not banned:
        return logits
    logits = logits.clone()
    for row, tokens in banned.items():
        width = min(top_k[row] or logits.shape[-1], logits.shape[-1])
        ranked = logits[row].float().topk(width).indices
        ids = torch.tensor(sorted(tokens), dtype=torch.long, device=logits.device)
        candidates = ranked[~torch.isin(ranked, ids)]
        if not len(candidates):  # as in greedy decoding
            candidates = ranked[:1]
        kept = logits[row, candidates].clone()
        logits[row] = -torch.inf
        logits[row, candidates] = kept
    return logits
