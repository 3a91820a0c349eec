"""Results of a run, the format of `summary.json` and the input of the report. Rates are fractions in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from derta.frontier_records import AnswerLength as AnswerLength  # names of this module, too
from derta.frontier_records import AxisName as AxisName
from derta.frontier_records import Frontier as Frontier
from derta.frontier_records import FrontierAxis as FrontierAxis
from derta.frontier_records import FrontierDifference as FrontierDifference
from derta.frontier_records import FrontierPoint as FrontierPoint
from derta.frontier_records import FrontierRate as FrontierRate
from derta.records import Prompt, Record, Reply, Verdict
from derta.stats import Rate

CellSuite = Literal["attack", "over_refusal", "helpfulness", "analysis"]
CurveKind = Literal["refusal_position", "refusal_probability", "benign_probability", "roc", "prefill_depth", "any_of_n"]
METHODS_WITH_THE_FIRST = "methods with the first"


class Place(NamedTuple):
    """Key of a cell: the displayed name of its prompts, and the attack, variant or dataset that the name contains."""

    suite: CellSuite
    name: str
    attack: str | None = None
    variant: str | None = None
    dataset: str | None = None
    category: str | None = None


def place_of(prompt: Prompt, *, by_category: bool = False) -> Place:
    """Return the key of a prompt's cell: its attack and variant, or its dataset; `by_category` adds its category.

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
    """One rate of one method: `value` in [low, high] over `scored` cases.

    `unscored` cases have no verdict and `unanswered` ones no reply; neither is in the denominator.

    Attributes:
        measure: The outcome that the rate counts: `harmful`, `refused` or `correct` replies, or a share that an
            analysis defines.
        seed: None if seeds are pooled.
        bounds: The rates if none, and if all, of the unscored and unanswered cases counted; None if they are at most
            5 % of the cases.
        category: None if categories are pooled.
        in_means: Whether the means over attacks or data sets count it (`in_means` of the recipe's evaluation).
        name: The displayed name. `attack`, `variant` and `dataset` are its parts, None if it does not contain them.

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
    unanswered: int = 0
    bounds: tuple[float, float] | None = None
    category: str | None = None
    attack: str | None = None
    variant: str | None = None
    dataset: str | None = None
    in_means: bool = True


class Comparison(Record):
    """Paired comparison of two methods on the same prompts: exact McNemar test, Holm-corrected within a `question`.

    `left_out` counts the prompts of this cell without a pair: they are scored for one of the methods or for none.
    `difference_low` and `difference_high` are the 95 % interval of `first_value - second_value` (Newcombe's for paired
    proportions, see `derta.metrics.paired`); None in a summary of an older version. `derta.compare` returns it:

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
    difference_low: float | None = None
    difference_high: float | None = None
    left_out: int = 0
    question: str = METHODS_WITH_THE_FIRST
    attack: str | None = None
    variant: str | None = None
    dataset: str | None = None


class Curve(Record):
    """A curve of a plot: `y`, with an optional band from `low` to `high`, over `x`.

    The `kind` is one of:

    - `refusal_position`: cumulative share of the refusals that start at or before token x.
    - `refusal_probability`: mean probability of a refusal token at token x of a harmful answer.
    - `benign_probability`: the same of a benign answer.
    - `roc`: share of the harmful answers that reach a threshold which x % of the benign ones reach, at a depth.
    - `prefill_depth`: rate over the prefilled share x of the answer.
    - `any_of_n`: attack success in any of x attempts: samples of a prompt, or draws for a request.
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
    """A prompt, a method's reply, and the judges' verdicts.

    `refusal_probability` has the probability of a refusal token before each token of the reply; None if it is not
    measured.
    """

    method: str
    seed: int | None
    prompt: Prompt
    reply: Reply
    verdicts: tuple[Verdict, ...]
    refusal_probability: tuple[float, ...] | None = None


class ScoredAnswer(Record):
    """A held-out harmful answer with a method's probability of a refusal token before each of its tokens.

    `token_starts` are the character offsets of the tokens in `text`.
    """

    method: str
    seed: int | None
    request_id: str
    request: str
    text: str
    token_starts: tuple[int, ...]
    refusal_probability: tuple[float, ...]


class Summary(Record):
    """Contents of `summary.json`.

    `baseline` is the method that the others are compared with, `recommended` the one that the report's verdict is on;
    None without methods. `notes` are sentences for the reader of the report, such as counts of dropped rows.

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
    frontier: Frontier | None = None
    baseline: str | None = None
    recommended: str | None = None
    notes: tuple[str, ...] = ()


def cell_of(rate: Rate, *, place: Place, method: str, seed: int | None, judge: str, measure: str) -> Cell:
    """Build a cell from a rate and the key of its prompts."""
    return Cell(
        method=method,
        seed=seed,
        judge=judge,
        measure=measure,
        bounds=rate.bounds,
        **place._asdict(),
        **rate._asdict(),
    )


class TextTable(NamedTuple):
    """A table of formatted texts, which the command line prints.

    >>> TextTable("rates", ("group", "%"), [("all", "7.5")]).header
    ('group', '%')
    """

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    caption: str = ""
