"""Losses by term: sums over micro-batches, means for the log, and error messages for non-finite values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TrainingArguments

from derta.data.rows import TERMS
from derta.train.checkpoints import NonFiniteLossError
from derta.train.collator import Batch


def check_norm(norm: Any, *, args: TrainingArguments, step: int) -> Any:
    """Return the gradient norm after validating that it is finite; with fp16 the scaler skips such steps instead.

    Raises:
        NonFiniteLossError: the norm is NaN or infinite.
    """
    if norm is not None and not args.fp16 and not math.isfinite(float(norm)):
        raise NonFiniteLossError(
            f"step {step}: expected a finite gradient norm, got {float(norm)}; lower the learning rate"
        )
    return norm


NUM_SUMS = 2 * len(TERMS) + 3
"""Length of the vector of `term_sums`."""


def term_sums(outputs: Any) -> Tensor:
    """Return one vector: sums of losses by term, labels by term, the sum of refusal probabilities, the anchor's sums.

    A custom loss that does not return one of them gives 0, and NaN for the refusal probabilities.
    """
    zeros = torch.zeros(len(TERMS), device=outputs.loss.device)
    sums = zeros if outputs.loss_sums is None else outputs.loss_sums
    counts = zeros if outputs.counts is None else outputs.counts
    refusal = zeros[0] + math.nan if outputs.refusal_sum is None else outputs.refusal_sum
    anchor = [zeros[0] if value is None else value for value in (outputs.anchor_sum, outputs.anchor_count)]
    return torch.cat([sums, counts, torch.stack([refusal, *anchor])]).detach().float()


def by_term(sums: Sequence[float]) -> dict[str, float]:
    """Return the means by the names in the log: loss of each term with labels, refusal probability, anchor's loss."""
    losses, counts = sums[: len(TERMS)], sums[len(TERMS) : 2 * len(TERMS)]
    refusal, anchor, anchored = sums[2 * len(TERMS) :]
    means = {f"loss_{term}": total / count for term, total, count in zip(TERMS, losses, counts, strict=True) if count}
    rto = counts[TERMS.index("rto")]
    means |= {"refusal_probability": refusal / rto} if rto and not math.isnan(refusal) else {}
    return means | ({"loss_anchor": anchor / anchored} if anchored else {})


def evaluation_sums(outputs: Any, items: Tensor) -> Tensor:
    """Return the loss and its divisor, followed by `term_sums`, as one vector to sum over micro-batches."""
    total = torch.stack([outputs.loss.detach().float(), items.float()])
    return torch.cat([total, term_sums(outputs)])


def evaluation_metrics(sums: Sequence[float], *, prefix: str) -> dict[str, float]:
    """Return an evaluation set's metrics from its sums: the loss of the whole set, and the means by term."""
    total, items, *terms = sums
    metrics = {"loss": total / max(1, items)} | by_term(terms)
    return {f"{prefix}_{name}": value for name, value in metrics.items()}


def format_loss_error(outputs: Any, batch: Batch, step: int) -> str:
    """Format the error message of a loss that is NaN or infinite, with the ids of its rows."""
    loss = float(outputs.loss.detach())
    sums = term_sums(outputs)[: len(TERMS)]
    by_term = {term: float(x) for term, x in zip(TERMS, sums, strict=True)}
    return (
        f"step {step}: expected a finite loss, got {loss} (sums by term {by_term}) on a micro-batch of "
        f"{batch['input_ids'].numel()} tokens, rows {', '.join(batch['row_ids'])}; lower the learning rate, or use "
        "bf16 instead of fp16"
    )
