"""Training dataset with rows drawn per epoch, and the sampler of its micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from operator import index
from random import Random
from typing import Any, Protocol

from torch.utils.data import Dataset, Sampler

from derta.config import RowConfig
from derta.data.rows import TERMS, Instance, Term, TrainRow, check_row, max_tokens
from derta.data.tree import TreeRow, draw_item, group_instances
from derta.errors import DataError
from derta.train.config import Grouping


class AnchorSource(Protocol):
    """Source of the base model's probabilities."""

    def attach(self, row: TrainRow) -> TrainRow:
        """Return the row with its anchor, if it has one."""
        ...


class RowDataset(Dataset[TrainRow | TreeRow]):
    """Dataset of training rows, indexed by `dataset[epoch, index]`. An item is an instance, or a triple's tree.

    The epoch is part of the index, so prefetching loaders, worker copies and distributed processes all draw the same
    rows. An `int` index draws epoch 0. Tokenized rows are the same in every epoch.

    Raises:
        DataError: both tokenized rows and instances, or a row without labels.
    """

    def __init__(self, rows: Sequence[Instance] | Sequence[TrainRow], *, config: RowConfig, seed: int) -> None:
        tokenized = [check_row(row) for row in rows if isinstance(row, TrainRow)]
        if tokenized and len(tokenized) < len(rows):
            raise DataError(
                f"expected either tokenized rows or instances, got both ({len(rows)} in total); pass one kind"
            )
        self.is_tokenized = bool(tokenized)
        self._items: list[list[Instance]] | list[TrainRow] = tokenized
        if not tokenized:
            self._items = group_instances([row for row in rows if isinstance(row, Instance)], config=config)
        self._config = config
        self._seed = seed
        self._lengths: dict[int, int] = {}
        self.anchors: AnchorSource | None = None

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, key: tuple[int, int] | int) -> TrainRow | TreeRow:
        row = self._draw(*(key if isinstance(key, tuple) else (0, key)))
        return row if self.anchors is None or not isinstance(row, TrainRow) else self.anchors.attach(row)

    def _draw(self, epoch: int, index: int) -> TrainRow | TreeRow:
        """Return a row without its anchor."""
        item = self._items[index]
        return (
            item if isinstance(item, TrainRow) else draw_item(item, config=self._config, seed=self._seed, epoch=epoch)
        )

    def term(self, index: int) -> Term | None:
        """Return the term of a row; None for a tree."""
        item = self._items[index]
        return item.term if isinstance(item, TrainRow) else item[0].term if len(item) == 1 else None

    def length(self, epoch: int, index: int) -> int:
        """Return the number of tokens of a row; cached, unless it differs by epoch, as with a harmful prefix."""
        item = self._items[index]
        if not isinstance(item, TrainRow) and any(instance.varies for instance in item):
            return len(self._draw(epoch, index).input_ids)
        if index not in self._lengths:
            self._lengths[index] = len(self._draw(epoch, index).input_ids)
        return self._lengths[index]

    def longest(self) -> tuple[str, int]:
        """Return the id and the number of tokens of the row that is longest in any epoch; in a tree, its depth."""
        rows = [row for item in self._items for row in ([item] if isinstance(item, TrainRow) else item)]
        lengths = [max_tokens(row, config=self._config) for row in rows]
        place = max(range(len(rows)), key=lengths.__getitem__)
        return rows[place].id, lengths[place]


def parse_rows(rows: Any) -> list[Instance] | list[TrainRow]:
    """Parse a user's tokenized rows: mappings with `input_ids`, `labels` and `term`. Rows and instances are unchanged.

    >>> parse_rows([{"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "term": "helpful"}])
    [TrainRow(id='0', term='helpful', input_ids=[1, 2, 3], labels=[-100, 2, 3], ...)]

    Raises:
        DataError: a row lacks one of the keys, or its term is unknown.
    """
    return [_parse_row(row, str(number)) for number, row in enumerate(rows)]


def _parse_row(row: Any, name: str) -> Any:
    if isinstance(row, Instance | TrainRow):
        return row
    fields = ("input_ids", "labels", "term")
    if not isinstance(row, Mapping) or any(field not in row for field in fields):
        got = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
        raise DataError(f"row {name}: expected {', '.join(fields)}, got {got}; pass rows with all three")
    if row["term"] not in TERMS:
        raise DataError(f"row {name}: expected the term {', '.join(TERMS)}, got {row['term']!r}")
    input_ids, labels = (_ids(row[field], name, field) for field in fields[:2])
    return TrainRow(str(row.get("id", name)), row["term"], input_ids, labels)


def _ids(tokens: Any, name: str, field: str) -> list[int]:
    try:
        return [index(token) for token in tokens]
    except TypeError as error:
        raise DataError(
            f"row {name}: expected {field} to be token ids, got {tokens!r:.40}; tokenize the text first"
        ) from error


@dataclass(frozen=True, slots=True)
class StepSettings:
    """Settings that divide an epoch into optimizer steps, and a step into micro-batches.

    Attributes:
        micro_rows: Mean rows of a micro-batch.
        micro_batches: Micro-batches of a step on each process (gradient accumulation steps).
        num_processes: Number of processes that share a step.
        step_tokens: Tokens of a step; None: a step is `micro_rows * micro_batches * num_processes` rows.
        grouping: A step's rows are grouped into micro-batches in the order drawn ("order"), with balanced numbers of
            tokens ("tokens"), or by similar length ("length").
    """

    micro_rows: int
    micro_batches: int
    num_processes: int = 1
    step_tokens: int | None = None
    grouping: Grouping = "order"


class MicroBatchSampler(Sampler[list[tuple[int, int]]]):
    """Sampler of one process's micro-batches: keys of a `RowDataset`, every instance once an epoch over all processes.

    The order depends only on (seed, epoch), so every process computes the same steps and takes its share. A last step
    with fewer rows than micro-batches leaves some of them empty.
    """

    def __init__(self, dataset: RowDataset, *, settings: StepSettings, seed: int, process_index: int = 0) -> None:
        self._dataset = dataset
        self._settings = settings
        self._seed = seed
        self._process_index = process_index
        self._epoch = 0
        self._num_steps = num_steps(dataset, settings)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; called at the start of each epoch and when training resumes within one."""
        self._epoch = epoch

    def __len__(self) -> int:
        settings = self._settings
        if settings.step_tokens is not None:
            return self._num_steps * settings.micro_batches
        return ceil(len(self._dataset) / (settings.micro_rows * settings.num_processes))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, settings = self._epoch, self._settings
        order = list(range(len(self._dataset)))
        Random(f"{self._seed}:order:{epoch}").shuffle(order)  # noqa: S311
        for rows in self._steps(order, epoch):
            groups = settings.num_processes * settings.micro_batches
            if settings.step_tokens is None:
                rows_per_round = settings.micro_rows * settings.num_processes
                groups = -(-len(rows) // rows_per_round) * settings.num_processes
            micro_batches = group_rows(
                rows,
                lengths=[self._dataset.length(epoch, index) for index in rows] if settings.grouping != "order" else (),
                groups=groups,
                micro_rows=settings.micro_rows,
                grouping=settings.grouping,
            )
            for group in micro_batches[self._process_index :: settings.num_processes]:
                yield [(epoch, index) for index in group]

    def _steps(self, order: list[int], epoch: int) -> Iterator[list[int]]:
        settings = self._settings
        if settings.step_tokens is None:
            size = settings.micro_rows * settings.micro_batches * settings.num_processes
            yield from (order[start : start + size] for start in range(0, len(order), size))
            return
        yield from split_evenly(order, length=lambda index: self._dataset.length(epoch, index), parts=self._num_steps)


def num_steps(dataset: RowDataset, settings: StepSettings) -> int:
    """Return the optimizer steps of each epoch; with `step_tokens`, computed from the first epoch's rows."""
    if settings.step_tokens is None:
        return -(-len(dataset) // (settings.micro_rows * settings.micro_batches * settings.num_processes))
    total = sum(dataset.length(0, index) for index in range(len(dataset)))
    return min(len(dataset), max(1, -(-total // settings.step_tokens)))


def split_evenly(order: Sequence[int], *, length: Callable[[int], int], parts: int) -> Iterator[list[int]]:
    """Split rows into consecutive parts with nearly equal numbers of tokens; a row's midpoint determines its part.

    No part is empty if there are at least as many rows as parts.

    >>> list(split_evenly([0, 1, 2, 3], length=lambda index: (4, 2, 2, 4)[index], parts=2))
    [[0, 1], [2, 3]]
    >>> list(split_evenly([0, 1, 2], length=lambda index: (1, 9, 1)[index], parts=3))
    [[0], [1], [2]]
    """
    lengths = [length(index) for index in order]
    total, before, part = sum(lengths), 0, -1
    split: list[list[int]] = [[] for _ in range(parts)]
    for place, tokens in enumerate(lengths):
        middle = (2 * before + tokens) * parts // (2 * total)
        part = max(min(middle, part + 1), parts - (len(order) - place))
        split[part].append(order[place])
        before += tokens
    return iter(split)


def group_rows(
    rows: Sequence[int], *, lengths: Sequence[int], groups: int, micro_rows: int, grouping: Grouping
) -> list[list[int]]:
    """Group a step's rows into micro-batches.

    With "tokens" and "length" the longest come first, so that processes work on similar lengths at the same time.

    >>> group_rows([10, 11, 12, 13], lengths=[5, 1, 2, 4], groups=2, micro_rows=2, grouping="tokens")
    [[10, 11], [12, 13]]
    >>> group_rows([10, 11, 12, 13], lengths=[5, 1, 2, 4], groups=2, micro_rows=2, grouping="length")
    [[10, 13], [11, 12]]
    """
    if grouping == "order":
        size = max(micro_rows, -(-len(rows) // groups))
        return [list(rows[i * size : (i + 1) * size]) for i in range(groups)]
    by_length = sorted(range(len(rows)), key=lambda place: (-lengths[place], place))
    if grouping == "length":
        size, remainder = divmod(len(rows), groups)
        bounds = [i * size + min(i, remainder) for i in range(groups + 1)]
        grouped = [by_length[start:end] for start, end in pairwise(bounds)]
    else:
        grouped = balance(lengths, groups)
    return [[rows[place] for place in sorted(group)] for group in grouped]


def balance(lengths: Sequence[int], groups: int) -> list[list[int]]:
    """Return groups of indices with balanced sums of lengths: the longest first, each to the group with the lowest sum.

    >>> balance([5, 1, 2, 4], 2)
    [[0, 1], [3, 2]]
    """
    balanced: list[list[int]] = [[] for _ in range(groups)]
    sums = [0] * groups
    for place in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        smallest = sums.index(min(sums))
        balanced[smallest].append(place)
        sums[smallest] += lengths[place]
    return sorted(balanced, key=lambda group: -sum(lengths[i] for i in group))
