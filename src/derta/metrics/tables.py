"""Rates, comparisons and calibrations as lines and tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from derta.results import TextTable

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
    return (
        f"{comparison.name} ({comparison.measure}): {comparison.first_value:.1%} against {comparison.second_value:.1%} "
        f"of {comparison.pairs} pairs{left_out}; only the first "
        f"{comparison.only_first}, only the second {comparison.only_second}; p = {comparison.p_value:.2g}, corrected "
        f"{comparison.p_holm:.2g}"
    )
