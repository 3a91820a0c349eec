"""Batches of rows: which rows share a forward pass, how they are padded, and how they leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

MAX_LOGITS = 2**26
"""Logits held at once: 0.25 GB in float32, which is 256 positions of a vocabulary of 262,144."""


def token_batches(
    lengths: Sequence[int], *, max_batch_tokens: int, max_rows: int, together: Sequence[Sequence[int]] = ()
) -> Iterator[list[int]]:
    """Yield the indices of `lengths` in batches, the longest first so that too little memory shows at once.

    A batch of n rows costs n times its longest row; a row longer than the budget goes alone. Rows that are named
    `together` come in one stretch, at the place of the longest of them.

    >>> list(token_batches([3, 9, 4, 8], max_batch_tokens=18, max_rows=8))
    [[1, 3], [2, 0]]
    >>> list(token_batches([3, 9, 4, 8], max_batch_tokens=18, max_rows=8, together=[[0, 3]]))
    [[1, 3], [0, 2]]
    """
    places = {index: (-lengths[index], index) for index in range(len(lengths))}
    for group in together:
        places |= dict.fromkeys(group, min(places[index] for index in group))
    batch: list[int] = []
    longest = 0
    for index in sorted(places, key=lambda i: (places[i], -lengths[i])):
        longest = max(longest, lengths[index])
        if batch and (len(batch) == max_rows or (len(batch) + 1) * longest > max_batch_tokens):
            yield batch
            batch, longest = [], lengths[index]
        batch.append(index)
    if batch:
        yield batch


class PaddedBatch(NamedTuple):
    """Rows of one length; the mask is 0 at padding."""

    input_ids: Int[Tensor, "row token"]
    mask: Int[Tensor, "row token"]


def pad(rows: Sequence[Sequence[int]], *, side: Literal["left", "right"], device: torch.device) -> PaddedBatch:
    """Pad rows of ids to the longest of them, with id 0: masked, it is never read, so no pad token is needed."""
    longest = max(len(row) for row in rows)
    input_ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), longest) if side == "left" else slice(0, len(row))
        input_ids[i, place] = torch.tensor(row, dtype=torch.long)
        mask[i, place] = 1
    return PaddedBatch(input_ids.to(device), mask.to(device))


def forward(
    model: Any, *, input_ids: Int[Tensor, "row new"], mask: Int[Tensor, "row token"], cache: Any, logits_to_keep: int
) -> Any:
    """Run the model on new tokens after the cached ones; `mask` covers both. `logits_to_keep=0` keeps them all."""
    positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
    return model(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=logits_to_keep,
    )


def select_rows(places: Sequence[int], *, mask: Int[Tensor, "row token"], cache: Any) -> Int[Tensor, "kept token"]:
    """Drop all but the rows at `places` from a batch's cache, in place, and return the mask of those that stay."""
    kept = torch.tensor(places, dtype=torch.long, device=mask.device)
    cache.reorder_cache(kept)
    return mask[kept]
