"""Next-token distributions along a text: the refusal probability and the likeliest tokens at each position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from derta.engines.batching import NonFiniteLogitsError, eval_mode, forward, pad
from derta.engines.capacity import max_logits
from derta.engines.prefix_cache import prefill


class Candidate(NamedTuple):
    """A possible next token and its probability."""

    token_id: int
    probability: float


class PositionScores(NamedTuple):
    """Next-token distribution before a token of a text, or after its last one.

    `refusal` is the summed probability of the refusal tokens, `chosen` that of the token that follows in the text (None
    after the last one), and `top` has the likeliest tokens, the most likely first.
    """

    refusal: float
    chosen: float | None
    top: tuple[Candidate, ...]


@torch.inference_mode()
def position_scores(
    model: Any, prompt_ids: Sequence[int], response_ids: Sequence[int], *, refusal_ids: Sequence[int], top: int
) -> list[PositionScores]:
    """Return the distribution before each token of a response and after its last one, in one pass over the text.

    Args:
        model: Causal language model.
        prompt_ids: Token ids before the response.
        response_ids: Token ids of the response; there may be none.
        refusal_ids: Refusal tokens, of which the probabilities are summed.
        top: Number of likeliest tokens.

    Raises:
        NonFiniteLogitsError: the logits are NaN or infinite.
    """
    with eval_mode(model):
        logits, cache, mask = prefill(model, [prompt_ids])
        found = _describe(logits, response_ids[:1], refusal_ids=refusal_ids, top=top)
        width = max(1, max_logits(model.device) // logits.shape[-1])
        for begin in range(0, len(response_ids), width):
            chunk = pad([response_ids[begin : begin + width]], side="right", device=mask.device)
            mask = torch.cat([mask, chunk.mask], dim=1)
            output = forward(model, input_ids=chunk.input_ids, mask=mask, cache=cache, logits_to_keep=0)
            cache, following = output.past_key_values, response_ids[begin + 1 : begin + 1 + width]
            found += _describe(output.logits[0], following, refusal_ids=refusal_ids, top=top)
    return found


def _describe(
    logits: Float[Tensor, "position vocab"], following: Sequence[int], *, refusal_ids: Sequence[int], top: int
) -> list[PositionScores]:
    """Return the scores at each position; `following` are the next tokens, without one after the last position."""
    probabilities = logits.float().softmax(dim=-1)
    if not bool(probabilities.isfinite().all()):
        raise NonFiniteLogitsError(0)
    refusal: list[float] = probabilities[:, list(refusal_ids)].sum(dim=-1).clamp(max=1.0).tolist()
    best = probabilities.topk(min(top, probabilities.shape[-1]), dim=-1)
    next_ids = torch.tensor(following, dtype=torch.long, device=logits.device)
    own: list[float] = probabilities[: len(following)].gather(-1, next_ids[:, None])[:, 0].tolist()
    chosen = [*own, *[None] * (len(refusal) - len(own))]
    return [
        PositionScores(p, next_p, tuple(map(Candidate, ids, values)))
        for p, next_p, ids, values in zip(refusal, chosen, best.indices.tolist(), best.values.tolist(), strict=True)
    ]
