"""Batching by token budget, padding, eval mode, and a forward pass with a KV cache."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor, nn

from derta.errors import DertaError, EngineError
from derta.records import Prompt

T = TypeVar("T")


class NonFiniteLogitsError(DertaError):
    """Error for NaN or infinite logits in a batch: their most likely token is arbitrary, and their scores are NaN.

    Attributes:
        row: Index of the first such row in the batch.
    """

    def __init__(self, row: int) -> None:
        super().__init__(f"row {row}: expected finite logits, got NaN or infinity")
        self.row = row


def token_batches(
    lengths: Sequence[int], *, max_batch_tokens: int, max_rows: int, together: Sequence[Sequence[int]] = ()
) -> Iterator[list[int]]:
    """Yield batches of indices into `lengths`, longest first, so that an out-of-memory error occurs at the start.

    A batch of n rows costs n times its longest row; a row longer than the budget is a batch by itself. The rows of a
    group in `together` are consecutive, in the position of the longest of them.

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
    """Batch of padded rows with its attention mask, which is 0 at padding."""

    input_ids: Int[Tensor, "row token"]
    mask: Int[Tensor, "row token"]


def pad(rows: Sequence[Sequence[int]], *, side: Literal["left", "right"], device: torch.device) -> PaddedBatch:
    """Pad rows of token ids to the longest row, with id 0: it is masked, so the tokenizer needs no pad token."""
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
    """Run the model on new tokens after the cached ones; `mask` covers both. `logits_to_keep=0` returns all logits."""
    positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
    return model(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=logits_to_keep,
    )


def select_rows(places: Sequence[int], *, mask: Int[Tensor, "row token"], cache: Any) -> Int[Tensor, "selected token"]:
    """Select the rows at `places` in a batch's cache, in place, and return their mask."""
    selected = torch.tensor(places, dtype=torch.long, device=mask.device)
    cache.reorder_cache(selected)
    return mask[selected]


@contextmanager
def eval_mode(model: nn.Module) -> Generator[None]:
    """Set a model in training mode to eval mode within the block, and restore the mode of each module afterwards."""
    training = [module for module in model.modules() if module.training] if model.training else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def in_eval_mode(model: Any, results: Iterator[T], prompts: Sequence[Prompt]) -> Iterator[T]:
    """Yield results of a batch, computed with the model in eval mode; the caller has the model in its original mode.

    Raises:
        EngineError: the logits after a prompt are NaN or infinite; the message names it.
    """
    done = object()
    while True:
        with eval_mode(model):
            try:
                result = next(results, done)
            except NonFiniteLogitsError as error:
                raise EngineError(_non_finite(prompts[error.row], model.dtype)) from error
        if result is done:
            return
        yield result  # pyright: ignore[reportReturnType]


def _non_finite(prompt: Prompt, dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    hint = "the weights are damaged; use an intact copy, or train the model again with a lower learning rate"
    if dtype == torch.float16:
        hint = "float16 overflows in this model; set dtype to bfloat16 or float32"
    return f"prompt {prompt.id!r}: expected finite logits, got NaN or infinity in {name}; {hint}"
