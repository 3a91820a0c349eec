"""Log-probabilities of continuations, and the probability of a refusal token at each of their positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isnan
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from derta.chat import Turn
from derta.engines.batching import NonFiniteLogitsError, forward, pad, select_rows
from derta.engines.capacity import max_logits as max_logits_of
from derta.engines.prefix_cache import Prefix, prefill


class RowScores(NamedTuple):
    """Scores of row `row` of a batch.

    `log_probs` has a value in nats for each token, `refusal_probs` one for each position and one after the last token.
    So has `margins`, if it is wanted: the largest logit of the other tokens minus that of the refusal tokens.
    """

    row: int
    log_probs: list[float]
    refusal_probs: list[float]
    margins: list[float]


class _ScoreAccumulator:
    """Accumulator of each row's scores over chunks of positions."""

    def __init__(
        self, turns: Sequence[Turn], refusal_ids: Sequence[int], device: torch.device, *, margins: bool
    ) -> None:
        self._following = [[*turn.response_ids, 0] for turn in turns]
        self._refusal_ids = torch.tensor(refusal_ids, dtype=torch.long, device=device)
        self._log_probs: list[list[float]] = [[] for _ in turns]
        self._refusal_probs: list[list[float]] = [[] for _ in turns]
        self._margins: list[list[float]] | None = [[] for _ in turns] if margins else None

    def add(
        self, logits: Float[Tensor, "position vocab"], rows: Sequence[int], *, begin: int, counts: Sequence[int]
    ) -> None:
        """Add logits: `counts[i]` positions of each `rows[i]`, concatenated, from position `begin`."""
        spans = [self._following[row][begin : begin + n] for row, n in zip(rows, counts, strict=True)]
        next_ids = torch.tensor([token for span in spans for token in span], device=logits.device)
        exact = logits.float()
        total = exact.logsumexp(dim=-1)
        # NaN, so that infinite logits give no finite score either; `result` checks the numbers after their copy
        total = total.where(total.isfinite(), torch.nan)
        log_probs = (exact.gather(-1, next_ids[:, None])[:, 0] - total).split(list(counts))
        refusal_probs = (exact[:, self._refusal_ids] - total[:, None]).exp().sum(dim=-1).split(list(counts))
        for row, row_log_probs, row_refusal_probs in zip(rows, log_probs, refusal_probs, strict=True):
            self._log_probs[row] += row_log_probs.tolist()
            self._refusal_probs[row] += row_refusal_probs.tolist()
        if self._margins is not None:
            for row, values in zip(rows, _margins(exact, self._refusal_ids).split(list(counts)), strict=True):
                self._margins[row] += values.tolist()

    def result(self, row: int) -> RowScores:
        """Return the row's scores; the position after the last token has only a refusal probability.

        Raises:
            NonFiniteLogitsError: logits of the row are NaN or infinite.
        """
        # the last log-probability has no meaning, but is NaN if the logits are
        if any(map(isnan, self._log_probs[row])):
            raise NonFiniteLogitsError(row)
        margins = [] if self._margins is None else self._margins[row]
        return RowScores(row, self._log_probs[row][:-1], self._refusal_probs[row], margins)


def _margins(
    logits: Float[Tensor, "position vocab"], refusal_ids: Int[Tensor, " refusal"]
) -> Float[Tensor, " position"]:
    """Return the largest logit of the other tokens minus that of the refusal tokens, at each position."""
    largest = logits.topk(len(refusal_ids) + 1)
    is_refusal = torch.isin(largest.indices, refusal_ids)
    other = largest.values.masked_fill(is_refusal, -torch.inf).max(dim=-1).values
    return other - logits[:, refusal_ids].max(dim=-1).values


@torch.inference_mode()
def score(
    model: Any,
    turns: Sequence[Turn],
    *,
    refusal_ids: Sequence[int],
    max_logits: int | None = None,
    prefixes: Sequence[Prefix | None] | None = None,
    margins: bool = False,
) -> Iterator[RowScores]:
    """Yield the scores of each response of a batch of turns, when the row ends.

    Prompts are padded on the left and responses on the right, so that all responses begin in one column. They are
    computed in chunks of columns, with at most `max_logits` logits in memory. Finished rows leave the batch.

    Args:
        model: Causal language model.
        turns: Encoded prompts with their responses.
        refusal_ids: Refusal tokens, of which the probabilities are summed.
        max_logits: Maximum number of logits in memory; None: that of the device.
        prefixes: Shared prefix of each prompt, or None for a prompt without one (see `find_prefixes`).
        margins: Return the margins of the refusal tokens too; their logits must be finite.

    Raises:
        NonFiniteLogitsError: the logits of a row are NaN or infinite.
    """
    max_logits = max_logits or max_logits_of(model.device)
    live, begin = list(range(len(turns))), 0
    tally = _ScoreAccumulator(turns, refusal_ids, model.device, margins=margins)
    logits, cache, mask = prefill(model, [turn.prompt_ids for turn in turns], prefixes)
    tally.add(logits, live, begin=0, counts=[1] * len(live))
    while True:
        unfinished = [place for place, row in enumerate(live) if len(turns[row].response_ids) > begin]
        yield from (tally.result(row) for row in live if len(turns[row].response_ids) <= begin)
        if not unfinished:
            return
        if len(unfinished) < len(live):
            mask = select_rows(unfinished, mask=mask, cache=cache)
            live = [live[place] for place in unfinished]
        width = max(1, max_logits // (len(live) * logits.shape[-1]))
        spans = [turns[row].response_ids[begin : begin + width] for row in live]
        chunk = pad(spans, side="right", device=mask.device)
        mask = torch.cat([mask, chunk.mask], dim=1)
        output = forward(model, input_ids=chunk.input_ids, mask=mask, cache=cache, logits_to_keep=0)
        counts: list[int] = chunk.mask.sum(dim=1).tolist()
        tally.add(output.logits[chunk.mask.bool()], live, begin=begin + 1, counts=counts)
        begin += chunk.mask.shape[1]
