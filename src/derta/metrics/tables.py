"""Rates, comparisons and calibrations as lines and tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from derta.results import TextTable
from derta.significance import format_p_value

if TYPE_CHECKING:
    from derta.metrics.calibration import Calibration, Share
    from derta.metrics.comparisons import Agreement
    from derta.results import Cell, Comparison


def calibration_table(result: Calibration) -> TextTable:
    """Return a table of a judge's accuracy: overall, by attack and by class of reply."""
    overall = (result.accuracy, result.precision, result.recall, result.kappa)
    rows = [("all", str(result.accuracy.scored), *map(_format_share, overall))]
    for group in result.groups:
        shares = map(_format_share, (group.accuracy, group.precision, group.recall, group.kappa))
        rows.append((f"{group.by}: {group.name}", str(group.accuracy.scored), *shares))
    caption = f"specificity {_format_share(result.specificity)}; {result.unscored} unscored"
    if result.accuracy.bounds is not None:
        caption += "; in brackets: the rates if none and if all of the unscored replies counted"
    title = f"{result.judge} ({result.measure}) against the labels of {result.labels}"
    return TextTable(title, ("", "n", "accuracy", "precision", "recall", "kappa"), rows, caption)


def _format_share(share: Share) -> str:
    if share.value is None or share.low is None or share.high is None:
        return "–"
    bounds = "" if share.bounds is None else f" [{share.bounds[0]:.2f}–{share.bounds[1]:.2f}]"
    return f"{share.value:.2f} {share.low:.2f}–{share.high:.2f}{bounds}"


def agreement_table(result: Agreement, *, first: str, second: str) -> TextTable:
    """Return a two-by-two table of two judges' verdicts, with their agreement rate and kappa in the caption."""
    agreement = "–" if result.agreement is None else f"{result.agreement:.3f}"
    kappa = "–" if result.kappa is None else f"{result.kappa:.2f}"
    return TextTable(
        f"{first} and {second} on the same replies",
        ("", f"{second}: yes", f"{second}: no"),
        [
            (f"{first}: yes", str(result.both), str(result.only_first)),
            (f"{first}: no", str(result.only_second), str(result.neither)),
        ],
        f"agreement {agreement}, kappa {kappa}, {result.unscored} unscored by at least one judge",
    )


def format_cell(cell: Cell) -> str:
    """Format a rate with its interval and counts as one line."""
    missing = f"{cell.unscored} unscored" + (f", {cell.unanswered} unanswered" if cell.unanswered else "")
    if cell.bounds is not None:
        missing += f" ({cell.bounds[0]:.1%} if none of them counted, {cell.bounds[1]:.1%} if all did)"
    if cell.value is None or cell.low is None or cell.high is None:
        return f"{cell.measure}: nothing was scored ({missing})"
    interval = f"95 % interval {cell.low:.1%} to {cell.high:.1%}"
    return f"{cell.measure}: {cell.value:.1%} of {cell.scored} ({interval}), {missing}"


def format_comparison(comparison: Comparison) -> str:
    """Format a paired comparison of two models as one line."""
    left_out = f" ({comparison.left_out} prompts left out)" if comparison.left_out else ""
    low, high = comparison.difference_low, comparison.difference_high
    difference = "" if low is None or high is None else f", difference {_difference(comparison, low, high)}"
    return (
        f"{comparison.name} ({comparison.measure}): {comparison.first_value:.1%} against {comparison.second_value:.1%} "
        f"of {comparison.pairs} pairs{left_out}{difference}; only the first "
        f"{comparison.only_first}, only the second {comparison.only_second}; p = {comparison.p_value:.2g}, corrected "
        f"{comparison.p_holm:.2g}"
    )


def _difference(comparison: Comparison, low: float, high: float) -> str:
    """Format `first - second` with its interval."""
    value = comparison.first_value - comparison.second_value
    return f"{_signed(value)} ({_signed(low)} to {_signed(high)})"


def _signed(value: float) -> str:
    """Format a difference of rates in percentage points; 0 is never negative.

    >>> _signed(-0.0002), _signed(0.125)
    ('+0.0', '+12.5')
    """
    return f"{round(100 * value, 1) + 0.0:+.1f}"


def cells_table(cells: Sequence[Cell]) -> TextTable:
    """Return a table of rates with 95 % intervals: a row for each cell and judge, and a column for each method."""
    methods = list(dict.fromkeys(one.method for one in cells))
    rows: dict[tuple[str, str], dict[str, Cell]] = {}
    for one in cells:
        rows.setdefault((one.name, f"{one.judge}: {one.measure}"), {})[one.method] = one
    texts = [
        (*key, *(_format_rate(found.get(method)) for method in methods), _counts(list(found.values())))
        for key, found in rows.items()
    ]
    header = ("attack or data set", "rate", *(method or "value" for method in methods), "n")
    caption = "in brackets: 95 % intervals; n: replies with a verdict"
    if any(one.unscored + one.unanswered for one in cells):
        caption += ", and after + those without one, which are in no rate"
    return TextTable("rates by attack and data set", header, texts, caption)


def _format_rate(cell: Cell | None) -> str:
    if cell is None or cell.value is None or cell.low is None or cell.high is None:
        return "–"
    return f"{cell.value:.1%} ({100 * cell.low:.0f}–{100 * cell.high:.0f})"


def _counts(cells: Sequence[Cell]) -> str:
    """Return the numbers of replies of a row; a range where methods differ.

    >>> _range([30, 30]), _range([28, 30])
    ('30', '28–30')
    """
    missing = [one.unscored + one.unanswered for one in cells]
    return _range([one.scored for one in cells]) + (f" + {_range(missing)}" if any(missing) else "")


def _range(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{least}" if least == most else f"{least}–{most}"


def comparisons_table(comparisons: Sequence[Comparison], *, baseline: str) -> TextTable:
    """Return a table of the comparisons of a baseline with other methods; differences are method minus baseline."""
    rows = [
        (
            one.name,
            one.second,
            f"{one.judge}: {one.measure}",
            f"{one.first_value:.1%}",
            f"{one.second_value:.1%}",
            _signed(one.second_value - one.first_value),
            "" if low is None or high is None else f"{_signed(-high)} to {_signed(-low)}",
            format_p_value(one.p_holm),
            str(one.pairs),
        )
        for one in comparisons
        for low, high in [(one.difference_low, one.difference_high)]
    ]
    header = ("attack or data set", "method", "rate", baseline, "method", "points", "95 % interval", "p", "pairs")
    caption = f"points: method minus {baseline}; p: paired test, Holm-corrected over all rows"
    return TextTable(f"methods against {baseline}", header, rows, caption)
