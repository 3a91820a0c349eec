"""Rate tables of a summary: one per suite, measure and judge, with attacks as rows and methods as columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from derta.errors import DataError
from derta.reporting.text import MISSING, Label, format_percent
from derta.reporting.wordings import Wording, wording
from derta.results import Cell, Comparison, Place

SUITES = {"attack": "Attacks", "over_refusal": "Over-refusal", "helpfulness": "Helpfulness", "analysis": "Analysis"}


class Bar(NamedTuple):
    """Positions of an interval and its value on a bar of 0 to 100 percent."""

    low: float
    width: float
    value: float


@dataclass(frozen=True, slots=True)
class Entry:
    """Formatted table entry, in percent; `unpooled` marks seeds without a pooled cell.

    `bounds` are the rates if none, and if all, of the unscored and unanswered cases counted.
    """

    value: str
    interval: str | None
    bar: Bar | None
    scored: int
    unscored: int
    unanswered: int = 0
    bounds: tuple[str, str] | None = None
    by_seed: tuple[str, ...] = ()
    unpooled: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Table row: attack or dataset name, category (breakdowns only), and one entry per method (None: not run).

    `place` is one of its cells, for the parts of the name.
    """

    name: str
    category: str | None
    place: Cell
    entries: tuple[Entry | None, ...]


@dataclass(frozen=True, slots=True)
class RateTable:
    """Table of the rates of one suite, measure and judge; `outside` has the names that the recipe has in no mean."""

    suite: str
    measure: str
    judge: str
    wording: Wording
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    labels: Mapping[str, Label]
    rows: tuple[Row, ...]
    means: tuple[Mean | None, ...]
    averaged: tuple[str, ...]
    outside: tuple[str, ...] = ()

    @property
    def num_names(self) -> int:
        """Number of attacks or datasets."""
        return len({row.name for row in self.rows})

    @property
    def num_attacks(self) -> int:
        """Number of attacks in the means; variants of one attack count once."""
        return len(group_by_attack(self.averaged, self.labels))


class Mean(NamedTuple):
    """Mean of a method over attacks, and its worst attack; fractions.

    `bounds` is the mean of the rates if none, and if all, of the unscored and unanswered cases counted; None where no
    averaged rate has bounds.
    """

    value: float
    worst: float
    worst_name: str
    bounds: tuple[float, float] | None = None


def label_of(cell: Cell | Comparison | Place) -> Label:
    """Return the displayed parts of a cell's name."""
    if cell.attack is None:
        return Label(cell.name)
    return Label(cell.attack, cell.variant, cell.dataset)


def unique(values: Iterable[str]) -> tuple[str, ...]:
    """Return the unique values in order of first appearance."""
    return tuple(dict.fromkeys(values))


def group_by_attack(names: Iterable[str], labels: Mapping[str, Label]) -> dict[str, list[str]]:
    """Group cell names by attack; a group has the variants and datasets of one attack.

    >>> labels = {"direct (a)": Label("direct", dataset="a"), "direct (b)": Label("direct", dataset="b")}
    >>> group_by_attack(labels, labels)
    {'direct': ['direct (a)', 'direct (b)']}
    """
    grouped: dict[str, list[str]] = {}
    for name in names:
        grouped.setdefault(labels[name].base, []).append(name)
    return grouped


def rate_tables(cells: Sequence[Cell]) -> tuple[RateTable, ...]:
    """Build one table per suite, measure and judge, in the order of `SUITES`.

    Raises:
        DataError: two cells have the same key.
    """
    order = list(SUITES)
    keys = sorted(dict.fromkeys((c.suite, c.measure, c.judge) for c in cells), key=lambda key: order.index(key[0]))
    return tuple(_table([c for c in cells if (c.suite, c.measure, c.judge) == key]) for key in keys)


def _table(cells: Sequence[Cell]) -> RateTable:
    first = cells[0]
    methods = unique(cell.method for cell in cells)
    seeds = tuple(sorted({cell.seed for cell in cells if cell.seed is not None}))
    cells_by_key = _group_by_key(cells)
    names = dict.fromkeys((cell.name, cell.category) for cell in cells)
    # breakdowns list the categories of one attack together
    ordered = [key for name in unique(name for name, _ in names) for key in names if key[0] == name]
    places = {(cell.name, cell.category): cell for cell in cells}
    rows = tuple(
        Row(*key, places[key], tuple(_entry(cells_by_key.get((m, *key)), seeds=seeds) for m in methods))
        for key in ordered
    )
    words = wording(first.suite, first.measure)
    names_without_category = unique(cell.name for cell in cells if cell.category is None)
    labels = {cell.name: label_of(cell) for cell in cells}
    outside = unique(cell.name for cell in cells if not cell.in_means)
    attacks = group_by_attack([name for name in names_without_category if name not in outside], labels)
    averaged, means = _means(cells_by_key, methods=methods, attacks=attacks, better=words.better)
    return RateTable(
        suite=first.suite,
        measure=first.measure,
        judge=first.judge,
        wording=words,
        methods=methods,
        seeds=seeds,
        labels=labels,
        rows=rows,
        means=means,
        averaged=averaged,
        outside=outside,
    )


Key = tuple[str, str, str | None]
BySeed = dict[int | None, Cell]


def _group_by_key(cells: Sequence[Cell]) -> dict[Key, BySeed]:
    groups: dict[Key, BySeed] = {}
    for cell in cells:
        seeds = groups.setdefault((cell.method, cell.name, cell.category), {})
        if cell.seed in seeds:
            raise DataError(
                f"summary: expected one cell for method {cell.method!r}, {cell.suite} {cell.name!r}, judge "
                f"{cell.judge!r}, measure {cell.measure!r}, seed {cell.seed}, category {cell.category!r}; got two. "
                "Merge them"
            )
        seeds[cell.seed] = cell
    return groups


def pooled_cells(cells: Sequence[Cell]) -> list[Cell]:
    """Return the pooled cell of each method, name and judge, or that of a single seed; others are left out."""
    groups: dict[tuple[object, ...], BySeed] = {}
    for one in cells:
        key = (one.suite, one.measure, one.judge, one.method, one.name, one.category)
        groups.setdefault(key, {})[one.seed] = one
    pooled = [_pooled_cell(by_seed) for by_seed in groups.values()]
    return [cell for cell in pooled if cell is not None]


def _pooled_cell(by_seed: BySeed) -> Cell | None:
    """Return the pooled cell, or the cell of a single seed; None for several seeds without a pooled cell."""
    return by_seed.get(None) or (next(iter(by_seed.values())) if len(by_seed) == 1 else None)


def _entry(by_seed: BySeed | None, *, seeds: Sequence[int]) -> Entry | None:
    if by_seed is None:
        return None
    cell = _pooled_cell(by_seed)
    values = {seed: format_percent(by_seed[seed].value) if seed in by_seed else MISSING for seed in seeds}
    seed_values = tuple(values.values()) if len(seeds) > 1 else ()
    if cell is None:
        seed_cells = by_seed.values()
        scored, unscored = sum(c.scored for c in seed_cells), sum(c.unscored for c in seed_cells)
        unanswered = sum(c.unanswered for c in seed_cells)
        return Entry(MISSING, None, None, scored, unscored, unanswered, by_seed=seed_values, unpooled=True)
    counts = (cell.scored, cell.unscored, cell.unanswered)
    bounds = None if cell.bounds is None else (format_percent(cell.bounds[0]), format_percent(cell.bounds[1]))
    if cell.value is None or cell.low is None or cell.high is None:
        return Entry(format_percent(cell.value), None, None, *counts, bounds=bounds, by_seed=seed_values)
    low, value, high = (100 * min(1.0, max(0.0, x)) for x in (cell.low, cell.value, cell.high))
    return Entry(
        value=format_percent(cell.value),
        interval=f"{format_percent(cell.low)}–{format_percent(cell.high)}",
        bar=Bar(round(low, 1), round(max(0.0, high - low), 1), round(value, 1)),
        scored=cell.scored,
        unscored=cell.unscored,
        unanswered=cell.unanswered,
        bounds=bounds,
        by_seed=seed_values,
    )


def _means(
    cells_by_key: dict[Key, BySeed],
    *,
    methods: Sequence[str],
    attacks: Mapping[str, Sequence[str]],
    better: str | None,
) -> tuple[tuple[str, ...], tuple[Mean | None, ...]]:
    """Return the averaged names and each method's mean over them.

    Only names with a value for every method are averaged. Variants and datasets of one attack count as one.
    """
    values: dict[tuple[str, str], float] = {}
    bounds: dict[tuple[str, str], tuple[float, float]] = {}
    for (method, name, category), by_seed in cells_by_key.items():
        cell = _pooled_cell(by_seed)
        if category is None and cell is not None and cell.value is not None:
            values[method, name] = cell.value
            if cell.bounds is not None:
                bounds[method, name] = cell.bounds
    shared = [[name for name in names if all((m, name) in values for m in methods)] for names in attacks.values()]
    averaged = tuple(name for names in shared for name in names)
    if not averaged:
        return (), tuple(None for _ in methods)
    means: list[Mean] = []
    for method in methods:

        def mean_of(rates: Mapping[tuple[str, str], float], method: str = method) -> float:
            of_attacks = [[rates[method, name] for name in members] for members in shared if members]
            return sum(sum(members) / len(members) for members in of_attacks) / len(of_attacks)

        worst = (min if better == "higher" else max)(averaged, key=lambda name: values[method, name])
        low, high = (mean_of(values | {key: each[side] for key, each in bounds.items()}) for side in (0, 1))
        has_bounds = any((method, name) in bounds for name in averaged)
        means.append(Mean(mean_of(values), values[method, worst], worst, (low, high) if has_bounds else None))
    return averaged, tuple(means)
