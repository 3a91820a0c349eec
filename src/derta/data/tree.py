"""Prefix trees of a triple's training rows: a shared prefix is computed only once.

The input of the RTO row is q + r-hat; that of a safe row is q + the first k tokens of r-hat, then the safe response. In
a trie, the safe responses are branches of the trunk at their k. With attention to a node's ancestors only and depths as
position ids, every row has the same outputs as in a batch of separate rows. So an expectation over n prefixes costs
about n additional safe responses, instead of n whole rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from derta.config import RowConfig
from derta.data.rows import IGNORE, Instance, Term, TrainRow, check_row, draw_row
from derta.errors import DataError


class TreeLabel(NamedTuple):
    """Label `target`, or one of its `alternatives`, of the output at `node`; it belongs to the tree's row `row`."""

    node: int
    target: int
    term: Term
    row: int
    alternatives: tuple[int, ...] = ()


class TreeRow(NamedTuple):
    """Rows merged by their common prefixes, nodes in depth-first preorder: node j is visible to i iff j <= i < ends[j].

    `position_ids` are depths. A node may have several labels. `num_rows` is the number of merged rows.
    """

    id: str
    input_ids: list[int]
    position_ids: list[int]
    ends: list[int]
    labels: list[TreeLabel]
    num_rows: int


def expand_branches(instances: Sequence[Instance], branches: int) -> list[Instance]:
    """Return each instance with a harmful prefix `branches` times, and the others once (copies would be equal).

    Branch 0 has the id of the original instance, so its row is the same as without branches.

    >>> from derta.data.triple_encoding import EncodedTriple
    >>> from derta.data.rows import instances
    >>> triple = EncodedTriple("t", (1,), (1,), (2,), (2,), (2,), (3,), (), ((4,), (4,)), frozenset(), (0, 1))
    >>> [one.id for one in expand_branches(instances(triples=[triple], examples=[], harmful_prefix=True, rto=True), 2)]
    ['safe:t', 'safe:t#1', 'rto:t']
    """
    return [
        copy
        for one in instances
        for copy in ([one._replace(branch=j) for j in range(branches)] if one.harmful_prefix else [one])
    ]


def group_instances(instances: Sequence[Instance], *, config: RowConfig) -> list[list[Instance]]:
    """Return the items of a training set: single instances or, for trees, all instances of a triple.

    A tree's RTO row comes first, as its trunk. Helpful, completion and counter rows are items of their own.
    """
    expanded = expand_branches(instances, config.branches_per_triple)
    if not config.tree_rows:
        return [[one] for one in expanded]
    from_triples = sorted((one for one in expanded if one.is_of_triple), key=_trunk_first)
    trees = [list(group) for _, group in groupby(from_triples, key=lambda one: one.source_index)]
    return [*([one] for one in expanded if not one.is_of_triple), *trees]


def _trunk_first(one: Instance) -> tuple[int, bool, int]:
    return one.source_index, one.term != "rto", one.branch


def draw_item(item: Sequence[Instance], *, config: RowConfig, seed: int, epoch: int) -> TrainRow | TreeRow:
    """Return an item's row in an epoch, or the tree of its rows.

    Raises:
        DataError: A row is invalid (see `check_row`).
    """
    rows = [check_row(draw_row(one, config=config, seed=seed, epoch=epoch)) for one in item]
    return rows[0] if len(rows) == 1 else tree_of(rows)


def tree_of(rows: Sequence[TrainRow]) -> TreeRow:
    """Merge rows into a tree by their common prefixes.

    >>> rto = TrainRow("t", "rto", [1, 7, 8], [-100, 5, 5])
    >>> safe = TrainRow("t", "safe", [1, 7, 2, 3], [-100, -100, 2, 3])
    >>> tree = tree_of([rto, safe])
    >>> tree.input_ids, tree.position_ids, tree.ends
    ([1, 7, 8, 2, 3], [0, 1, 2, 2, 3], [5, 5, 3, 5, 5])
    >>> [(one.node, one.target) for one in tree.labels]
    [(0, 5), (1, 5), (1, 2), (3, 3)]

    Raises:
        DataError: A row of the released code's dropout, whose labels depend on its batch.
    """
    if with_dropout := [row.id for row in rows if row.redraw is not None]:
        raise DataError(
            f"row {with_dropout[0]}: expected labels that are known before batching, got the released code's dropout; "
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
        TreeLabel(places[path[i - 1]], label, row.term, number, (row.alternatives or {}).get(i, ()))
        for number, (row, path) in enumerate(zip(rows, paths, strict=True))
        for i, label in enumerate(row.labels)
        if label != IGNORE
    ]
    return TreeRow(rows[0].id, input_ids, position_ids, ends, labels, len(rows))


def _insert(input_ids: Sequence[int], nodes: dict[tuple[int, int], int]) -> list[int]:
    """Insert a row into the trie, and return its path of nodes."""
    path = [-1]
    for token in input_ids:
        path.append(nodes.setdefault((path[-1], token), len(nodes)))
    return path[1:]


class _Preorder(NamedTuple):
    """Preorder of a tree: `places` by node, and the end of its subtree by place."""

    places: list[int]
    ends: list[int]


def _preorder(parents: Sequence[int]) -> _Preorder:
    """Compute the depth-first preorder; parents have lower numbers than their children, siblings retain their order."""
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
