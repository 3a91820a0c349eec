"""Data collator with sequence packing: rows share a sequence, separated by position ids that restart at 0."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from derta.data.rows import IGNORE, TERMS, TrainRow, reference_dropout
from derta.data.train_row import Anchor
from derta.data.tree import TreeRow
from derta.errors import ModelError
from derta.train.dataset import balance
from derta.train.distributed import holds_weights
from derta.train.entries import build_entries


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack rows into bins of `capacity` tokens: the number of bins of first-fit decreasing, evenly filled if possible.

    A row longer than the capacity gets a separate bin. With a capacity of 0 every row does.

    >>> pack([3, 5, 2, 4], capacity=7)
    [[1, 2], [3, 0]]
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = next((b for b, remaining in enumerate(room) if lengths[row] <= remaining), None)
        if place is None:
            bins.append([row])
            room.append(capacity - lengths[row])
        else:
            bins[place].append(row)
            room[place] -= lengths[row]
    even = balance(lengths, len(bins))  # bins are padded to the longest
    return even if _max_tokens(even, lengths) < _max_tokens(bins, lengths) else bins


def _max_tokens(bins: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    return max((sum(lengths[i] for i in members) for members in bins), default=0)


class Batch(TypedDict):
    """Micro-batch of packed rows. It is a dict, so that code that moves batches between devices can move it.

    Labels are a list of positions, because a position may have several targets.

    Attributes:
        input_ids: Token ids, padded.
        position_ids: Positions within each row; depths in a tree.
        label_positions: Flat index (bin * tokens + token) of the output that predicts the label.
        targets: Token id to predict.
        terms: Index in `TERMS`.
        weights: Weight of the label in the loss.
        items: The micro-batch's share of the divisor of the step's loss.
        row_ids: Ids of the rows, for error messages.
        ends: If a row is a tree: end of each node's subtree, see `TreeRow`. Padding attends to itself. The attention
            mask is computed from it.
        multiplicity: If a row is a tree: number of its rows that have this label; the weight is their sum.
        floors: With an RTO margin τ: -log τ at RTO labels, below 0 at the others; see `Extras`.
        entry_labels: With sets of targets or an anchor: the columns of `Entries`, as the following ones.
    """

    input_ids: Int[Tensor, "bin token"]
    position_ids: Int[Tensor, "bin token"]
    label_positions: Int[Tensor, " label"]
    targets: Int[Tensor, " label"]
    terms: Int[Tensor, " label"]
    weights: Float[Tensor, " label"]
    items: Int[Tensor, ""]
    row_ids: list[str]
    ends: NotRequired[Int[Tensor, "bin token"]]
    multiplicity: NotRequired[Float[Tensor, " label"]]
    floors: NotRequired[Float[Tensor, " label"]]
    entry_labels: NotRequired[Int[Tensor, " entry"]]
    entry_ids: NotRequired[Int[Tensor, " entry"]]
    in_set: NotRequired[Bool[Tensor, " entry"]]
    base_probs: NotRequired[Float[Tensor, " entry"]]
    tails: NotRequired[Float[Tensor, " label"]]
    anchor_weights: NotRequired[Float[Tensor, " label"]]


ENTRY_NAMES = ("entry_labels", "entry_ids", "in_set", "base_probs", "tails", "anchor_weights")
"""Names of the columns of `Entries` in a batch, in their order."""


def collate(
    rows: Sequence[TrainRow | TreeRow],
    *,
    capacity: int,
    pad_id: int,
    term_weights: Sequence[float] = (1.0,) * len(TERMS),
    by_row: bool = False,
    padded_length: int | None = None,
    multiple: int = 1,
    rto_margin: float | None = None,
    anchor_weight: float = 0.0,
) -> Batch:
    """Collate rows into a micro-batch.

    There is no attention mask: transformers separates packed rows by their position ids only without a mask and without
    a KV cache.

    Args:
        rows: Rows of the micro-batch. An empty list gives one padding token without labels.
        capacity: Maximum tokens of a bin, unless one row is longer. 0: a bin per row (plain padding).
        pad_id: Token id of the padding, which is never a label.
        term_weights: Weight of each of `TERMS`, in their order.
        by_row: A label's weight is 1 / (labels of its row), and a step is divided by its rows. By default every label's
            weight is 1, and a step is divided by its labels. Each row of a tree counts as a row.
        padded_length: Length that reference-mode dropout is drawn over. None: the longest row, rounded up to a multiple
            of 8.
        multiple: The length of the bins is rounded up to a multiple of it.
        rto_margin: Probability of an RTO label's targets from which it has no loss.
        anchor_weight: Weight of the KL divergence at the labels of rows with an `anchor`; by row it is divided as the
            labels' weights are.
    """
    lengths = [len(row.input_ids) for row in rows]
    padded_length = padded_length or -(-max(lengths, default=1) // 8) * 8
    bins = pack(lengths, capacity and max(capacity, *lengths, 0)) or [[]]  # bins are padded to the longest row anyway
    shape = (len(bins), -(-max(1, _max_tokens(bins, lengths)) // multiple) * multiple)
    input_ids, position_ids = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.long)
    ends = torch.arange(1, shape[1] + 1).repeat(shape[0], 1)
    weighting = _LabelWeighting(term_weights, by_row, anchor_weight)
    labels: list[_Label] = []
    for b, members in enumerate(bins):
        start = 0
        for i in members:
            row, end = rows[i], start + lengths[i]
            input_ids[b, start:end] = torch.tensor(row.input_ids)
            first_node = b * shape[1] + start
            if isinstance(row, TreeRow):
                position_ids[b, start:end] = torch.tensor(row.position_ids)
                ends[b, start:end] = start + torch.tensor(row.ends)
                labels += _labels_of_tree(row, first_node=first_node, weighting=weighting)
            else:
                position_ids[b, start:end] = torch.arange(lengths[i])
                ends[b, start:end] = end
                labels += _labels_of_row(row, first_node=first_node, padded_length=padded_length, weighting=weighting)
            start = end
    positions, targets, terms, weights, multiplicity, *_ = zip(*labels, strict=True) if labels else [()] * 7
    trees = [row for row in rows if isinstance(row, TreeRow)]
    num_rows = len(rows) + sum(tree.num_rows - 1 for tree in trees)
    batch: Batch = {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "label_positions": torch.tensor(positions, dtype=torch.long),
        "targets": torch.tensor(targets, dtype=torch.long),
        "terms": torch.tensor(terms, dtype=torch.long),
        "weights": torch.tensor(weights, dtype=torch.float32),
        "items": torch.tensor(num_rows if by_row else sum(multiplicity)),
        "row_ids": [row.id for row in rows],
    }
    if trees:
        batch["ends"], batch["multiplicity"] = ends, torch.tensor(multiplicity, dtype=torch.float32)
    if rto_margin is not None:
        batch["floors"] = torch.where(batch["terms"] == TERMS.index("rto"), -math.log(rto_margin), -1.0)
    anchors = [row.anchor for members in bins for row in (rows[i] for i in members) if isinstance(row, TrainRow)]
    _add_entries(batch, labels, [anchor for anchor in anchors if anchor is not None])
    return batch


def _add_entries(batch: Batch, labels: Sequence[_Label], anchors: Sequence[Anchor]) -> None:
    """Add the columns of `Entries` if a label has several targets or an anchor."""
    if not anchors and not any(label.alternatives for label in labels):
        return
    entries = build_entries(
        batch["targets"],
        alternatives=[label.alternatives for label in labels],
        anchors=anchors,
        anchor_weights=torch.tensor([label.anchor_weight for label in labels], dtype=torch.float32),
    )
    batch.update(zip(ENTRY_NAMES, entries, strict=True))  # pyright: ignore[reportCallIssue, reportArgumentType]


class _Label(NamedTuple):
    """Label at a position of the batch, with its weight and the number of rows that have it."""

    position: int
    target: int
    term: int
    weight: float
    multiplicity: int
    alternatives: tuple[int, ...] = ()
    anchor_weight: float = 0.0


class _LabelWeighting(NamedTuple):
    """Options that determine a label's weight."""

    term_weights: Sequence[float]
    by_row: bool
    anchor_weight: float


def _labels_of_tree(tree: TreeRow, *, first_node: int, weighting: _LabelWeighting) -> list[_Label]:
    """Return the labels of all rows of a tree; labels shared by several rows are merged and their weights summed."""
    num_labels = Counter(label.row for label in tree.labels)
    weights: dict[tuple[int, int, int, tuple[int, ...]], list[float]] = {}
    for label in tree.labels:
        term = TERMS.index(label.term)
        weight = weighting.term_weights[term] / (num_labels[label.row] if weighting.by_row else 1)
        key = first_node + label.node, label.target, term, label.alternatives
        weights.setdefault(key, []).append(weight)
    return [
        _Label(position, target, term, sum(row_weights), len(row_weights), alternatives)
        for (position, target, term, alternatives), row_weights in weights.items()
    ]


def _labels_of_row(row: TrainRow, *, first_node: int, padded_length: int, weighting: _LabelWeighting) -> list[_Label]:
    """Return a row's labels; each is predicted by the output one position before it."""
    labels = row.labels
    if row.redraw is not None:
        labels = reference_dropout(labels, padded_length=padded_length, redraw=row.redraw)
    places = [place for place, label in enumerate(labels) if label != IGNORE]
    term = TERMS.index(row.term)
    divisor = len(places) if weighting.by_row and places else 1
    weight, anchor_weight = weighting.term_weights[term] / divisor, 0.0
    if row.anchor is not None:
        anchor_weight = weighting.anchor_weight / divisor
    alternatives = row.alternatives or {}
    return [
        _Label(first_node + place - 1, labels[place], term, weight, 1, alternatives.get(place, ()), anchor_weight)
        for place in places
    ]


def check_packing(model: PreTrainedModel, *, bins: int = 2) -> None:
    """Validate that rows packed into one sequence do not attend to each other in this architecture.

    Attention that uses the position ids separates them. Convolutions and recurrent states (Mamba, FalconH1, LFM2) and
    some older attention (OPT, Bloom) do not, and would train on mixed rows without an error.

    Args:
        model: The loaded model, with the attention implementation of the training.
        bins: Batch size of the test input: flash attention separates rows only in a batch of one.

    Raises:
        ModelError: a row's hidden states change with the row before it.
    """
    if not holds_weights(model):
        return
    device = next(model.parameters()).device
    length = 8
    ids = torch.arange(2 * length, device=device) % int(model.config.get_text_config().vocab_size)
    positions = torch.arange(length, device=device).repeat(2).expand(bins, -1)
    trunk: Any = model.get_decoder()
    was_training = model.training
    model.eval()
    with torch.no_grad():
        after_one, after_other = (
            trunk(input_ids=row.expand(bins, -1), position_ids=positions, use_cache=False).last_hidden_state[:, length:]
            for row in (ids, torch.cat([ids[:length].flip(0), ids[length:]]))
        )
    model.train(was_training)
    if not (after_one - after_other).abs().max() <= 1e-5 * after_one.abs().max():
        raise ModelError(
            f"expected {type(model).__name__} to separate packed rows by their position ids, but a row's hidden states "
            "change with the row before it; set `pack_tokens` to 0"
        )
