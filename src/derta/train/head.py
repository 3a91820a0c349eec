"""Scale and soft cap of a causal LM's logits, read from its config and checked against the stock forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from derta.errors import ModelError
from derta.train.distributed import holds_weights


@dataclass(frozen=True, slots=True)
class Head:
    """Function from the head's output z to logits: `scale * z`, and with a soft cap c: `c * tanh(scale * z / c)`."""

    logit_scale: float = 1.0
    final_logit_softcapping: float | None = None

    def __call__(self, scores: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Return the logits in fp32."""
        scores = scores.float()
        cap = self.final_logit_softcapping
        if self.logit_scale != 1.0:
            scores = scores * self.logit_scale
        return scores if cap is None else torch.tanh(scores / cap) * cap

    def slope(self, logits: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Return the derivative of a logit by the head's output, computed from the logit."""
        cap = self.final_logit_softcapping
        return (
            torch.full_like(logits, self.logit_scale) if cap is None else self.logit_scale * (1 - (logits / cap) ** 2)
        )


def head_of(config: Any) -> Head:
    """Return the scale and soft cap of a model's logits from its config; `check_head` validates them.

    Source: the forwards of transformers' Gemma2 and Gemma3 (`final_logit_softcapping`), Cohere (`logit_scale`),
    Granite (`logits_scaling`, a divisor) and FalconH1 (`lm_head_multiplier`).
    """
    values = config.get_text_config().to_dict()
    scale = float(values.get("logit_scale") or 1.0) * float(values.get("lm_head_multiplier") or 1.0)
    scale /= float(values.get("logits_scaling") or 1.0)
    cap = values.get("final_logit_softcapping")
    return Head(scale, float(cap) if cap else None)


def check_head(model: PreTrainedModel) -> Head:
    """Return the model's `Head`, after comparing its logits on a few tokens with the stock logits.

    Raises:
        ModelError: they differ, because the architecture changes its logits in an unsupported way.
    """
    head = head_of(model.config)
    if not holds_weights(model):
        return head
    device = next(model.parameters()).device
    ids = torch.arange(1, 9, device=device)[None] % int(model.config.get_text_config().vocab_size)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        stock = model(input_ids=ids, use_cache=False).logits.float()
        lm_head: Any = model.get_output_embeddings()
        ours = head(lm_head(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state))
    model.train(was_training)
    if not (stock - ours).abs().max() <= 1e-2 * stock.abs().max():  # also true for NaN
        raise ModelError(
            f"expected logits that are lm_head's output with a scale and a soft cap, got others from "
            f"{type(model).__name__} (largest difference {(stock - ours).abs().max():.3g}); "
            "train another architecture, or add the scale of this one to `head_of`"
        )
    return head
