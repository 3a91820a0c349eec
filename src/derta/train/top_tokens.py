"""Most probable tokens at the labelled positions, in place of losses: the base model's part of the anchor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from derta.data.train_row import Anchor
from derta.train.cross_entropy import MAX_CHUNK_BYTES
from derta.train.head import Head


def top_tokens(
    project: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "label hidden"],
    *,
    top_k: int,
    head: Head,
    vocab: int,
) -> Anchor:
    """Return the most probable tokens at each position and their probabilities, one chunk of logits at a time.

    >>> logits = torch.tensor([[0.0, 1.0, 0.5]]).log()
    >>> found = top_tokens(lambda states: states, logits, top_k=2, head=Head(), vocab=3)
    >>> found.ids.tolist(), [round(float(one), 3) for one in found.probs[0]]
    ([[1, 2]], [0.667, 0.333])

    Args:
        project: Computes the head's outputs of hidden states.
        hidden: Hidden states of the positions.
        top_k: Number of tokens.
        head: Scale and soft cap of the logits.
        vocab: Size of the vocabulary.
    """
    ids = torch.empty(len(hidden), top_k, dtype=torch.long, device=hidden.device)
    probs = torch.empty(len(hidden), top_k, device=hidden.device)
    size = max(1, MAX_CHUNK_BYTES // (4 * vocab))
    for start in range(0, max(1, len(hidden)), size):  # once without positions: other processes may wait for the head
        part = slice(start, start + size)
        logits = head(project(hidden[part]))
        values, ids[part] = logits.topk(top_k, dim=-1)
        probs[part] = (values - logits.logsumexp(dim=-1, keepdim=True)).exp()
    return Anchor(ids, probs)
