"""Label loss: cross-entropy computed only at labelled positions, one chunk of logits at a time.

With a large vocabulary, the head is by far a causal LM's largest matrix, and an RTO row with sorry dropout has a label
at one position in twenty. `use_label_loss` replaces a model's forward with one that runs the trunk as before, selects
the hidden states of the labelled positions, and computes at most one chunk of logits at a time. Only the instance is
patched, so DDP, FSDP and PEFT wrappers call it like any forward, and the saved model is the stock one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from derta.data.rows import TERMS
from derta.train.collator import ENTRY_NAMES, Batch
from derta.train.cross_entropy import MAX_CHUNK_BYTES, LabelCrossEntropy
from derta.train.entries import NO_EXTRAS, Entries, Extras, entry_losses
from derta.train.gradients import InPlaceGradient, add_in_place
from derta.train.head import Head, check_head
from derta.train.top_tokens import top_tokens
from derta.train.tree_attention import tree_mask


@dataclass
class LabelLoss(ModelOutput):
    """Output of the forward, in place of logits.

    Attributes:
        loss: Sum of the labelled positions' losses, each times its term's weight, and of the anchor's divergences times
            their weight; not yet divided.
        loss_sums: Sum of losses by term, unweighted and detached.
        counts: Number of labels by term.
        refusal_sum: Sum over RTO positions of the refusal tokens' probability, detached.
        anchor_sum: Sum of the KL divergences from the base model, unweighted and detached; None without an anchor.
        anchor_count: Number of positions that they are summed over.
    """

    loss: Any = None  # Float[Tensor, ""]; a dict of all fields after accelerate copies an output
    loss_sums: Float[Tensor, " term"] | None = None
    counts: Float[Tensor, " term"] | None = None
    refusal_sum: Float[Tensor, ""] | None = None
    anchor_sum: Float[Tensor, ""] | None = None
    anchor_count: Float[Tensor, ""] | None = None


class PositionLosses(NamedTuple):
    """Losses at the labelled positions.

    Attributes:
        total: Weighted sum, with a gradient.
        losses: Unweighted losses.
        refusing: Probability of the refusal tokens.
        divergences: KL divergences from the base model.
    """

    total: Float[Tensor, ""]
    losses: Float[Tensor, " position"]
    refusing: Float[Tensor, " position"]
    divergences: Float[Tensor, " position"]


def _module_losses(
    module: nn.Module,
    hidden: Float[Tensor, "position hidden"],
    labels: Int[Tensor, " position"],
    *,
    weights: Float[Tensor, " position"],
    refusal_ids: Int[Tensor, " refusal"],
    head: Head,
    extras: Extras,
) -> PositionLosses:
    """Compute losses with any head (LoRA, quantized); the backward recomputes the logits."""

    def chunk_losses(states: Tensor, target: Tensor, extras: Extras) -> tuple[Tensor, Tensor, Tensor]:
        log_probs = head(module(states)).log_softmax(dim=-1)
        refusing = log_probs.detach()[:, refusal_ids].exp().sum(dim=1)
        if extras.entries is not None:
            losses, divergences = entry_losses(log_probs, extras.entries)
        else:
            losses = nn.functional.nll_loss(log_probs, target, reduction="none")
            divergences = torch.zeros_like(losses)
        counted = extras.above_floor(losses)
        return losses if counted is None else losses * counted, refusing, divergences

    chunk = max(1, MAX_CHUNK_BYTES // (4 * _vocab_of(module)))
    parts = [
        checkpoint(
            chunk_losses,
            states,
            target,
            extras.of(slice(i * chunk, i * chunk + len(target)), num_labels=len(labels)),
            use_reentrant=False,
        )
        for i, (states, target) in enumerate(zip(hidden.split(chunk), labels.split(chunk), strict=True))
    ]
    losses, refusing, divergences = (torch.cat(columns) for columns in zip(*parts, strict=True))
    total = (losses * weights).sum()
    if extras.entries is not None:
        total = total + (divergences * extras.entries.anchor_weights).sum()
    return PositionLosses(total, losses.detach(), refusing, divergences.detach())


def _vocab_of(module: nn.Module) -> int:
    """Return the size of a head's vocabulary; one whose weights are elsewhere counts as large."""
    return module.get_parameter("weight").shape[0] if "weight" in dict(module.named_parameters()) else 2**17


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _patch_head(lm_head: nn.Linear, head: Head, gradient: InPlaceGradient | None) -> None:
    """Patch a linear head to return losses instead of scores if it gets labels.

    The losses are computed in the head's forward, because FSDP and ZeRO gather a module's shards only there.
    """

    def forward(self: nn.Linear, hidden: Tensor, labels: Tensor | None = None, **inputs: Any) -> Any:
        if "top_k" in inputs:
            project = partial(nn.Linear.forward, self)
            return top_tokens(project, hidden, top_k=inputs["top_k"], head=head, vocab=self.out_features)
        if labels is None:
            return nn.Linear.forward(self, hidden)
        dtype = _compute_dtype(hidden)
        # detached, so that a forward without a backward adds no gradient in place
        weight = self.weight if torch.is_grad_enabled() else self.weight.detach()
        with torch.autocast(hidden.device.type, enabled=False):
            return LabelCrossEntropy.apply(
                hidden, weight, self.bias, labels, inputs["weights"], inputs["refusal_ids"], head, dtype, gradient,
                inputs.get("extras", NO_EXTRAS),
            )  # fmt: skip

    lm_head.forward = MethodType(forward, lm_head)


def label_losses(
    lm_head: nn.Module,
    hidden: Float[Tensor, "position hidden"],
    labels: Int[Tensor, " position"],
    *,
    weights: Float[Tensor, " position"],
    refusal_ids: Int[Tensor, " refusal"],
    head: Head,
    patched: bool,
    extras: Extras = NO_EXTRAS,
) -> PositionLosses:
    """Return the weighted sum of losses, and the losses, at the labelled positions.

    Args:
        lm_head: The model's output layer.
        hidden: Hidden states of the labelled positions.
        labels: Token ids to predict.
        weights: Weight of each label.
        refusal_ids: Token ids of the refusal words.
        head: Scale and soft cap of the logits.
        patched: `lm_head` returns losses itself (`_patch_head`).
        extras: Sets of targets, a margin, and an anchor.
    """
    if patched:
        return PositionLosses(*lm_head(hidden, labels=labels, weights=weights, refusal_ids=refusal_ids, extras=extras))
    return _module_losses(lm_head, hidden, labels, weights=weights, refusal_ids=refusal_ids, head=head, extras=extras)


def use_label_loss(model: PreTrainedModel, *, refusal_ids: Sequence[int], in_place: bool = False) -> None:
    """Patch the model's forward to take a batch of `collate` and return a `LabelLoss`; `save_pretrained` is unchanged.

    Without label positions the stock forward runs, so generation still works. With `top_k` instead of labels it returns
    the most probable tokens at the label positions (`top_tokens`).

    Args:
        model: Model to patch.
        refusal_ids: Token ids of the refusal words.
        in_place: Add the embeddings' gradients to `.grad` without autograd. Only for a single process, and for a loss
            that is not scaled before its backward.

    Raises:
        ModelError: the model's logits do not match the scale and soft cap that `head_of` reads from its config.
    """
    stock_forward = getattr(model.forward, "stock_forward", model.forward)  # the model may be patched already
    head = check_head(model)
    patched_head = _patch_output_layer(model, head, in_place=in_place)
    refusing = torch.tensor(list(refusal_ids), dtype=torch.long)

    def forward(self: Any, input_ids: Tensor, label_positions: Tensor | None = None, **inputs: Any) -> Any:
        if label_positions is None:
            return stock_forward(input_ids=input_ids, **inputs)
        hidden = _trunk(self, input_ids, inputs)[label_positions]
        lm_head = self.get_output_embeddings()
        if "top_k" in inputs:
            top_k = inputs["top_k"]
            if lm_head is patched_head:
                return lm_head(hidden, top_k=top_k)
            return top_tokens(lm_head, hidden, top_k=top_k, head=head, vocab=_vocab_of(lm_head))
        extras = _extras(inputs)
        found = label_losses(
            lm_head,
            hidden,
            inputs["targets"],
            weights=inputs["weights"],
            refusal_ids=refusing.to(hidden.device),
            head=head,
            patched=lm_head is patched_head,  # False if PEFT has wrapped it
            extras=extras,
        )
        output = _by_term(found, terms=inputs["terms"], multiplicity=inputs.get("multiplicity"))
        if extras.entries is not None:
            output.anchor_sum = found.divergences.sum()
            output.anchor_count = (extras.entries.anchor_weights > 0).float().sum()
        return output

    forward.stock_forward = stock_forward  # pyright: ignore[reportFunctionMemberAccess]
    model.forward = MethodType(forward, model)


def label_loss(model: nn.Module, batch: Batch) -> LabelLoss:
    """Compute the loss of row methods: weighted cross-entropy at the labelled positions, by term."""
    return model(**model_inputs(batch))


def model_inputs(batch: Batch) -> dict[str, Any]:
    """Return the entries of a batch that are inputs of a model patched by `use_label_loss`."""
    return {name: value for name, value in batch.items() if name not in ("row_ids", "items")}


def _patch_output_layer(model: PreTrainedModel, head: Head, *, in_place: bool) -> nn.Linear | None:
    """Patch a linear head, and the embedding with `in_place`; return the head if it is patched."""
    lm_head, embedding = model.get_output_embeddings(), cast("nn.Embedding", model.get_input_embeddings())
    gradient = InPlaceGradient(embedding.weight) if in_place else None
    if gradient is not None:
        add_in_place(embedding, gradient)
    if type(lm_head) is not nn.Linear:
        return None
    tied = lm_head.weight is embedding.weight
    _patch_head(lm_head, head, gradient if tied or gradient is None else InPlaceGradient(lm_head.weight))
    return lm_head


def _trunk(model: Any, input_ids: Int[Tensor, "bin token"], batch: dict[str, Any]) -> Float[Tensor, "node hidden"]:
    """Return the hidden states of all positions, flattened over the bins."""
    inputs = {name: batch[name] for name in ("position_ids", "attention_mask") if batch.get(name) is not None}
    if "ends" in batch:
        inputs["attention_mask"] = tree_mask(model.config, ends=batch["ends"], position_ids=batch["position_ids"])
    return model.get_decoder()(input_ids=input_ids, use_cache=False, **inputs).last_hidden_state.flatten(0, 1)


def _extras(batch: dict[str, Any]) -> Extras:
    """Return a batch's optional parts of the loss."""
    entries = Entries(*(batch[name] for name in ENTRY_NAMES)) if ENTRY_NAMES[0] in batch else None
    return Extras(batch.get("floors"), entries)


def _by_term(
    found: PositionLosses,
    *,
    terms: Int[Tensor, " label"],
    multiplicity: Float[Tensor, " label"] | None,
) -> LabelLoss:
    """Sum losses and labels by term; a label shared by several rows of a tree counts once per row."""
    counts = torch.ones_like(found.losses) if multiplicity is None else multiplicity
    sums = torch.zeros(len(TERMS), device=counts.device)
    return LabelLoss(
        loss=found.total,
        loss_sums=sums.index_add(0, terms, found.losses * counts),
        counts=sums.index_add(0, terms, counts),
        refusal_sum=(found.refusing * counts * (terms == TERMS.index("rto"))).sum(),
    )
