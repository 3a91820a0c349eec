"""Cross-entropy where the labels are: only labelled positions meet the vocabulary, a chunk at a time.

A causal LM's head is by far its largest matrix when the vocabulary is large, and an RTO row with sorry dropout
labels one position in twenty. `use_label_loss` swaps a model's forward for one that runs the trunk as ever, takes the
hidden states of the labelled positions, and never holds more logits than one chunk's. The swap is on the instance, so
DDP, FSDP and PEFT wrappers call it like any forward, and the saved model is the stock one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from derta.data.rows import TERMS
from derta.train.collator import Batch
from derta.train.cross_entropy import MAX_CHUNK_BYTES, LabelCrossEntropy
from derta.train.gradients import InPlaceGradient, add_in_place
from derta.train.head import Head, check_head
from derta.train.tree_attention import tree_mask


@dataclass
class LabelLoss(ModelOutput):
    """What the forward returns in place of logits.

    Attributes:
        loss: Sum of the labelled positions' losses, each times its term's weight; not yet divided.
        loss_sums: The same by term, unweighted and detached.
        counts: Labelled positions by term.
        refusal_sum: Sum over RTO positions of the refusal tokens' probability, detached.
    """

    loss: Any = None  # Float[Tensor, ""]; a mapping of all fields where accelerate copies an output
    loss_sums: Float[Tensor, " term"] | None = None
    counts: Float[Tensor, " term"] | None = None
    refusal_sum: Float[Tensor, ""] | None = None


def _module_losses(
    module: nn.Module,
    hidden: Float[Tensor, "position hidden"],
    labels: Int[Tensor, " position"],
    refusal_ids: Int[Tensor, " refusal"],
    head: Head,
) -> tuple[Float[Tensor, " position"], Float[Tensor, " position"]]:
    """Losses and refusal probabilities through any head (LoRA, quantized): logits are recomputed in the backward."""

    def chunk_losses(states: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = head(module(states)).log_softmax(dim=-1)
        refusing = log_probs.detach()[:, refusal_ids].exp().sum(dim=1)
        return nn.functional.nll_loss(log_probs, target, reduction="none"), refusing

    vocab = module.get_parameter("weight").shape[0] if "weight" in dict(module.named_parameters()) else 2**17
    chunk = max(1, MAX_CHUNK_BYTES // (4 * vocab))
    parts = [
        checkpoint(chunk_losses, states, target, use_reentrant=False)
        for states, target in zip(hidden.split(chunk), labels.split(chunk), strict=True)
    ]
    losses, refusing = zip(*parts, strict=True)
    return torch.cat(losses), torch.cat(refusing)


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _teach_head(lm_head: nn.Linear, head: Head, own: InPlaceGradient | None) -> None:
    """Make a linear head give losses in place of scores when it gets labels.

    In its own forward, because FSDP and ZeRO put a module's shards together there and nowhere else.
    """

    def forward(self: nn.Linear, hidden: Tensor, labels: Tensor | None = None, **given: Tensor) -> Any:
        if labels is None:
            return nn.Linear.forward(self, hidden)
        dtype = _compute_dtype(hidden)
        # detached, so that a pass without a backward adds no gradient in place
        weight = self.weight if torch.is_grad_enabled() else self.weight.detach()
        with torch.autocast(hidden.device.type, enabled=False):
            return LabelCrossEntropy.apply(
                hidden, weight, self.bias, labels, given["weights"], given["refusal_ids"], head, dtype, own
            )

    lm_head.forward = MethodType(forward, lm_head)


def label_losses(
    lm_head: nn.Module,
    hidden: Float[Tensor, "position hidden"],
    labels: Int[Tensor, " position"],
    *,
    weights: Float[Tensor, " position"],
    refusal_ids: Int[Tensor, " refusal"],
    head: Head,
    taught: bool,
) -> tuple[Float[Tensor, ""], Float[Tensor, " position"], Float[Tensor, " position"]]:
    """The weighted sum of losses, the losses, and the refusal probabilities at the given positions.

    `taught` says that the head gives them itself (`_teach_head`).
    """
    if taught:
        return lm_head(hidden, labels=labels, weights=weights, refusal_ids=refusal_ids)
    losses, refusing = _module_losses(lm_head, hidden, labels, refusal_ids, head)
    return (losses * weights).sum(), losses.detach(), refusing


def use_label_loss(model: PreTrainedModel, *, refusal_ids: Sequence[int], in_place: bool = False) -> None:
    """Make the model's forward take what `collate` gives and return a `LabelLoss`; `save_pretrained` is as ever.

    Without label positions the stock forward is called, so generation still works. With `in_place` the embeddings'
    gradients are added where the optimizer reads them, past autograd: for one process, whose loss nothing scales before
    its backward.

    Raises:
        ModelError: the model's logits do not follow from its head as `head_of` reads its config.
    """
    stock_forward = getattr(model.forward, "stock_forward", model.forward)  # a model may be prepared again
    head = check_head(model)
    own_head = _teach(model, head, in_place=in_place)
    refusing = torch.tensor(list(refusal_ids), dtype=torch.long)

    def forward(self: Any, input_ids: Tensor, label_positions: Tensor | None = None, **given: Any) -> Any:
        if label_positions is None:
            return stock_forward(input_ids=input_ids, **given)
        hidden = _trunk(self, input_ids, given)[label_positions]
        lm_head = self.get_output_embeddings()
        total, losses, refusal = label_losses(
            lm_head,
            hidden,
            given["targets"],
            weights=given["weights"],
            refusal_ids=refusing.to(hidden.device),
            head=head,
            taught=lm_head is own_head,  # PEFT may have wrapped it since
        )
        return _by_term(total, losses, refusal, terms=given["terms"], multiplicity=given.get("multiplicity"))

    forward.stock_forward = stock_forward  # pyright: ignore[reportFunctionMemberAccess]
    model.forward = MethodType(forward, model)


def label_loss(model: nn.Module, batch: Batch) -> LabelLoss:
    """The loss of every method of rows: weighted cross-entropy at the labelled positions, by term."""
    return model(**model_inputs(batch))


def model_inputs(batch: Batch) -> dict[str, Any]:
    """What of a batch a model takes, if its forward is `use_label_loss`'s."""
    return {name: value for name, value in batch.items() if name not in ("row_ids", "items")}


def _teach(model: PreTrainedModel, head: Head, *, in_place: bool) -> nn.Linear | None:
    """Teach a linear head to give losses and return it; any other is left as it is."""
    lm_head, embedding = model.get_output_embeddings(), cast("nn.Embedding", model.get_input_embeddings())
    own = InPlaceGradient(embedding.weight) if in_place else None
    if own is not None:
        add_in_place(embedding, own)
    if type(lm_head) is not nn.Linear:
        return None
    tied = lm_head.weight is embedding.weight
    _teach_head(lm_head, head, own if tied or own is None else InPlaceGradient(lm_head.weight))
    return lm_head


def _trunk(model: Any, input_ids: Int[Tensor, "bin token"], given: dict[str, Any]) -> Float[Tensor, "node hidden"]:
    """Hidden states of all positions, in one row."""
    inputs = {name: given[name] for name in ("position_ids", "attention_mask") if given.get(name) is not None}
    if "ends" in given:
        inputs["attention_mask"] = tree_mask(model.config, ends=given["ends"], position_ids=given["position_ids"])
    return model.get_decoder()(input_ids=input_ids, use_cache=False, **inputs).last_hidden_state.flatten(0, 1)


def _by_term(
    total: Float[Tensor, ""],
    losses: Float[Tensor, " label"],
    refusal: Float[Tensor, " label"],
    *,
    terms: Int[Tensor, " label"],
    multiplicity: Float[Tensor, " label"] | None,
) -> LabelLoss:
    """Losses and labels added up by term; a label that stands for several is counted so many times."""
    times = torch.ones_like(losses) if multiplicity is None else multiplicity
    sums = torch.zeros(len(TERMS), device=losses.device)
    return LabelLoss(
        loss=total,
        loss_sums=sums.index_add(0, terms, losses * times),
        counts=sums.index_add(0, terms, times),
        refusal_sum=(refusal * times * (terms == TERMS.index("rto"))).sum(),
    )
