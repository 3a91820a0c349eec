"""The base model's most probable tokens at the labels of benign rows, stored in files and read row by row.

They are the targets of the anchor (`anchor_weight`). A row is identified by its token ids and labels, which are the
same in every epoch, and a label by its number in the row. So packing, trees and the assignment to processes do not
matter. The files are small, so that they are computed in bounded memory and shared by processes. Together they have
8 k bytes for each label, with k tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from derta.data.rows import IGNORE, Term, TrainRow
from derta.data.train_row import Anchor
from derta.errors import DataError, RunError
from derta.train.dataset import RowDataset

FOLDER = "_base_probabilities"
"""Folder next to the checkpoints; `push_to_hub` leaves out names that begin with a line."""

BENIGN: tuple[Term, ...] = ("helpful", "counter")
"""Terms whose labels are anchored."""

LABELS_PER_FILE = 2**14


class Span(NamedTuple):
    """Place of a row's labels in the files."""

    file: int
    start: int
    stop: int


class AnchorFile(NamedTuple):
    """Rows of one file: their indices in the dataset, in the order of their labels, and a hash of their content."""

    rows: list[int]
    digest: str


@dataclass(frozen=True)
class AnchorPlan:
    """Division of a dataset's benign rows into files; rows with equal content are stored once.

    Attributes:
        files: Content of the files.
        spans: Place of each row, by a hash of its content.
    """

    files: list[AnchorFile]
    spans: dict[int, Span]


def content_key(row: TrainRow) -> int:
    """Return a hash of a row's token ids and labels; it is the same in every process."""
    return hash((tuple(row.input_ids), tuple(row.labels)))


def num_labels(row: TrainRow) -> int:
    """Return the number of labels of a row."""
    return sum(label != IGNORE for label in row.labels)


def benign_rows(dataset: RowDataset) -> list[int]:
    """Return the indices of the rows that are anchored.

    Raises:
        DataError: there are none.
    """
    indices = [index for index in range(len(dataset)) if dataset.term(index) in BENIGN]
    if not indices:
        raise DataError(
            "anchor_weight: expected helpful or counter examples, got none; add some, or remove the setting"
        )
    return indices


def plan_anchors(dataset: RowDataset, indices: Sequence[int]) -> AnchorPlan:
    """Return the files for the rows of these indices."""
    files: list[AnchorFile] = []
    spans: dict[int, Span] = {}
    members: list[tuple[int, TrainRow]] = []  # with the hash of each
    first: dict[int, int] = {}

    def close() -> None:
        members.sort(key=lambda one: -len(one[1].input_ids))  # rows of similar length are computed together
        start, digest = 0, hashlib.sha256()
        for key, row in members:
            stop = start + num_labels(row)
            spans[key] = Span(len(files), start, stop)
            start = stop
            digest.update(json.dumps([row.input_ids, row.labels]).encode())
        files.append(AnchorFile([first[key] for key, _ in members], digest.hexdigest()))
        members.clear()

    labels = 0
    for index in indices:
        row: Any = dataset[0, index]
        key = content_key(row)
        if key in first:
            continue
        first[key] = index
        members.append((key, row))
        labels += num_labels(row)
        if labels >= LABELS_PER_FILE:
            close()
            labels = 0
    if members:
        close()
    return AnchorPlan(files, spans)


def write_anchors(folder: Path, number: int, anchor: Anchor, *, digest: str) -> None:
    """Write one file."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {"ids": anchor.ids.int(), "probs": anchor.probs.float()}
    save_file(tensors, _path(folder, number), metadata={"rows": digest, "top_k": str(anchor.ids.shape[1])})


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:05}.safetensors"


class AnchorStore:
    """Anchors by row; can be pickled for the workers of a dataloader."""

    def __init__(self, folder: Path, plan: AnchorPlan) -> None:
        self._folder = folder
        self._spans = plan.spans

    def attach(self, row: TrainRow) -> TrainRow:
        """Return a benign row with its anchor, and other rows unchanged.

        Raises:
            DataError: a benign row is not the one of the first epoch.
        """
        if row.term not in BENIGN:
            return row
        span = self._spans.get(content_key(row))
        if span is None:
            raise DataError(
                f"row {row.id}: expected the same tokens in every epoch, because the anchor's probabilities are "
                "computed once, got others; set anchor_weight to 0"
            )
        with safe_open(_path(self._folder, span.file), "pt") as file:
            ids, probs = (file.get_slice(name)[span.start : span.stop] for name in ("ids", "probs"))
        return row._replace(anchor=Anchor(ids, probs))


def check_anchors(folder: Path, plan: AnchorPlan, *, top_k: int) -> None:
    """Validate that the files of a stopped training are whole, and those of the same rows.

    Raises:
        RunError: they are not.
    """
    for number, file in enumerate(plan.files):
        path = _path(folder, number)
        try:
            with safe_open(path, "pt") as opened:
                found = opened.metadata()
        except (OSError, SafetensorError) as error:
            raise RunError(
                f"{path}: expected the base model's probabilities next to the checkpoints, from before the training "
                f"({error}); restore the folder, or train from the start"
            ) from error
        if found != {"rows": file.digest, "top_k": str(top_k)}:
            raise RunError(
                f"{path}: expected the base model's probabilities on the same rows and with anchor_top_k {top_k}, got "
                "others; restore the data and the setting, or train from the start"
            )
