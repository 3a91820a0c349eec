"""Gradients of the embeddings added where the optimizer reads them, with no dense copy for autograd to add up.

A vocabulary of 262,144 has a gradient of 0.67 GB. Left to autograd, each micro-batch writes one for the embedding,
which is zero but for a few hundred rows, one for the head, and reads and writes both again to add them up.
"""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class InPlaceGradient:
    """The gradient of one weight, where the optimizer reads it."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    def take(self) -> tuple[Tensor, bool]:
        """The gradient to add to, and whether it is new: it then holds nothing yet, and must be filled."""
        is_new = self._weight.grad is None
        if self._weight.grad is None:
            self._weight.grad = torch.empty_like(self._weight)
        return self._weight.grad, is_new

    def add_rows(self, rows: Int[Tensor, " row"], values: Float[Tensor, "row hidden"]) -> None:
        """Add to the gradient of some rows of the weight."""
        grad, is_new = self.take()
        if is_new:
            grad.zero_()
        grad.index_add_(0, rows, values.to(grad.dtype))


class _Rows(torch.autograd.Function):
    """Some rows of a weight, whose gradient is added to the weight's own."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Float[Tensor, "vocab hidden"],
        rows: Int[Tensor, " row"],
        own: InPlaceGradient,
        padding: int | None,
    ) -> Float[Tensor, "row hidden"]:
        ctx.rows, ctx.own, ctx.padding = rows, own, padding
        return weight[rows]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None, None]:
        [grad] = grads
        if ctx.padding is not None:
            grad = grad.masked_fill((ctx.rows == ctx.padding)[:, None], 0)  # as `nn.Embedding` leaves it
        ctx.own.add_rows(ctx.rows, grad)
        return None, None, None, None


def add_in_place(embedding: nn.Embedding, own: InPlaceGradient) -> None:
    """Make an embedding, of whatever class, add the gradients of the rows that it looked up to their `own`."""
    stock = type(embedding).forward

    def forward(self: nn.Embedding, input: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and self.weight.requires_grad):
            return stock(self, input)
        rows, places = torch.unique(input, return_inverse=True)
        small: Any = copy.copy(self)
        small._parameters = {"weight": _Rows.apply(self.weight, rows, own, self.padding_idx)}
        small.padding_idx = None
        return stock(small, places)

    embedding.forward = MethodType(forward, embedding)
