"""Log-probabilities of given continuations, and the probability of a refusal at each position of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from derta.chat import Turn
from derta.engines.batching import MAX_LOGITS, forward, pad, select_rows
from derta.engines.prefix_cache import Prefix, prefill


class RowScores(NamedTuple):
    """Row `row` of a batch: log-probability of each token, and probability of a refusal at each position and after."""

    row: int
    log_probs: list[float]
    refusal_probs: list[float]


class _ScoreAccumulator:
    """Collects each row's numbers, position by position."""

    def __init__(self, turns: Sequence[Turn], refusal_ids: Sequence[int], device: torch.device) -> None:
        self._following = [[*turn.response_ids, 0] for turn in turns]
        self._refusal_ids = torch.tensor(refusal_ids, dtype=torch.long, device=device)
        self._log_probs: list[list[float]] = [[] for _ in turns]
        self._refusal_probs: list[list[float]] = [[] for _ in turns]

    def add(
        self, logits: Float[Tensor, "position vocab"], rows: Sequence[int], *, begin: int, counts: Sequence[int]
    ) -> None:
        """Add the logits of `counts[i]` positions of `rows[i]` in turn, from position `begin` on."""
        spans = [self._following[row][begin : begin + n] for row, n in zip(rows, counts, strict=True)]
        next_ids = torch.tensor([token for span in spans for token in span], device=logits.device)
        exact = logits.float()
        total = exact.logsumexp(dim=-1)
        log_probs = (exact.gather(-1, next_ids[:, None])[:, 0] - total).split(list(counts))
        refusal_probs = (exact[:, self._refusal_ids] - total[:, None]).exp().sum(dim=-1).split(list(counts))
        for row, own_log_probs, own_refusal_probs in zip(rows, log_probs, refusal_probs, strict=True):
            self._log_probs[row] += own_log_probs.tolist()
            self._refusal_probs[row] += own_refusal_probs.tolist()

    def result(self, row: int) -> RowScores:
        """Return the row's numbers; no token follows the last one, so the position after it has a refusal's alone."""
        return RowScores(row, self._log_probs[row][:-1], self._refusal_probs[row])


@torch.inference_mode()
def score(
    model: Any,
    turns: Sequence[Turn],
    *,
    refusal_ids: Sequence[int],
    max_logits: int = MAX_LOGITS,
    prefixes: Sequence[Prefix | None] | None = None,
) -> Iterator[RowScores]:
    """Score the responses of a batch of turns; `prefixes` are what prompts begin with, if others do too.

    Prompts are padded on the left and responses on the right, so that all responses begin in one column. They are
    computed a few columns at a time: no more than `max_logits` logits exist at once, and finished rows leave the batch.
    """
    live, begin = list(range(len(turns))), 0
    tally = _ScoreAccumulator(turns, refusal_ids, model.device)
    logits, cache, mask = prefill(model, [turn.prompt_ids for turn in turns], prefixes)
    tally.add(logits, live, begin=0, counts=[1] * len(live))
    while True:
        going = [place for place, row in enumerate(live) if len(turns[row].response_ids) > begin]
        yield from (tally.result(row) for row in live if len(turns[row].response_ids) <= begin)
        if not going:
            return
        if len(going) < len(live):
            mask = select_rows(going, mask=mask, cache=cache)
            live = [live[place] for place in going]
        width = max(1, max_logits // (len(live) * logits.shape[-1]))
        spans = [turns[row].response_ids[begin : begin + width] for row in live]
        chunk = pad(spans, side="right", device=mask.device)
        mask = torch.cat([mask, chunk.mask], dim=1)
        output = forward(model, input_ids=chunk.input_ids, mask=mask, cache=cache, logits_to_keep=0)
        counts: list[int] = chunk.mask.sum(dim=1).tolist()
        tally.add(output.logits[chunk.mask.bool()], live, begin=begin + 1, counts=counts)
        begin += chunk.mask.shape[1]
