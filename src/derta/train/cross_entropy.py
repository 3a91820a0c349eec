"""Losses and gradients of labelled positions without their logits: one pass over the vocabulary, block by block."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from derta.errors import ModelError
from derta.train.gradients import InPlaceGradient
from derta.train.head import Head

MAX_CHUNK_BYTES = 2**29
"""Logits held at a time, in the dtype of the products: a thousand positions of Gemma's vocabulary in bf16."""

BLOCK_SCORES = 2**21
"""Scores worked on at a time on a CPU: four megabytes in bf16, the second-level caches of two cores."""


class _Projection(NamedTuple):
    """A head; on a CPU a part of its matrix takes the dtype of the products when it is used, in a cache."""

    matrix: Float[Tensor, "vocab hidden"]
    bias: Float[Tensor, " vocab"] | None
    head: Head
    dtype: torch.dtype

    def part(self, rows: slice | Int[Tensor, " row"]) -> Float[Tensor, "part hidden"]:
        """Of the matrix, in the dtype of the products."""
        return self.matrix[rows].to(self.dtype)

    def scores(
        self, states: Float[Tensor, "position hidden"], rows: slice | Int[Tensor, " row"]
    ) -> Float[Tensor, "position part"]:
        """Of a part of the vocabulary, in the states' dtype, before the head's scale and cap."""
        return nn.functional.linear(states, self.part(rows), None if self.bias is None else self.bias[rows])

    def at(
        self, states: Float[Tensor, "position hidden"], targets: Int[Tensor, " position"]
    ) -> Float[Tensor, " position"]:
        """The logit of each position's target."""
        scores = (states.float() * self.part(targets).float()).sum(dim=-1)
        return self.head(scores if self.bias is None else scores + self.bias[targets].float())

    def blocks(self, positions: int) -> list[slice]:
        """On a CPU, parts of the vocabulary small enough for their scores to stay in a cache; elsewhere all of it."""
        vocab = len(self.matrix)
        if self.matrix.device.type != "cpu" or self.dtype == torch.float16:
            return [slice(0, vocab)]
        width = max(64, BLOCK_SCORES // max(1, positions) // 64 * 64)
        return [slice(start, min(start + width, vocab)) for start in range(0, vocab, width)]


class _Pass(NamedTuple):
    """A pass over the vocabulary: e = exp(logit - shift) times the head's slope by block, and plain: sums, targets'."""

    blocks: list[tuple[slice, Tensor]]
    others: Float[Tensor, " position"]
    sums: Float[Tensor, " position"]
    of_target: Float[Tensor, " position"]


class LabelCrossEntropy(torch.autograd.Function):
    """Per-position losses whose gradients are worked out in the forward, so that no logits are kept for the backward.

    With e = exp(logit - shift) and s = sum(e), the loss is log(s) - log(e_target), and its gradient by the logits is
    (e - s * [target]) / s. The division is left to the small factors of the two products that follow, so a logit is
    touched only by its product, the shift, the exponential and the sum, block by block in a cache.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes its inputs by position
        ctx: Any,
        hidden: Float[Tensor, "position hidden"],
        weight: Float[Tensor, "vocab hidden"],
        bias: Float[Tensor, " vocab"] | None,
        targets: Int[Tensor, " position"],
        weights: Float[Tensor, " position"],
        refusal_ids: Int[Tensor, " refusal"],
        head: Head,
        dtype: torch.dtype,
        own: InPlaceGradient | None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " position"], Float[Tensor, " position"]]:
        """The weighted sum of the losses, the losses, and the refusal tokens' probabilities.

        The weight's gradient is added to its `own`, if that is given, and returned otherwise.
        """
        matrix = weight if weight.device.type == "cpu" else weight.to(dtype)
        projection = _Projection(matrix, None if bias is None else bias.to(dtype), head, dtype)
        grad_hidden, grad_weight, is_new = torch.empty_like(hidden), None, True
        if ctx.needs_input_grad[1]:
            grad_weight, is_new = own.take() if own else (torch.empty_like(weight), True)
            if is_new and not len(targets):
                grad_weight.zero_()
        grad_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        losses, refusing = (torch.empty(len(targets), dtype=torch.float32, device=hidden.device) for _ in range(2))
        size = max(1, MAX_CHUNK_BYTES // (len(weight) * dtype.itemsize))
        for start in range(0, len(targets), size):
            part = slice(start, start + size)
            states = hidden[part].to(dtype)
            losses[part], refusing[part], grad_hidden[part] = _chunk(
                projection, states, targets[part], weights=weights[part], refusal_ids=refusal_ids,
                grad_weight=grad_weight, grad_bias=grad_bias, put=is_new and start == 0,
            )  # fmt: skip
        ctx.grads = (grad_hidden, None if own else grad_weight, grad_bias)
        ctx.added = own is not None
        ctx.mark_non_differentiable(losses, refusing)
        return (losses * weights).sum(), losses, refusing

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients by the loss's own, in place; on a CPU a factor of 1 saves the pass."""
        kept, ctx.grads = ctx.grads, ()
        if grads[0].device.type != "cpu" or float(grads[0]) != 1.0:
            if ctx.added:
                raise ModelError("expected a loss that is not scaled: the head's gradient has been added already")
            for grad in kept:
                if grad is not None:
                    grad.mul_(grads[0].to(grad.dtype))
        return (*kept, None, None, None, None, None, None)


def _chunk(
    projection: _Projection,
    states: Float[Tensor, "position hidden"],
    targets: Int[Tensor, " position"],
    *,
    weights: Float[Tensor, " position"],
    refusal_ids: Int[Tensor, " refusal"],
    grad_weight: Float[Tensor, "vocab hidden"] | None,
    grad_bias: Float[Tensor, " vocab"] | None,
    put: bool,
) -> tuple[Float[Tensor, " position"], Float[Tensor, " position"], Float[Tensor, "position hidden"]]:
    """Losses, refusal probabilities and the gradient by the states of some positions.

    Adds to the head's gradients; with `put` the weight's is put there instead.
    """
    at_target = projection.at(states, targets)
    found, shift = _exponentials(projection, states, targets, at_target)
    # an exponential too small for its dtype is inexact, or 0; its logarithm is known all the same
    log_target = torch.where(found.of_target > 1e-30, found.of_target.log(), at_target - shift)
    refusals = projection.head(projection.scores(states, refusal_ids))
    refusing = ((refusals - shift[:, None]).exp() / found.sums[:, None]).sum(dim=1)
    divide = states.dtype == torch.float16  # it has no room for sums: there the blocks themselves are divided
    _put_targets(found, targets, slope=projection.head.slope(at_target), divide=divide)
    factor = (weights if divide else weights / found.sums)[:, None]
    scaled = (states.float() * factor).to(states.dtype)
    grad_states = torch.zeros(states.shape, dtype=torch.float32, device=states.device)
    for place, block in found.blocks:
        grad_states += block @ projection.part(place)
        if grad_weight is not None:
            step = block.T @ scaled
            if put:
                grad_weight[place] = step
            else:
                grad_weight[place].add_(step)
        if grad_bias is not None:
            grad_bias[place] += (block.float() * factor).sum(dim=0)
    return found.sums.log() - log_target, refusing, grad_states.mul_(factor)


def _exponentials(
    projection: _Projection,
    states: Float[Tensor, "position hidden"],
    targets: Int[Tensor, " position"],
    at_target: Float[Tensor, " position"],
) -> tuple[_Pass, Float[Tensor, " position"]]:
    """One pass with a shift from the first block and the targets; if that overflows, another with the true maximum."""
    places = projection.blocks(len(states))
    first = projection.scores(states, places[0])

    def highest(scores: Float[Tensor, "position part"]) -> Float[Tensor, " position"]:
        return projection.head(scores.amax(dim=-1))  # logits rise with scores: scales are positive

    shift = torch.maximum(highest(first), at_target).to(states.dtype).float()
    found = _one_pass(projection, states, targets, places, shift, first=first)
    if len(places) > 1 and not bool(torch.isfinite(found.sums).all()):
        for place in places[1:]:
            shift = torch.maximum(shift, highest(projection.scores(states, place))).to(states.dtype).float()
        found = _one_pass(projection, states, targets, places, shift)
    return found, shift


def _one_pass(
    projection: _Projection,
    states: Float[Tensor, "position hidden"],
    targets: Int[Tensor, " position"],
    places: list[slice],
    shift: Float[Tensor, " position"],
    *,
    first: Float[Tensor, "position part"] | None = None,
) -> _Pass:
    """`first`: the first block's scores, if they are known; they are written over."""
    blocks: list[tuple[slice, Tensor]] = []
    others, of_target = torch.zeros_like(shift), torch.zeros_like(shift)
    roomy = None if states.dtype == torch.bfloat16 else torch.float32  # bf16 sums are added up in fp32, then rounded
    plain, head = projection.head == Head(), projection.head
    for place in places:
        scores = projection.scores(states, place) if first is None else first
        first = None
        logits = scores if plain else head(scores)
        slope = None if plain else head.slope(logits)
        block = logits.sub_(shift.to(logits.dtype)[:, None]).exp_()
        inside, column = _columns(targets, place)
        there = block.gather(1, column)
        of_target = torch.where(inside, there.squeeze(1).float(), of_target)
        # without the target, rounding a block's sum leaves even a small 1 - p as exact as any other number
        block.scatter_(1, column, there.masked_fill_(inside[:, None], 0))
        others += block.sum(dim=-1, dtype=roomy)
        blocks.append((place, block if slope is None else (block * slope).to(states.dtype)))
    return _Pass(blocks, others, others + of_target, of_target)


def _columns(
    targets: Int[Tensor, " position"], place: slice
) -> tuple[Bool[Tensor, " position"], Int[Tensor, "position 1"]]:
    """Which targets lie in a block, and their columns there (any column for the others)."""
    column = targets - place.start
    width = place.stop - place.start
    return (column >= 0) & (column < width), column.clamp(0, width - 1)[:, None]


def _put_targets(
    found: _Pass, targets: Int[Tensor, " position"], *, slope: Float[Tensor, " position"], divide: bool
) -> None:
    """Make the blocks gradients by the scores, divided by the sums or still to be, in place."""
    of_target = -found.others * slope
    if divide:
        of_target = of_target / found.sums
    for place, block in found.blocks:
        if divide:
            block.div_(found.sums.to(block.dtype)[:, None])
        inside, column = _columns(targets, place)
        kept = block.gather(1, column).squeeze(1)
        block.scatter_(1, column, torch.where(inside, of_target.to(block.dtype), kept)[:, None])
