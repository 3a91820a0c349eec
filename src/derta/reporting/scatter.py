"""Scatter plots of the report: safety against over-refusal, and against benign tasks done, from the frontier.

Like the curves (see `derta.reporting.plots`) they are inline SVG of numbers only; the names are in the legend beside
them. The crosses are 95 % intervals. Methods on the Pareto front are filled, and a dashed line connects the best points
of a plot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from derta.metrics.axes import AXES
from derta.reporting.frontier_plot import draw_point, front
from derta.reporting.plots import MARKERS, NUM_STYLES, draw, set_percent_axis, style_colour
from derta.reporting.text import format_count, format_percent
from derta.reporting.verdict import TITLES
from derta.results import AxisName, Frontier, FrontierPoint, FrontierRate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WHOLE_SPAN = 0.6  # rates further apart have an axis from 0 to 1
_LEAST_SPAN = 0.1  # of an axis, so that small differences are not drawn large


class ScatterPoint(NamedTuple):
    """The two rates of a method with their intervals as text, and whether it is on the Pareto front."""

    method: str
    x: str
    y: str
    pareto: bool


class Scatter(NamedTuple):
    """Plot of two axes of the frontier, with their titles, better directions and the numbers."""

    title: str
    x_title: str
    x_better: str
    y_title: str
    y_better: str
    svg: Markup
    points: tuple[ScatterPoint, ...]


def build_scatters(frontier: Frontier | None, *, methods: Sequence[str]) -> tuple[Scatter, ...]:
    """Return a plot of the attacks against each other compared axis; none if fewer than two axes were compared."""
    if frontier is None or len(frontier.compared) < 2 or len(frontier.points) < 2:
        return ()
    y, *others = frontier.compared
    points = [point for point in frontier.points if point.method in methods]
    return tuple(_scatter(points, x=x, y=y, methods=methods) for x in others)


def _scatter(points: Sequence[FrontierPoint], *, x: AxisName, y: AxisName, methods: Sequence[str]) -> Scatter:
    def draw_points(axes: Axes) -> None:
        for point in points:
            style = methods.index(point.method) % NUM_STYLES
            colour, marker = style_colour(style), MARKERS[style]
            draw_point(axes, point, x=x, y=y, colour=colour, marker=marker, size=7, fill="none")
        best = front(points, x=x, y=y)
        if len(best) > 1:
            axes.plot(*zip(*best, strict=True), color=style_colour(NUM_STYLES - 1), lw=0.9, ls=(0, (4, 2)), zorder=1)
        set_percent_axis(axes.xaxis, _limits([point.rates[x] for point in points]))
        set_percent_axis(axes.yaxis, _limits([point.rates[y] for point in points]))

    title = f"{'Safety' if y == 'attack_success' else 'Refusals under attack'} against {TITLES[x]}"
    shown = tuple(
        ScatterPoint(one.method, _text(one.rates[x]), _text(one.rates[y]), bool(one.pareto)) for one in points
    )
    svg = draw(draw_points, prefix=f"scatter-{x}-", label=_aria_label(points, x=x, y=y), size=(4.4, 3.2))
    titles = (TITLES[x], AXES[x].better, AXES[y].title, AXES[y].better)
    return Scatter(title, *titles, svg=svg, points=shown)


def _limits(rates: Sequence[FrontierRate]) -> tuple[float, float]:
    """Return the limits of an axis: from 0 to 1, or to the end that is nearer to the rates, and at least a tenth."""
    ends = [end for one in rates for end in (one.low, one.high, one.value) if end is not None]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    if high - low > _WHOLE_SPAN:
        return 0.0, 1.0
    if low >= 1 - high:
        return min(low, 1 - _LEAST_SPAN), 1.0
    return 0.0, max(high, _LEAST_SPAN)


def _text(rate: FrontierRate) -> str:
    interval = (
        "" if rate.low is None or rate.high is None else f" [{format_percent(rate.low)}–{format_percent(rate.high)}]"
    )
    return f"{format_percent(rate.value)}{interval}"


def _aria_label(points: Sequence[FrontierPoint], *, x: AxisName, y: AxisName) -> str:
    """Return the screen reader text of a plot; it contains only numbers, the legend has the names."""
    pairs = "; ".join(
        f"point {number} at {format_percent(one.rates[x].value)} and {format_percent(one.rates[y].value)} percent"
        for number, one in enumerate(points, start=1)
    )
    return f"Plot of {format_count(len(points))} points in legend order: {pairs}. The table below has the numbers."
