"""Bounds for comparing floating-point results, derived from the dtype and the length of the sums."""

from __future__ import annotations

from math import sqrt

import torch

LAMBDA = 8


def sum_tolerance(dtype: torch.dtype, terms: int, scale: float = 1.0) -> float:
    """Return how far two results may differ when a processor adds up the same `terms` numbers in another order.

    With u the unit roundoff (half of `eps`), the rounding errors of a sum of n numbers are a random walk: the computed
    sum is within λ √n u Σ|x| of the exact one, except with probability 2 n exp(-λ²/2), which is 1e-10 for λ = 8 and
    thousands of terms. Two computed sums are within twice that. `scale` is Σ|x|, or the largest entry where results
    are compared relative to it. Where one sum feeds the next, `terms` is the length of the whole chain.

    Source: Higham and Mary 2019, A New Approach to Probabilistic Rounding Error Analysis, theorem 2.4.
    """
    return 2 * LAMBDA * sqrt(terms) * torch.finfo(dtype).eps / 2 * scale


def forward_terms(*, hidden: int = 64, intermediate: int = 128, layers: int = 2, vocab: int = 512, tokens: int) -> int:
    """Return the length of the chain of sums from a token to a log-probability; the shapes of `build_model`.

    A layer adds up `hidden` numbers in its queries or keys, their product, its output projection and its gate,
    `tokens` in the softmax and again in the values, and `intermediate` in its last projection; the head adds up
    `hidden`, its softmax `vocab`.
    """
    return layers * (4 * hidden + 2 * tokens + intermediate) + hidden + vocab


def gradient_terms(*, tokens: int) -> int:
    """Return the length of the chain from a token to a gradient: forward, backward, and the sum over `tokens`."""
    return 2 * forward_terms(tokens=tokens) + tokens


def step_tolerance(*, tokens: int = 256, scale: float = 1.0) -> float:
    """Return the bound for losses and gradients of a tiny model in float32.

    In float32 because the stock loss and ours both compute losses in float32, whatever the model's dtype is.
    """
    return sum_tolerance(torch.float32, gradient_terms(tokens=tokens), scale)


def logit_tolerance(logits: torch.Tensor) -> float:
    """Return the bound for a tiny model's float32 logits, or for log-probabilities that follow from them."""
    scale = float(logits.abs().max()) if logits.numel() else 0.0
    return sum_tolerance(torch.float32, forward_terms(tokens=256), scale)


def assert_trained_alike(
    ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], *, learning_rate: float, steps: int
) -> None:
    """Check that weights are equal after some steps of Adam, up to what Adam makes of rounding errors.

    Adam divides a gradient by its size. A weight whose gradient is little but rounding error may therefore step by the
    learning rate either way; such weights are few. Every other weight differs by a small part of the learning rate.
    """
    assert ours.keys() == expected.keys()
    bound = steps * learning_rate
    differences = torch.cat([(ours[name].float() - expected[name].float()).abs().flatten() for name in expected])
    assert float(differences.max()) <= 2 * bound
    assert float((differences > 1e-2 * bound).float().mean()) < 1e-3
