"""Training rows: token ids with labels, and the loss terms that they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from derta.errors import DataError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

IGNORE = -100
Term = Literal["helpful", "safe", "rto", "completion", "counter"]
TERMS: tuple[Term, ...] = get_args(Term)


class Anchor(NamedTuple):
    """The initial model's probabilities at the labels of a row: of its k most probable tokens."""

    ids: Int[Tensor, "label k"]
    probs: Float[Tensor, "label k"]


class TrainRow(NamedTuple):
    """Training row of a causal LM: `labels[i]` is the target of the output at position i - 1, as in Hugging Face.

    `term` is the loss term of the row's labels. `redraw` is the seed of a dropout that the collator applies to the
    padded row (reference mode only), else None. With `alternatives`, the target at a position is the set of its label
    and `alternatives[i]` (`rto_targets: set`). `anchor` holds the initial model's probabilities at the labels.
    """

    id: str
    term: Term
    input_ids: list[int]
    labels: list[int]
    redraw: str | None = None
    alternatives: dict[int, tuple[int, ...]] | None = None
    anchor: Anchor | None = None


def check_row(row: TrainRow) -> TrainRow:
    """Validate a row and return it.

    Raises:
        DataError: Lengths differ, the first position has a label (packing would leak it), or no position has a label.
    """
    if len(row.input_ids) != len(row.labels) or not row.input_ids:
        raise DataError(
            f"row {row.id}: expected as many labels as tokens, got {len(row.labels)} and {len(row.input_ids)}"
        )
    if row.labels[0] != IGNORE:
        raise DataError(f"row {row.id}: expected a prompt before the first label, got none; check the chat template")
    if row.redraw is None and all(label == IGNORE for label in row.labels):
        raise DataError(f"row {row.id} ({row.term}): every label is masked; raise max_length or drop the row")
    return row
