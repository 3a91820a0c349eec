"""Single entries of the logits that a loss treats apart: sets of targets, and the base model's most probable tokens.

Notation, at one label: z the logits, q = softmax(z) the tuned model's probabilities, R the set of targets, p the base
model's probabilities, K its stored tokens. With weights w and a, the loss is

    w · -log Σ_{r ∈ R} q_r  +  a · KL_K(p ‖ q),
    KL_K(p ‖ q) = Σ_{i ∈ K} p_i log(p_i / q_i) + p_T log(p_T / q_T),

with the tail T of all other tokens as one: p_T = 1 - Σ_{i ∈ K} p_i, and the same for q. The first is the usual loss if
R is one token. The second is a lower bound of the whole KL, by the data processing inequality, and 0 only if all stored
probabilities are equal. Unlike a KL of renormalised probabilities, it also counts mass that moves from K to other
tokens, such as a refusal. The gradients by z_j are

    w (q_j - [j ∈ R] q_j / q_R),  with q_R = Σ_{r ∈ R} q_r,
    a (q_j - p_j) for j in K, and a (q_j - p_T q_j / q_T) for the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from derta.data.train_row import Anchor

_TINY = 1e-30


class Entries(NamedTuple):
    """Entries of the logits, in the order of their token ids; each label has its targets and its base tokens, once.

    Attributes:
        labels: Number of the label.
        ids: Token id.
        in_set: The token is a target.
        base_probs: The base model's probability; 0 for tokens that are not stored.
        tails: By label, the base model's probability of all tokens that are not stored.
        anchor_weights: By label, the weight of the KL divergence; 0 without an anchor.
    """

    labels: Int[Tensor, " entry"]
    ids: Int[Tensor, " entry"]
    in_set: Bool[Tensor, " entry"]
    base_probs: Float[Tensor, " entry"]
    tails: Float[Tensor, " label"]
    anchor_weights: Float[Tensor, " label"]

    def of(self, part: slice) -> Entries:
        """Return the entries of some labels, which are numbered from 0."""
        inside = (self.labels >= part.start) & (self.labels < part.stop)
        labels, ids, in_set, base_probs = (column[inside] for column in self[:4])
        return Entries(labels - part.start, ids, in_set, base_probs, self.tails[part], self.anchor_weights[part])

    def within(self, places: Sequence[slice]) -> list[slice]:
        """Return which entries are in each block of the vocabulary."""
        if len(places) == 1:
            return [slice(0, len(self.ids))]
        stops = torch.tensor([place.stop for place in places], device=self.ids.device)
        bounds = [0, *torch.searchsorted(self.ids, stops).tolist()]
        return [slice(start, stop) for start, stop in pairwise(bounds)]

    def sums(self, values: Float[Tensor, " entry"]) -> Float[Tensor, " label"]:
        """Return the sums of the entries' values by label."""
        return torch.zeros_like(self.tails).index_add_(0, self.labels, values)


class Extras(NamedTuple):
    """Optional parts of the loss.

    Attributes:
        floors: By label, the loss at and below which it counts as 0 and teaches nothing.
        entries: Sets of targets, and the base model's probabilities.
    """

    floors: Float[Tensor, " label"] | None = None
    entries: Entries | None = None

    def of(self, part: slice, *, num_labels: int) -> Extras:
        """Return the extras of some labels."""
        whole = part.start == 0 and part.stop >= num_labels  # a selection waits for the device
        entries = self.entries if self.entries is None or whole else self.entries.of(part)
        return Extras(None if self.floors is None else self.floors[part], entries)

    def above_floor(self, losses: Float[Tensor, " label"]) -> Float[Tensor, " label"] | None:
        """Return 1 for the labels that count, and 0 for the others; None if all count."""
        return None if self.floors is None else (losses > self.floors).float()


NO_EXTRAS = Extras()


def build_entries(
    targets: Int[Tensor, " label"],
    *,
    alternatives: Sequence[Sequence[int]],
    anchors: Sequence[Anchor],
    anchor_weights: Float[Tensor, " label"],
) -> Entries:
    """Build the entries of a micro-batch.

    >>> anchor = Anchor(torch.tensor([[7, 5]]), torch.tensor([[0.5, 0.25]]))
    >>> weights = torch.tensor([0.0, 1.0])
    >>> found = build_entries(torch.tensor([3, 5]), alternatives=[[4], []], anchors=[anchor], anchor_weights=weights)
    >>> found.labels.tolist(), found.ids.tolist(), found.in_set.tolist()
    ([0, 0, 1, 1], [3, 4, 5, 7], [True, True, True, False])
    >>> found.base_probs.tolist(), found.tails.tolist()
    ([0.0, 0.0, 0.25, 0.5], [0.0, 0.25])

    Args:
        targets: Target of each label.
        alternatives: Further targets of each label.
        anchors: Anchors of the rows that have one, in the order of their labels.
        anchor_weights: Weight of each label's KL divergence; 0: the label has no anchor.
    """
    numbers = torch.arange(len(targets))
    more = [(label, token) for label, tokens in enumerate(alternatives) for token in tokens]
    further = torch.tensor(more, dtype=torch.long).reshape(-1, 2)
    anchored = anchor_weights.nonzero().squeeze(1)
    tails, apart = torch.zeros(len(targets)), numbers
    top = [torch.empty(0, dtype=kind) for kind in (torch.long, torch.long, torch.bool, torch.float32)]
    if anchors:
        ids, probs = torch.cat([one.ids for one in anchors]).long(), torch.cat([one.probs for one in anchors])
        is_target = ids == targets[anchored, None]
        tails[anchored] = (1 - probs.sum(dim=1)).clamp(min=0)
        apart = numbers[torch.ones_like(tails).index_fill(0, anchored[is_target.any(dim=1)], 0) > 0]
        top = [anchored.repeat_interleave(ids.shape[1]), ids.flatten(), is_target.flatten(), probs.flatten()]
    num_targets = len(apart) + len(further)
    labels = torch.cat([apart, further[:, 0], top[0]])
    ids = torch.cat([targets[apart], further[:, 1], top[1]])
    in_set = torch.cat([torch.ones(num_targets, dtype=torch.bool), top[2]])
    base_probs = torch.cat([torch.zeros(num_targets), top[3]])
    order = ids.argsort(stable=True)
    return Entries(labels[order], ids[order], in_set[order], base_probs[order], tails, anchor_weights)


class EntryTerms(NamedTuple):
    """Losses and gradients at labels with entries, divided by the labels' weights w + a.

    Attributes:
        losses: -log of the targets' probability.
        divergences: KL divergence from the base; 0 without an anchor.
        sums: Sum of e = exp(logit - shift) over all tokens.
        dense: Factor of e in the gradient by the logits that are no entries.
        values: Gradient by the logits of the entries.
        weights: w + a.
    """

    losses: Float[Tensor, " label"]
    divergences: Float[Tensor, " label"]
    sums: Float[Tensor, " label"]
    dense: Float[Tensor, " label"]
    values: Float[Tensor, " entry"]
    weights: Float[Tensor, " label"]


def entry_terms(
    logits: Float[Tensor, " entry"],
    rest: Float[Tensor, " label"],
    *,
    extras: Extras,
    weights: Float[Tensor, " label"],
) -> EntryTerms:
    """Compute the losses and gradients of the module's formula.

    Args:
        logits: Logits of the entries, less the shift of their labels.
        rest: Sum of e over the tokens that are no entries.
        extras: Entries, and the floors of the losses.
        weights: Weight w of each label.
    """
    entries: Any = extras.entries
    in_set, stored = entries.in_set, entries.base_probs > 0
    e = logits.exp()
    others, tail = rest + entries.sums(e * ~in_set), (rest + entries.sums(e * ~stored)).clamp(min=_TINY)
    log_set = _log_sums(logits, entries)
    sums = others + entries.sums(e * in_set)
    losses = sums.log() - log_set
    counted = extras.above_floor(losses)
    if counted is not None:
        losses, weights = losses * counted, weights * counted
    total = weights + entries.anchor_weights
    shares = torch.where(total > 0, torch.stack([weights, entries.anchor_weights]) / total, 0)
    label, anchor = shares[:, entries.labels]
    one_label = entries.labels
    q, over_tail = e / sums[one_label], (entries.tails / tail)
    of_label = torch.where(in_set, -(others / sums)[one_label] * (logits - log_set[one_label]).exp(), q)
    of_anchor = q - torch.where(stored, entries.base_probs, over_tail[one_label] * e)
    log_ratios = entries.base_probs.log() - logits + sums.log()[one_label]
    divergences = entries.sums(torch.where(stored, entries.base_probs * log_ratios, 0))
    divergences += torch.xlogy(entries.tails, over_tail * sums)
    return EntryTerms(
        losses,
        torch.where(entries.anchor_weights > 0, divergences, 0),
        sums,
        dense=1 / sums - shares[1] * over_tail,
        values=label * of_label + anchor * of_anchor,
        weights=total,
    )


def set_entry_gradients(
    blocks: Sequence[tuple[slice, Tensor]],
    entries: Entries,
    *,
    dense: Float[Tensor, " label"],
    values: Float[Tensor, " entry"],
) -> None:
    """Turn blocks of e into gradients, in place: multiply each label's by `dense`, and assign the entries' values."""
    for (place, block), part in zip(blocks, entries.within([place for place, _ in blocks]), strict=True):
        block.mul_(dense[:, None])  # in fp32: a sum over a large vocabulary can be infinite in fp16
        block.index_put_((entries.labels[part], entries.ids[part] - place.start), values[part].to(block.dtype))


def _log_sums(logits: Float[Tensor, " entry"], entries: Entries) -> Float[Tensor, " label"]:
    """Return by label the log of the sum of e over the targets, also where each e underflows."""
    masked = logits.masked_fill(~entries.in_set, -torch.inf)
    highest = torch.full_like(entries.tails, -torch.inf).scatter_reduce(0, entries.labels, masked, "amax")
    return highest + entries.sums((masked - highest[entries.labels]).exp()).log()


def entry_losses(
    log_probs: Float[Tensor, "label vocab"], entries: Entries
) -> tuple[Float[Tensor, " label"], Float[Tensor, " label"]]:
    """Return the losses and divergences of the module's formula, by autograd from whole rows of log-probabilities."""
    index = entries.labels, entries.ids
    at_entries = log_probs[index]
    stored = entries.base_probs > 0
    log_ratios = torch.where(stored, entries.base_probs, 1).log() - at_entries
    divergences = entries.sums(torch.where(stored, entries.base_probs * log_ratios, 0))
    anchored = (entries.tails > 0).nonzero().squeeze(1)
    if len(anchored):
        stored_index = entries.labels[stored], entries.ids[stored]
        log_tails = log_probs.index_put(stored_index, log_probs.new_tensor(-torch.inf)).logsumexp(dim=-1)[anchored]
        tails = entries.tails[anchored]
        divergences = divergences.index_add(0, anchored, tails * (tails.log() - log_tails.clamp(min=math.log(_TINY))))
    return -_log_sums(at_entries, entries), divergences
