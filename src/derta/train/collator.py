"""Rows to tensors: several rows share a sequence, told apart by position ids that start again at 0."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from derta.data.rows import IGNORE, TERMS, TrainRow, reference_dropout
from derta.data.tree import TreeRow
from derta.errors import ModelError
from derta.train.dataset import balance
from derta.train.distributed import holds_weights


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put rows into bins of `capacity` tokens: as few as first-fit decreasing finds, filled evenly if they can be.

    A row longer than the capacity gets a bin of its own; a capacity of 0 gives every row one.

    >>> pack([3, 5, 2, 4], capacity=7)
    [[1, 2], [3, 0]]
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = next((b for b, left in enumerate(room) if lengths[row] <= left), None)
        if place is None:
            bins.append([row])
            room.append(capacity - lengths[row])
        else:
            bins[place].append(row)
            room[place] -= lengths[row]
    even = balance(lengths, len(bins))  # bins are padded to the fullest
    return even if _fullest(even, lengths) < _fullest(bins, lengths) else bins


def _fullest(bins: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    return max((sum(lengths[i] for i in members) for members in bins), default=0)


class Batch(TypedDict):
    """A micro-batch; a dict, so that whatever moves batches between devices moves this one.

    What is learned is a list of positions, for a position may have several targets.

    Attributes:
        label_positions: bin * token + the place of the output that predicts.
        targets: The token that is to be predicted.
        terms: Index in `TERMS`.
        items: What the step's loss is divided by, summed over its micro-batches.
        row_ids: For messages.
        ends: With a tree among the rows: see `TreeRow`; padding sees itself. A mask is made of it.
        multiplicity: With a tree among the rows: how many of its rows have this label, all of which its weight stands
            for.
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


def collate(
    rows: Sequence[TrainRow | TreeRow],
    *,
    capacity: int,
    pad_id: int,
    term_weights: Sequence[float] = (1.0,) * len(TERMS),
    by_row: bool = False,
    padded_length: int | None = None,
) -> Batch:
    """Make a micro-batch of rows.

    There is no attention mask: transformers tells packed rows apart by their position ids, and only while the mask is
    absent and no cache is used.

    Args:
        rows: The micro-batch; without any, one padding token that teaches nothing.
        capacity: Tokens a bin may hold, if no row is longer; 0 gives every row its own bin (plain padding).
        pad_id: Fills the bins' ends; never learned.
        term_weights: Weight of each of `TERMS`, in their order.
        by_row: A label counts 1 / (labels of its row), and a step is divided by its rows; else every label counts
            1, and a step is divided by its labels. Each row laid into a tree counts as a row.
        padded_length: What reference-mode dropout draws over; None means the longest row, to a multiple of 8.
    """
    lengths = [len(row.input_ids) for row in rows]
    padded_length = padded_length or -(-max(lengths, default=1) // 8) * 8
    bins = pack(lengths, capacity and max(capacity, *lengths, 0)) or [[]]  # all are padded to the longest row anyway
    shape = (len(bins), max(1, _fullest(bins, lengths)))
    input_ids, position_ids = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.long)
    ends = torch.arange(1, shape[1] + 1).repeat(shape[0], 1)
    counting = _Counting(term_weights, by_row)
    learned: list[_Label] = []
    for b, members in enumerate(bins):
        start = 0
        for i in members:
            row, end = rows[i], start + lengths[i]
            input_ids[b, start:end] = torch.tensor(row.input_ids)
            first_node = b * shape[1] + start
            if isinstance(row, TreeRow):
                position_ids[b, start:end] = torch.tensor(row.position_ids)
                ends[b, start:end] = start + torch.tensor(row.ends)
                learned += _learned_of_tree(row, first_node=first_node, counting=counting)
            else:
                position_ids[b, start:end] = torch.arange(lengths[i])
                ends[b, start:end] = end
                learned += _learned(row, first_node=first_node, padded_length=padded_length, counting=counting)
            start = end
    positions, targets, terms, weights, multiplicity = zip(*learned, strict=True) if learned else [()] * 5
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
    return batch


_Label = tuple[int, int, int, float, int]  # position, target, term, weight, multiplicity


class _Counting(NamedTuple):
    """What a label counts."""

    term_weights: Sequence[float]
    by_row: bool


def _learned_of_tree(tree: TreeRow, *, first_node: int, counting: _Counting) -> list[_Label]:
    """As `_learned`, for all rows of a tree; what several rows teach alike comes once, with their weights added up."""
    num_labels = Counter(one.row for one in tree.labels)
    weights: dict[tuple[int, int, int], list[float]] = {}
    for one in tree.labels:
        term = TERMS.index(one.term)
        weight = counting.term_weights[term] / (num_labels[one.row] if counting.by_row else 1)
        weights.setdefault((first_node + one.node, one.target, term), []).append(weight)
    return [(*label, sum(of_rows), len(of_rows)) for label, of_rows in weights.items()]


def _learned(row: TrainRow, *, first_node: int, padded_length: int, counting: _Counting) -> list[_Label]:
    """A row's labels: the output one place before predicts each."""
    labels = row.labels
    if row.redraw is not None:
        labels = reference_dropout(labels, padded_length=padded_length, redraw=row.redraw)
    places = [place for place, label in enumerate(labels) if label != IGNORE]
    term = TERMS.index(row.term)
    weight = counting.term_weights[term] / (len(places) if counting.by_row and places else 1)
    return [(first_node + place - 1, labels[place], term, weight, 1) for place in places]


def check_packing(model: PreTrainedModel, *, bins: int = 2) -> None:
    """Make sure that rows packed into one sequence do not see each other in this architecture.

    Attention that reads the position ids keeps them apart; convolutions and recurrent states (Mamba, FalconH1, LFM2)
    and some older attention (OPT, Bloom) do not, and would train on mixed rows without a word.

    Args:
        model: As loaded, with the attention it will train with.
        bins: Sequences of the test batch: flash attention tells rows apart only in a batch of one.

    Raises:
        ModelError: a row's hidden states change with the row that stands before it.
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
            f"expected {type(model).__name__} to keep packed rows apart by their position ids, but one row's states "
            "change with the row before it; set `pack_tokens` to 0"
        )
