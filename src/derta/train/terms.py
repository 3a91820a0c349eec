"""The losses of a micro-batch by term, as they are added up and logged, and a fault told by row."""

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
    """The gradients' norm, if it is finite; in fp16 the scaler passes over a step whose norm is not.

    Raises:
        NonFiniteLossError: it is not.
    """
    if norm is not None and not args.fp16 and not math.isfinite(float(norm)):
        raise NonFiniteLossError(
            f"step {step}: expected gradients of a finite norm, got {float(norm)}; lower the learning rate"
        )
    return norm


def term_sums(outputs: Any) -> Tensor:
    """Losses by term, labels by term, and the refusal probabilities: no number where a loss does not give them."""
    zeros = torch.zeros(len(TERMS), device=outputs.loss.device)
    sums = zeros if outputs.loss_sums is None else outputs.loss_sums
    counts = zeros if outputs.counts is None else outputs.counts
    refusal = zeros[0] + math.nan if outputs.refusal_sum is None else outputs.refusal_sum
    return torch.cat([sums, counts, refusal[None]]).detach().float()


def by_term(sums: Sequence[float]) -> dict[str, float]:
    """Mean losses of the terms that have labels, and the refusal probability, by the names that are logged."""
    losses, counts, refusal = sums[: len(TERMS)], sums[len(TERMS) : -1], sums[-1]
    found = {f"loss_{term}": total / count for term, total, count in zip(TERMS, losses, counts, strict=True) if count}
    return found | ({"refusal_probability": refusal / counts[-1]} if counts[-1] and not math.isnan(refusal) else {})


def format_error_details(outputs: Any, batch: Batch, step: int) -> str:
    """Tell a loss that is no number, and the rows it came from."""
    got = float(outputs.loss.detach())
    sums = term_sums(outputs)[: len(TERMS)]
    by_term = {term: float(x) for term, x in zip(TERMS, sums, strict=True)}
    return (
        f"step {step}: expected a finite loss, got {got} (sums by term {by_term}) on a micro-batch of "
        f"{batch['input_ids'].numel()} tokens, rows {', '.join(batch['row_ids'])}; lower the learning rate, or use "
        "bf16 instead of fp16"
    )
