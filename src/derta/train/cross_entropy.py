"""Fused linear cross-entropy: losses and gradients at labelled positions, one block of the vocabulary at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from derta.errors import ModelError
from derta.train.entries import NO_EXTRAS, Entries, Extras, entry_terms, set_entry_gradients
from derta.train.gradients import InPlaceGradient
from derta.train.head import Head

MAX_CHUNK_BYTES = 2**29
"""Maximum bytes of logits in memory, in the compute dtype: a thousand positions of Gemma's vocabulary in bf16."""

BLOCK_SCORES = 2**21
"""Scores of a block on a CPU: four megabytes in bf16, the second-level caches of two cores."""


class _Projection(NamedTuple):
    """Head weights; on a CPU a block of them is cast to the compute dtype when it is used."""

    matrix: Float[Tensor, "vocab hidden"]
    bias: Float[Tensor, " vocab"] | None
    head: Head
    dtype: torch.dtype

    def part(self, rows: slice | Int[Tensor, " row"]) -> Float[Tensor, "part hidden"]:
        """Return some rows of the weight matrix in the compute dtype."""
        return self.matrix[rows].to(self.dtype)

    def scores(
        self, states: Float[Tensor, "position hidden"], rows: slice | Int[Tensor, " row"]
    ) -> Float[Tensor, "position part"]:
        """Return the head's outputs for part of the vocabulary, in the states' dtype, before scale and soft cap."""
        return nn.functional.linear(states, self.part(rows), None if self.bias is None else self.bias[rows])

    def at(
        self, states: Float[Tensor, "position hidden"], targets: Int[Tensor, " position"]
    ) -> Float[Tensor, " position"]:
        """Return the logit of each position's target."""
        scores = (states.float() * self.part(targets).float()).sum(dim=-1)
        return self.head(scores if self.bias is None else scores + self.bias[targets].float())

    def blocks(self, positions: int) -> list[slice]:
        """Return slices of the vocabulary whose scores fit in a CPU's cache; on other devices, one slice."""
        vocab = len(self.matrix)
        if self.matrix.device.type != "cpu" or self.dtype == torch.float16:
            return [slice(0, vocab)]
        width = max(64, BLOCK_SCORES // max(1, positions) // 64 * 64)
        return [slice(start, min(start + width, vocab)) for start in range(0, vocab, width)]


class _SoftmaxPass(NamedTuple):
    """Result of one pass over the vocabulary, with e = exp(logit - shift).

    Attributes:
        blocks: Slices of the vocabulary, and e times the head's slope in each, without the targets, or the entries.
        others: Sum of e over these tokens.
        sums: Sum of e over all tokens.
        of_target: e of the target; 0 with entries.
        at_entries: Logits of the entries, less the shift.
    """

    blocks: list[tuple[slice, Tensor]]
    others: Float[Tensor, " position"]
    sums: Float[Tensor, " position"]
    of_target: Float[Tensor, " position"]
    at_entries: Float[Tensor, " entry"] | None


class LabelCrossEntropy(torch.autograd.Function):
    """Cross-entropy by position that computes gradients in the forward, so that the backward needs no stored logits.

    With e = exp(logit - shift) and s = sum(e), the loss is log(s) - log(e_target), and its gradient by the logits is
    (e - s * [target]) / s. The division by s is applied to the small factors of the two matrix products that follow.
    So a logit takes part only in its product, the shift, the exponential and the sum, block by block in a cache.

    With `Extras`, sets of targets, a margin and the KL divergence from a base model are computed in the same pass over
    the vocabulary; `entries` has their formulas.
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
        gradient: InPlaceGradient | None,
        extras: Extras = NO_EXTRAS,
    ) -> tuple[Float[Tensor, ""], *tuple[Float[Tensor, " position"], ...]]:
        """Return the weighted sum of the losses, the losses, the refusal tokens' probabilities, and the divergences.

        The weight's gradient is added to `gradient`, if it is not None, and returned by the backward otherwise.
        """
        matrix = weight if weight.device.type == "cpu" else weight.to(dtype)
        projection = _Projection(matrix, None if bias is None else bias.to(dtype), head, dtype)
        grad_hidden, grad_weight, is_new = torch.empty_like(hidden), None, True
        if ctx.needs_input_grad[1]:
            grad_weight, is_new = gradient.get() if gradient else (torch.empty_like(weight), True)
            if is_new and not len(targets):
                grad_weight.zero_()
        grad_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        found = tuple(torch.empty(len(targets), dtype=torch.float32, device=hidden.device) for _ in range(3))
        size = max(1, MAX_CHUNK_BYTES // (len(weight) * dtype.itemsize))
        for start in range(0, len(targets), size):
            part = slice(start, start + size)
            states = hidden[part].to(dtype)
            *values, grad_hidden[part] = _chunk(
                projection, states, targets[part], weights=weights[part], refusal_ids=refusal_ids,
                extras=extras.of(part, num_labels=len(targets)),
                grad_weight=grad_weight, grad_bias=grad_bias, overwrite=is_new and start == 0,
            )  # fmt: skip
            for whole, value in zip(found, values, strict=True):
                whole[part] = value
        ctx.grads = (grad_hidden, None if gradient else grad_weight, grad_bias)
        ctx.added = gradient is not None
        ctx.mark_non_differentiable(*found)
        total = (found[0] * weights).sum()
        if extras.entries is not None:
            total += (found[2] * extras.entries.anchor_weights).sum()
        return total, *found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients by the loss's gradient, in place; on a CPU a factor of 1 is skipped."""
        computed, ctx.grads = ctx.grads, ()
        if grads[0].device.type != "cpu" or float(grads[0]) != 1.0:
            if ctx.added:
                raise ModelError(
                    "expected an unscaled loss, because the head's gradient was already added; scale the weights"
                )
            for grad in computed:
                if grad is not None:
                    grad.mul_(grads[0].to(grad.dtype))
        return (*computed, *[None] * 7)


def _chunk(
    projection: _Projection,
    states: Float[Tensor, "position hidden"],
    targets: Int[Tensor, " position"],
    *,
    weights: Float[Tensor, " position"],
    refusal_ids: Int[Tensor, " refusal"],
    extras: Extras,
    grad_weight: Float[Tensor, "vocab hidden"] | None,
    grad_bias: Float[Tensor, " vocab"] | None,
    overwrite: bool,
) -> tuple[Tensor, Tensor, Tensor, Float[Tensor, "position hidden"]]:
    """Return losses, refusal probabilities, divergences and the gradient by the states of some positions.

    Adds to the head's gradients; with `overwrite` the weight's gradient is assigned instead.
    """
    at_target = projection.at(states, targets)
    softmax, shift = _exponentials(projection, states, targets, at_target, extras.entries)
    refusals = projection.head(projection.scores(states, refusal_ids))
    refusing = ((refusals - shift[:, None]).exp() / softmax.sums[:, None]).sum(dim=1)
    if extras.entries is None:
        # an exponential too small for its dtype is inexact or 0, but its logarithm can be computed
        log_target = torch.where(softmax.of_target > 1e-30, softmax.of_target.log(), at_target - shift)
        losses, divergences = softmax.sums.log() - log_target, torch.zeros_like(weights)
        counted = extras.above_floor(losses)
        if counted is not None:
            losses, weights = losses * counted, weights * counted
        divide = states.dtype == torch.float16  # sums overflow in fp16, so the blocks are divided instead
        _set_target_gradients(softmax, targets, slope=projection.head.slope(at_target), divide=divide)
        factor = weights if divide else weights / softmax.sums
    else:
        at_entries: Any = softmax.at_entries
        terms = entry_terms(at_entries, softmax.others, extras=extras, weights=weights)
        losses, divergences, factor = terms.losses, terms.divergences, terms.weights
        slopes = projection.head.slope(at_entries + shift[extras.entries.labels])
        set_entry_gradients(softmax.blocks, extras.entries, dense=terms.dense, values=terms.values * slopes)
    factor = factor[:, None]
    scaled = (states.float() * factor).to(states.dtype)
    grad_states = torch.zeros(states.shape, dtype=torch.float32, device=states.device)
    for place, block in softmax.blocks:
        grad_states += block @ projection.part(place)
        if grad_weight is not None:
            step = block.T @ scaled
            if overwrite:
                grad_weight[place] = step
            else:
                grad_weight[place].add_(step)
        if grad_bias is not None:
            grad_bias[place] += (block.float() * factor).sum(dim=0)
    return losses, refusing, divergences, grad_states.mul_(factor)


def _exponentials(
    projection: _Projection,
    states: Float[Tensor, "position hidden"],
    targets: Int[Tensor, " position"],
    at_target: Float[Tensor, " position"],
    entries: Entries | None,
) -> tuple[_SoftmaxPass, Float[Tensor, " position"]]:
    """Compute exponentials with a shift from the first block and the targets; if that overflows, with the true maximum.

    Returns:
        The pass over the vocabulary, and the shift of each position.
    """
    places = projection.blocks(len(states))
    first = projection.scores(states, places[0])

    def highest(scores: Float[Tensor, "position part"]) -> Float[Tensor, " position"]:
        return projection.head(scores.amax(dim=-1))  # logits increase with scores: scales are positive

    shift = torch.maximum(highest(first), at_target).to(states.dtype).float()
    softmax = _one_pass(projection, states, targets, places, shift, entries=entries, first=first)
    if len(places) > 1 and not bool(torch.isfinite(softmax.sums).all()):
        for place in places[1:]:
            shift = torch.maximum(shift, highest(projection.scores(states, place))).to(states.dtype).float()
        softmax = _one_pass(projection, states, targets, places, shift, entries=entries)
    return softmax, shift


def _one_pass(
    projection: _Projection,
    states: Float[Tensor, "position hidden"],
    targets: Int[Tensor, " position"],
    places: list[slice],
    shift: Float[Tensor, " position"],
    *,
    entries: Entries | None,
    first: Float[Tensor, "position part"] | None = None,
) -> _SoftmaxPass:
    """Run one pass over the vocabulary.

    Args:
        projection: Head.
        states: Hidden states.
        targets: Token ids of the labels.
        places: Blocks of the vocabulary.
        shift: Subtracted from a position's logits.
        entries: Entries that the blocks and their sums leave out, instead of the targets.
        first: Scores of the first block, if already computed; they are overwritten.
    """
    blocks: list[tuple[slice, Tensor]] = []
    others, of_target = torch.zeros_like(shift), torch.zeros_like(shift)
    sum_dtype = None if states.dtype == torch.bfloat16 else torch.float32  # bf16 sums accumulate in fp32, then round
    plain, head = projection.head == Head(), projection.head
    at_entries: list[Tensor] = []
    inside_blocks = [slice(0, 0)] * len(places) if entries is None else entries.within(places)
    for place, entry_part in zip(places, inside_blocks, strict=True):
        scores = projection.scores(states, place) if first is None else first
        first = None
        logits = scores if plain else head(scores)
        slope = None if plain else head.slope(logits)
        logits.sub_(shift.to(logits.dtype)[:, None])
        # the target is excluded, so that rounding a block's sum keeps the relative precision of a small 1 - p
        if entries is None:
            block = logits.exp_()
            inside, column = _columns(targets, place)
            at_column = block.gather(1, column)
            of_target = torch.where(inside, at_column.squeeze(1).float(), of_target)
            block.scatter_(1, column, at_column.masked_fill_(inside[:, None], 0))
        else:
            index = entries.labels[entry_part], entries.ids[entry_part] - place.start
            at_entries.append(logits[index].float())
            block = logits.exp_().index_put_(index, logits.new_zeros(()))
        others += block.sum(dim=-1, dtype=sum_dtype)
        blocks.append((place, block if slope is None else (block * slope).to(states.dtype)))
    if entries is None:
        return _SoftmaxPass(blocks, others, others + of_target, of_target, None)
    found = torch.cat(at_entries)
    return _SoftmaxPass(blocks, others, others + entries.sums(found.exp()), of_target, found)


def _columns(
    targets: Int[Tensor, " position"], place: slice
) -> tuple[Bool[Tensor, " position"], Int[Tensor, "position 1"]]:
    """Return which targets are in a block, and their columns in it (any valid column for the others)."""
    column = targets - place.start
    width = place.stop - place.start
    return (column >= 0) & (column < width), column.clamp(0, width - 1)[:, None]


def _set_target_gradients(
    softmax: _SoftmaxPass, targets: Int[Tensor, " position"], *, slope: Float[Tensor, " position"], divide: bool
) -> None:
    """Turn the blocks into gradients by the scores, in place; `divide` also divides them by the sums."""
    of_target = -softmax.others * slope
    if divide:
        of_target = of_target / softmax.sums
    for place, block in softmax.blocks:
        if divide:
            block.div_(softmax.sums[:, None])  # in fp32: a sum over a large vocabulary can be infinite in fp16
        inside, column = _columns(targets, place)
        previous = block.gather(1, column).squeeze(1)
        block.scatter_(1, column, torch.where(inside, of_target.to(block.dtype), previous)[:, None])
