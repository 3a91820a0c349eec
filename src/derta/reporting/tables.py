"""The cells of a summary as tables: one per suite, measure and judge, attacks down and methods across."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from derta.errors import DataError
from derta.reporting.text import Label, percent
from derta.reporting.wordings import Wording, wording
from derta.results import Cell, Comparison, Place

SUITES = {"attack": "Attacks", "over_refusal": "Over-refusal", "helpfulness": "Helpfulness", "analysis": "Analysis"}


class Bar(NamedTuple):
    """Where an interval and its value lie on a line of 0 to 100."""

    low: float
    width: float
    value: float


@dataclass(frozen=True, slots=True)
class Entry:
    """What one field of a table shows; percent as text. `unpooled` marks seeds that nobody pooled."""

    value: str
    interval: str | None
    bar: Bar | None
    scored: int
    unscored: int
    by_seed: tuple[str, ...] = ()
    unpooled: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A row: its name, the category (breakdowns only), and an entry a method or None where the method was not run."""

    name: str
    category: str | None
    entries: tuple[Entry | None, ...]


@dataclass(frozen=True, slots=True)
class RateTable:
    """All rates of one suite, measure and judge."""

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

    @property
    def num_names(self) -> int:
        """How many attacks or data sets there are."""
        return len({row.name for row in self.rows})

    @property
    def num_families(self) -> int:
        """How many attacks the means are over, variants of one attack counting once."""
        return len(families(self.averaged, self.labels))


class Mean(NamedTuple):
    """A method's mean over attacks, and the attack where it does worst; fractions."""

    value: float
    worst: float
    worst_name: str


def label_of(cell: Cell | Comparison | Place) -> Label:
    """The parts of a cell's name, as the page shows them."""
    if cell.attack is None:
        return Label(cell.name)
    return Label(cell.attack, cell.variant, cell.dataset)


def distinct(values: Iterable[str]) -> tuple[str, ...]:
    """Each value once, in order of first appearance."""
    return tuple(dict.fromkeys(values))


def families(names: Iterable[str], labels: Mapping[str, Label]) -> dict[str, list[str]]:
    """The variants and data sets of each attack.

    >>> labels = {"direct (a)": Label("direct", dataset="a"), "direct (b)": Label("direct", dataset="b")}
    >>> families(labels, labels)
    {'direct': ['direct (a)', 'direct (b)']}
    """
    grouped: dict[str, list[str]] = {}
    for name in names:
        grouped.setdefault(labels[name].base, []).append(name)
    return grouped


def rate_tables(cells: Sequence[Cell]) -> tuple[RateTable, ...]:
    """One table per suite, measure and judge, in the order of `SUITES`.

    Raises:
        DataError: two cells claim the same place.
    """
    order = list(SUITES)
    keys = sorted(dict.fromkeys((c.suite, c.measure, c.judge) for c in cells), key=lambda key: order.index(key[0]))
    return tuple(_table([c for c in cells if (c.suite, c.measure, c.judge) == key]) for key in keys)


def _table(cells: Sequence[Cell]) -> RateTable:
    first = cells[0]
    methods = distinct(cell.method for cell in cells)
    seeds = tuple(sorted({cell.seed for cell in cells if cell.seed is not None}))
    places = _by_place(cells)
    names = dict.fromkeys((cell.name, cell.category) for cell in cells)
    # breakdowns group the rows of one attack, in whatever order its categories came
    ordered = [key for name in distinct(name for name, _ in names) for key in names if key[0] == name]
    rows = tuple(Row(*key, tuple(_entry(places.get((m, *key)), seeds=seeds) for m in methods)) for key in ordered)
    words = wording(first.suite, first.measure)
    whole = distinct(cell.name for cell in cells if cell.category is None)
    labels = {cell.name: label_of(cell) for cell in cells}
    averaged, means = _means(places, methods=methods, families=families(whole, labels), better=words.better)
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
    )


Key = tuple[str, str, str | None]
BySeed = dict[int | None, Cell]


def _by_place(cells: Sequence[Cell]) -> dict[Key, BySeed]:
    places: dict[Key, BySeed] = {}
    for cell in cells:
        seeds = places.setdefault((cell.method, cell.name, cell.category), {})
        if cell.seed in seeds:
            raise DataError(
                f"summary: expected one cell for method {cell.method!r}, {cell.suite} {cell.name!r}, judge "
                f"{cell.judge!r}, measure {cell.measure!r}, seed {cell.seed}, category {cell.category!r}; got two. "
                "Merge them"
            )
        seeds[cell.seed] = cell
    return places


def _main(by_seed: BySeed) -> Cell | None:
    """The cell that speaks for all: the pooled one, or the only one."""
    return by_seed.get(None) or (next(iter(by_seed.values())) if len(by_seed) == 1 else None)


def _entry(by_seed: BySeed | None, *, seeds: Sequence[int]) -> Entry | None:
    if by_seed is None:
        return None
    cell = _main(by_seed)
    single = {seed: percent(by_seed[seed].value) if seed in by_seed else "–" for seed in seeds}
    shown_seeds = tuple(single.values()) if len(seeds) > 1 else ()
    if cell is None:
        scored, unscored = sum(c.scored for c in by_seed.values()), sum(c.unscored for c in by_seed.values())
        return Entry("–", None, None, scored, unscored, shown_seeds, unpooled=True)
    if cell.value is None or cell.low is None or cell.high is None:
        return Entry(percent(cell.value), None, None, cell.scored, cell.unscored, shown_seeds)
    low, value, high = (100 * min(1.0, max(0.0, x)) for x in (cell.low, cell.value, cell.high))
    return Entry(
        value=percent(cell.value),
        interval=f"{percent(cell.low)}–{percent(cell.high)}",
        bar=Bar(round(low, 1), round(max(0.0, high - low), 1), round(value, 1)),
        scored=cell.scored,
        unscored=cell.unscored,
        by_seed=shown_seeds,
    )


def _means(
    places: dict[Key, BySeed], *, methods: Sequence[str], families: Mapping[str, Sequence[str]], better: str | None
) -> tuple[tuple[str, ...], tuple[Mean | None, ...]]:
    """Mean over the names that every method has a value for; the variants and data sets of one attack count as one."""
    values: dict[tuple[str, str], float] = {}
    for (method, name, category), by_seed in places.items():
        cell = _main(by_seed)
        if category is None and cell is not None and cell.value is not None:
            values[method, name] = cell.value
    shared = [[name for name in names if all((m, name) in values for m in methods)] for names in families.values()]
    averaged = tuple(name for names in shared for name in names)
    if not averaged:
        return (), tuple(None for _ in methods)
    means: list[Mean] = []
    for method in methods:
        rates = [[values[method, name] for name in members] for members in shared if members]
        mean = sum(sum(members) / len(members) for members in rates) / len(rates)
        worst = (min if better == "higher" else max)(averaged, key=lambda name: values[method, name])
        means.append(Mean(mean, values[method, worst], worst))
    return averaged, tuple(means)
