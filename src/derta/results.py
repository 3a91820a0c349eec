"""The numbers of a run: what `summary.json` holds and the report draws. Rates are fractions in [0, 1]."""

from __future__ import annotations

from typing import Literal, NamedTuple

from derta.records import Prompt, Record, Reply, Verdict
from derta.stats import Rate

CellSuite = Literal["attack", "over_refusal", "helpfulness", "analysis"]
CurveKind = Literal["refusal_position", "refusal_probability", "prefill_depth"]
METHODS_WITH_THE_FIRST = "methods with the first"


class Place(NamedTuple):
    """The prompts that one cell counts: a shown name, and the attack, variant or data set that it is made of."""

    suite: CellSuite
    name: str
    attack: str | None = None
    variant: str | None = None
    dataset: str | None = None
    category: str | None = None


def place_of(prompt: Prompt, *, by_category: bool = False) -> Place:
    """The place that a prompt counts in: its attack and variant, or its data set; and its category, if asked.

    >>> prompt = Prompt(id="1", request_id="r", attack="prefill", variant="50%", mode="raw", text="?", category="a")
    >>> place_of(prompt)
    Place(suite='attack', name='prefill@50%', attack='prefill', variant='50%', dataset=None, category=None)
    >>> place_of(prompt.model_copy(update={"suite": "over_refusal", "dataset": "xstest"}))[1:5]
    ('xstest', None, None, 'xstest')
    """
    is_dataset = prompt.suite != "attack" and prompt.dataset is not None
    attack, variant = (None, None) if is_dataset else (prompt.attack, prompt.variant)
    category = prompt.category if by_category else None
    return Place(prompt.suite, prompt.cell, attack, variant, prompt.dataset, category)


class Cell(Record):
    """One rate of one method: `value` in [low, high] over `scored` cases; `unscored` more could not be judged.

    `measure` says what the rate counts: replies that are `harmful`, `refused` or `correct`, or a share that an
    analysis names. `seed` is None where seeds are pooled; `category` is None where all categories are. `name` is shown;
    `attack`, `variant` and `dataset` are what it is made of, None where it is made of something else.

    >>> from derta.stats import rate
    >>> place = Place("attack", "prefill@50%", attack="prefill", variant="50%")
    >>> cell = cell_of(rate([True, False]), place=place, method="derta", seed=0, judge="harm", measure="harmful")
    >>> cell.value, cell.scored, cell.attack
    (0.5, 2, 'prefill')
    """

    method: str
    seed: int | None
    suite: CellSuite
    name: str
    judge: str
    measure: str
    value: float | None
    low: float | None
    high: float | None
    scored: int
    unscored: int
    category: str | None = None
    attack: str | None = None
    variant: str | None = None
    dataset: str | None = None


class Comparison(Record):
    """Two methods on the same prompts (paired): exact McNemar, Holm-corrected over all comparisons of a `question`.

    `derta.compare` makes them:

    >>> from derta.metrics.comparisons import compare
    >>> from derta.records import Verdict
    >>> first, second = (
    ...     [Verdict(prompt_id=str(i), judge="harm", harmful=harmful) for i in range(8)] for harmful in (True, False)
    ... )
    >>> compare(first, second).only_first
    8
    """

    first: str
    second: str
    suite: CellSuite
    name: str
    judge: str
    measure: str
    first_value: float
    second_value: float
    only_first: int
    only_second: int
    pairs: int
    p_value: float
    p_holm: float
    question: str = METHODS_WITH_THE_FIRST
    attack: str | None = None
    variant: str | None = None
    dataset: str | None = None


class Curve(Record):
    """A line of a plot: `y` (and its band) over `x`.

    `refusal_position`: cumulative share of refusals that have begun by token x. `refusal_probability`: mean probability
    of a refusal token at token x of a harmful answer. `prefill_depth`: rate over the share x of the answer prefilled.
    """

    kind: CurveKind
    method: str
    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    count: int
    x_unit: str
    y_label: str


class Transcript(Record):
    """One prompt, a method's reply to it, and what the judges said."""

    method: str
    seed: int | None
    prompt: Prompt
    reply: Reply
    verdicts: tuple[Verdict, ...]


class Summary(Record):
    """What `summary.json` holds. `notes` are plain sentences a reader must know (counts of dropped rows …).

    >>> Summary(title="a run", recipe="a run", versions={}, cells=()).comparisons
    ()
    """

    title: str
    recipe: str
    versions: dict[str, str]
    cells: tuple[Cell, ...]
    breakdown: tuple[Cell, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    curves: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = ()


def cell_of(rate: Rate, *, place: Place, method: str, seed: int | None, judge: str, measure: str) -> Cell:
    """A cell with a rate's numbers."""
    return Cell(method=method, seed=seed, judge=judge, measure=measure, **place._asdict(), **rate._asdict())
