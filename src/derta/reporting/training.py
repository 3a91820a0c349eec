"""Training curves of the report: each loss term by step, a line for each method, seeds averaged."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from derta.reporting.plots import DASHES, MARKERS, NUM_STYLES, draw, set_percent_axis, style_colour
from derta.reporting.text import MISSING, format_count, sentence_case
from derta.run_details import TrainingLog

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {
    "loss": "Training loss",
    "loss_helpful": "Training loss: helpful examples",
    "loss_safe": "Training loss: safe responses",
    "loss_rto": "Training loss: refusal at harmful positions (RTO)",
    "loss_completion": "Training loss: completion rows",
    "loss_counter": "Training loss: counter examples",
    "loss_anchor": "Training loss: divergence from the initial model (anchor)",
    "refusal_probability": "Training: refusal probability at harmful positions",
}
_LEAST_LOSS = 1e-4  # a logged loss of 0 is drawn here, on the logarithmic axis


class TermLine(NamedTuple):
    """A term of one method at the logged steps, and its first and last value as text."""

    method: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    first: str
    last: str


class TermPlot(NamedTuple):
    """Plot of one term; `is_share` for a probability, else a loss on a logarithmic axis."""

    title: str
    is_share: bool
    svg: Markup
    lines: tuple[TermLine, ...]


def build_term_plots(logs: Sequence[TrainingLog], *, methods: Sequence[str]) -> tuple[TermPlot, ...]:
    """Return a plot for each logged term, those of the loss first."""
    names = dict.fromkeys(name for log in logs for name in log.terms)
    order = [*(name for name in TITLES if name in names), *(name for name in names if name not in TITLES)]
    found = [(name, lines) for name in order if (lines := _lines(name, logs, methods))]
    return tuple(_plot(name, lines, methods=methods, number=number) for number, (name, lines) in enumerate(found))


def _lines(name: str, logs: Sequence[TrainingLog], methods: Sequence[str]) -> list[TermLine]:
    lines: list[TermLine] = []
    for method in methods:
        by_step: dict[int, list[float]] = {}
        for log in logs:
            if log.method == method and name in log.terms:
                for step, value in zip(log.steps, log.terms[name], strict=True):
                    if value is not None:
                        by_step.setdefault(step, []).append(value)
        if by_step:
            steps = tuple(sorted(by_step))
            values = tuple(fmean(by_step[step]) for step in steps)
            lines.append(TermLine(method, steps, values, f"{values[0]:.3g}", f"{values[-1]:.3g}"))
    return lines


def _plot(name: str, lines: Sequence[TermLine], *, methods: Sequence[str], number: int) -> TermPlot:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    is_share = name == "refusal_probability"

    def draw_lines(axes: Axes) -> None:
        for line in lines:
            style = methods.index(line.method) % NUM_STYLES
            axes.plot(
                line.steps,
                [value if is_share else max(value, _LEAST_LOSS) for value in line.values],
                color=style_colour(style),
                linewidth=1.5,
                linestyle=DASHES[style % len(DASHES)],
                marker=MARKERS[style],
                markersize=4.5,
                markevery=max(1, len(line.steps) // 6),
            )
        if is_share:
            set_percent_axis(axes.yaxis)
        else:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_locator(NullLocator())

    ends = "; ".join(f"line {number} from {line.first} to {line.last}" for number, line in enumerate(lines, start=1))
    label = f"Plot of {format_count(len(lines))} lines in legend order: {ends}."
    svg = draw(draw_lines, prefix=f"term{number}-", label=label)
    return TermPlot(TITLES.get(name, f"Training: {sentence_case(name)}"), is_share, svg, tuple(lines))


def format_seconds(seconds: float | None) -> str:
    """Format a duration; a dash for None.

    >>> format_seconds(42.7), format_seconds(754), format_seconds(9000), format_seconds(None)
    ('43 s', '12 min 34 s', '2 h 30 min', '–')
    """
    if seconds is None:
        return MISSING
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
