"""Several rows of one triple: drawn as branches, and laid over one trunk so that what they share is read once.

The RTO row reads q + r-hat; a safe row reads q + the first k tokens of r-hat, then the safe response. Put into a trie,
the safe responses hang off the trunk at their k. Attention that sees a node's ancestors only, and positions that count
depth, make every row's outputs what they are when the row stands alone, so an expectation over n prefixes costs about
n safe responses more, and not n whole rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from derta.config import RowConfig
from derta.data.rows import IGNORE, Instance, Term, TrainRow, check_row, draw_row
from derta.errors import DataError


class TreeLabel(NamedTuple):
    """The model's output at `node` is taught to say `target`, for the tree's row number `row`."""

    node: int
    target: int
    term: Term
    row: int


class TreeRow(NamedTuple):
    """Rows that share their beginnings, nodes in depth-first preorder: node j is visible to i iff j <= i < ends[j].

    `position_ids` are depths. A node may carry several targets. `num_rows` is the number of rows laid down.
    """

    id: str
    input_ids: list[int]
    position_ids: list[int]
    ends: list[int]
    labels: list[TreeLabel]
    num_rows: int


def expand_branches(given: Sequence[Instance], branches: int) -> list[Instance]:
    """The instances with a harmful prefix `branches` times, the others once: without a prefix, copies would be equal.

    Branch 0 keeps its id, so it draws the row that it draws alone.

    >>> from derta.data.encoding import EncodedTriple
    >>> from derta.data.rows import instances
    >>> triple = EncodedTriple("t", (1,), (1,), (2,), (2,), (2,), (3,), (), ((4,), (4,)), frozenset(), (0, 1))
    >>> [one.id for one in expand_branches(instances(triples=[triple], examples=[], harmful_prefix=True, rto=True), 2)]
    ['safe:t', 'safe:t#1', 'rto:t']
    """
    return [one._replace(branch=j) for one in given for j in range(branches if one.harmful_prefix else 1)]


def group_instances(given: Sequence[Instance], *, config: RowConfig) -> list[list[Instance]]:
    """What a training set is counted and shuffled in: single instances or, for trees, all instances of a triple.

    A tree's RTO row comes first, so that it is the trunk.
    """
    every = expand_branches(given, config.branches_per_triple)
    if not config.tree_rows:
        return [[one] for one in every]
    of_triples = sorted((one for one in every if one.term != "helpful"), key=_trunk_first)
    trees = [list(group) for _, group in groupby(of_triples, key=lambda one: one.source_index)]
    return [*([one] for one in every if one.term == "helpful"), *trees]


def _trunk_first(one: Instance) -> tuple[int, bool, int]:
    return one.source_index, one.term != "rto", one.branch


def draw_item(item: Sequence[Instance], *, config: RowConfig, seed: int, epoch: int) -> TrainRow | TreeRow:
    """An item's row in an epoch, or the tree of its rows.

    Raises:
        DataError: a row is one that a loss could not use.
    """
    rows = [check_row(draw_row(one, config=config, seed=seed, epoch=epoch)) for one in item]
    return rows[0] if len(rows) == 1 else tree_of(rows)


def tree_of(rows: Sequence[TrainRow]) -> TreeRow:
    """Lay rows over each other as far as their tokens are the same.

    >>> rto = TrainRow("t", "rto", [1, 7, 8], [-100, 5, 5])
    >>> safe = TrainRow("t", "safe", [1, 7, 2, 3], [-100, -100, 2, 3])
    >>> tree = tree_of([rto, safe])
    >>> tree.input_ids, tree.position_ids, tree.ends
    ([1, 7, 8, 2, 3], [0, 1, 2, 2, 3], [5, 5, 3, 5, 5])
    >>> [(one.node, one.target) for one in tree.labels]
    [(0, 5), (1, 5), (1, 2), (3, 3)]

    Raises:
        DataError: a row is the released code's, whose labels depend on the batch that it comes in.
    """
    if drawn_later := [row.id for row in rows if row.redraw is not None]:
        raise DataError(
            f"row {drawn_later[0]}: expected labels that are known before batching, got the released code's dropout; "
            "set `tree_rows` or `reference` to false"
        )
    nodes: dict[tuple[int, int], int] = {}  # (parent, token): number, in order of coming; the root is -1
    paths = [_insert(row.input_ids, nodes) for row in rows]
    places, ends = _preorder([parent for parent, _ in nodes])
    input_ids, position_ids = [0] * len(nodes), [0] * len(nodes)
    for (parent, token), node in nodes.items():
        input_ids[places[node]] = token
        position_ids[places[node]] = 0 if parent < 0 else position_ids[places[parent]] + 1
    labels = [
        TreeLabel(places[path[i - 1]], label, row.term, number)
        for number, (row, path) in enumerate(zip(rows, paths, strict=True))
        for i, label in enumerate(row.labels)
        if label != IGNORE
    ]
    return TreeRow(rows[0].id, input_ids, position_ids, ends, labels, len(rows))


def _insert(input_ids: Sequence[int], nodes: dict[tuple[int, int], int]) -> list[int]:
    """Put a row into the trie; the nodes that it goes along."""
    path = [-1]
    for token in input_ids:
        path.append(nodes.setdefault((path[-1], token), len(nodes)))
    return path[1:]


class _Preorder(NamedTuple):
    """By node, its place; by place, where its subtree ends."""

    places: list[int]
    ends: list[int]


def _preorder(parents: Sequence[int]) -> _Preorder:
    """Lay nodes out depth first, siblings in the order of their numbers; a parent's number is below its children's."""
    sizes = [1] * (len(parents) + 1)  # the root, -1, is last
    for node in reversed(range(len(parents))):
        sizes[parents[node]] += sizes[node]
    free = [0] * len(sizes)  # by node, the next free place among its descendants
    places, ends = [0] * len(parents), [0] * len(parents)
    for node, parent in enumerate(parents):
        places[node] = free[parent]
        ends[places[node]] = free[parent] = places[node] + sizes[node]
        free[node] = places[node] + 1
    return _Preorder(places, ends)
