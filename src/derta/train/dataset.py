"""Training instances as a torch dataset whose rows depend on the epoch and on nothing that runs, and their batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from operator import index
from random import Random
from typing import Any

from torch.utils.data import Dataset, Sampler

from derta.config import RowConfig
from derta.data.rows import TERMS, Instance, TrainRow, check_row
from derta.data.tree import TreeRow, draw_item, group_instances
from derta.errors import DataError
from derta.train.config import Sharing


class RowDataset(Dataset[TrainRow | TreeRow]):
    """Draws an item's row in an epoch: `dataset[epoch, index]`. An item is an instance or, for trees, a triple's.

    The epoch comes in with the index, so prefetching loaders, worker copies and distributed processes all draw the
    same rows. An `int` index draws epoch 0. Rows that are ready are the same in every epoch.
    """

    def __init__(self, rows: Sequence[Instance] | Sequence[TrainRow], *, config: RowConfig, seed: int) -> None:
        ready = [check_row(row) for row in rows if isinstance(row, TrainRow)]
        if ready and len(ready) < len(rows):
            raise DataError(
                f"expected rows that are ready or instances to draw them from, got both ({len(rows)} in all)"
            )
        self.ready = bool(ready)
        self._items: list[list[Instance]] | list[TrainRow] = ready
        if not ready:
            self._items = group_instances([row for row in rows if isinstance(row, Instance)], config=config)
        self._config = config
        self._seed = seed
        self._lengths: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, key: tuple[int, int] | int) -> TrainRow | TreeRow:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        item = self._items[index]
        if isinstance(item, TrainRow):
            return item
        return draw_item(item, config=self._config, seed=self._seed, epoch=epoch)

    def length(self, epoch: int, index: int) -> int:
        """Tokens of a row; only one with a harmful prefix has another length in every epoch."""
        item = self._items[index]
        if not isinstance(item, TrainRow) and any(one.harmful_prefix for one in item):
            return len(self[epoch, index].input_ids)
        if index not in self._lengths:
            self._lengths[index] = len(self[epoch, index].input_ids)
        return self._lengths[index]


def parse_rows(rows: Any) -> list[Instance] | list[TrainRow]:
    """Rows that a user brings: mappings of `input_ids`, `labels` and `term`; rows and instances pass.

    >>> parse_rows([{"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "term": "helpful"}])
    [TrainRow(id='0', term='helpful', input_ids=[1, 2, 3], labels=[-100, 2, 3], redraw=None)]

    Raises:
        DataError: a row lacks one of them, or has another term.
    """
    return [_ready(row, str(number)) for number, row in enumerate(rows)]


def _ready(row: Any, name: str) -> Any:
    if isinstance(row, Instance | TrainRow):
        return row
    fields = ("input_ids", "labels", "term")
    if not isinstance(row, Mapping) or any(field not in row for field in fields):
        got = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
        raise DataError(f"row {name}: expected {', '.join(fields)}, got {got}; give rows with all three")
    if row["term"] not in TERMS:
        raise DataError(f"row {name}: expected the term {', '.join(TERMS)}, got {row['term']!r}")
    input_ids, labels = (_ids(row[field], name, field) for field in fields[:2])
    return TrainRow(str(row.get("id", name)), row["term"], input_ids, labels)


def _ids(given: Any, name: str, field: str) -> list[int]:
    try:
        return [index(one) for one in given]
    except TypeError as error:
        raise DataError(
            f"row {name}: expected {field} to be token ids, got {given!r:.40}; tokenize the text first"
        ) from error


@dataclass(frozen=True, slots=True)
class StepSettings:
    """How an epoch is cut into optimizer steps, and a step into micro-batches.

    Attributes:
        micro_rows: Rows of a micro-batch, on average.
        micro_batches: Micro-batches of a step on each process.
        num_processes: Processes that share a step.
        step_tokens: Tokens of a step; None: `micro_rows * micro_batches * num_processes` rows make one.
        sharing: A step's rows go to its micro-batches in the order drawn, so that each holds as many tokens as the
            next, or with rows of like length together.
    """

    micro_rows: int
    micro_batches: int
    num_processes: int = 1
    step_tokens: int | None = None
    sharing: Sharing = "order"


class MicroBatchSampler(Sampler[list[tuple[int, int]]]):
    """The micro-batches of one process: keys of a `RowDataset`, every instance once an epoch over all processes.

    The order follows from (seed, epoch), so every process works out the same steps and takes its own share. A last
    step with fewer rows than micro-batches leaves some of them empty.
    """

    def __init__(self, dataset: RowDataset, *, settings: StepSettings, seed: int, process_index: int = 0) -> None:
        self._dataset = dataset
        self._settings = settings
        self._seed = seed
        self._process_index = process_index
        self._epoch = 0
        self._num_steps = num_steps(dataset, settings)

    def set_epoch(self, epoch: int) -> None:
        """Called at each epoch's start, and when training resumes in the middle of one."""
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
                at_once = settings.micro_rows * settings.num_processes
                groups = -(-len(rows) // at_once) * settings.num_processes
            shared = share(
                rows,
                lengths=[self._dataset.length(epoch, index) for index in rows] if settings.sharing != "order" else (),
                groups=groups,
                micro_rows=settings.micro_rows,
                sharing=settings.sharing,
            )
            for group in shared[self._process_index :: settings.num_processes]:
                yield [(epoch, index) for index in group]

    def _steps(self, order: list[int], epoch: int) -> Iterator[list[int]]:
        settings = self._settings
        if settings.step_tokens is None:
            size = settings.micro_rows * settings.micro_batches * settings.num_processes
            yield from (order[start : start + size] for start in range(0, len(order), size))
            return
        yield from split_evenly(order, length=lambda index: self._dataset.length(epoch, index), parts=self._num_steps)


def num_steps(dataset: RowDataset, settings: StepSettings) -> int:
    """Optimizer steps of an epoch; the same in every epoch (by tokens: as the first epoch's rows have them)."""
    if settings.step_tokens is None:
        return -(-len(dataset) // (settings.micro_rows * settings.micro_batches * settings.num_processes))
    total = sum(dataset.length(0, index) for index in range(len(dataset)))
    return min(len(dataset), max(1, -(-total // settings.step_tokens)))


def split_evenly(order: Sequence[int], *, length: Callable[[int], int], parts: int) -> Iterator[list[int]]:
    """Cut rows into consecutive parts of nearly the same number of tokens: a row goes where its middle lies.

    No part is empty, if there are as many rows as parts.

    >>> list(split_evenly([0, 1, 2, 3], length=lambda index: (4, 2, 2, 4)[index], parts=2))
    [[0, 1], [2, 3]]
    >>> list(split_evenly([0, 1, 2], length=lambda index: (1, 9, 1)[index], parts=3))
    [[0], [1], [2]]
    """
    lengths = [length(index) for index in order]
    total, before, part = sum(lengths), 0, -1
    cut: list[list[int]] = [[] for _ in range(parts)]
    for place, tokens in enumerate(lengths):
        middle = (2 * before + tokens) * parts // (2 * total)
        part = max(min(middle, part + 1), parts - (len(order) - place))
        cut[part].append(order[place])
        before += tokens
    return iter(cut)


def share(
    rows: Sequence[int], *, lengths: Sequence[int], groups: int, micro_rows: int, sharing: Sharing
) -> list[list[int]]:
    """Put a step's rows into micro-batches; largest first where that evens out what processes do at the same time.

    >>> share([10, 11, 12, 13], lengths=[5, 1, 2, 4], groups=2, micro_rows=2, sharing="tokens")
    [[10, 11], [12, 13]]
    >>> share([10, 11, 12, 13], lengths=[5, 1, 2, 4], groups=2, micro_rows=2, sharing="length")
    [[10, 13], [11, 12]]
    """
    if sharing == "order":
        size = max(micro_rows, -(-len(rows) // groups))
        return [list(rows[i * size : (i + 1) * size]) for i in range(groups)]
    by_length = sorted(range(len(rows)), key=lambda place: (-lengths[place], place))
    if sharing == "length":
        size, over = divmod(len(rows), groups)
        bounds = [i * size + min(i, over) for i in range(groups + 1)]
        shared = [by_length[start:end] for start, end in pairwise(bounds)]
    else:
        shared = balance(lengths, groups)
    return [[rows[place] for place in sorted(group)] for group in shared]


def balance(lengths: Sequence[int], groups: int) -> list[list[int]]:
    """Share out by length, longest first to the group with the least: sums as even as this rule makes them.

    >>> balance([5, 1, 2, 4], 2)
    [[0, 1], [3, 2]]
    """
    shared: list[list[int]] = [[] for _ in range(groups)]
    sums = [0] * groups
    for place in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        least = sums.index(min(sums))
        shared[least].append(place)
        sums[least] += lengths[place]
    return sorted(shared, key=lambda group: -sum(lengths[i] for i in group))
