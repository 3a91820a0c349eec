"""Plot of the frontier as an SVG file: attack success against over-refusal, and against benign tasks done.

Colours are those of Okabe and Ito, and each method has its marker too, so that no reader depends on colours. The
crosses are 95 % intervals; methods that no other dominates are filled, and a dashed line connects them.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING

from derta.errors import DataError, escape_hidden
from derta.metrics.axes import AXES
from derta.results import AxisName, Frontier, FrontierPoint, FrontierRate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
_LONGEST_NAME = 40


def draw_frontier(frontier: Frontier) -> str:
    """Return the plot as an SVG document; it is deterministic.

    Raises:
        DataError: fewer than two axes could be compared.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    if len(frontier.compared) < 2:
        raise DataError(
            "frontier: expected values of attacks and of benign prompts for all methods, for a plot, got those of "
            f"{', '.join(frontier.compared) or 'none'}"
        )
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "derta", "font.size": 9, "text.parse_math": False}):
        buffer = StringIO()
        FigureCanvasSVG(_figure(frontier)).print_svg(buffer, metadata={"Date": None, "Creator": "derta frontier"})
    return buffer.getvalue()


def _figure(frontier: Frontier) -> Figure:
    from matplotlib.figure import Figure

    attack, others = frontier.compared[0], frontier.compared[1:]
    rows = (len(frontier.points) + 2) // 3
    figure = Figure(figsize=(4.2 * len(others), 3.6 + 0.2 * rows), layout="constrained")
    for number, name in enumerate(others, start=1):
        axes = figure.add_subplot(1, len(others), number)
        _draw_panel(axes, frontier.points, x=name, y=attack)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _draw_panel(axes: Axes, points: Sequence[FrontierPoint], *, x: AxisName, y: AxisName) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for number, point in enumerate(points):
        # after eight methods the colours repeat with another marker
        marker = MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]
        label = escape_hidden(point.method)[:_LONGEST_NAME]
        colour = COLOURS[number % len(COLOURS)]
        draw_point(axes, point, x=x, y=y, colour=colour, marker=marker, size=6.5, fill="white", label=label)
    best = front(points, x=x, y=y)
    if len(best) > 1:
        axes.plot(*zip(*best, strict=True), color="#555555", linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.set_xlabel(f"{AXES[x].title} ({AXES[x].better} is better)")
    axes.set_ylabel(f"{AXES[y].title} ({AXES[y].better} is better)")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw_point(
    axes: Axes,
    point: FrontierPoint,
    *,
    x: AxisName,
    y: AxisName,
    colour: str,
    marker: str,
    size: float,
    fill: str,
    label: str | None = None,
) -> None:
    """Draw a method's rates on two axes, with both intervals; a point off the frontier has the colour `fill` inside."""
    horizontal, vertical = point.rates[x], point.rates[y]
    axes.errorbar(
        [horizontal.value or 0.0],
        [vertical.value or 0.0],
        xerr=_errors(horizontal),
        yerr=_errors(vertical),
        color=colour,
        elinewidth=1,
        marker=marker,
        markersize=size,
        markerfacecolor=colour if point.pareto else fill,
        linestyle="none",
        label=label,
        zorder=3,
    )


def _errors(rate: FrontierRate) -> list[list[float]]:
    """Return the distances of the ends of an interval from its value, as `errorbar` takes them."""
    if rate.value is None or rate.low is None or rate.high is None:
        return [[0.0], [0.0]]
    return [[max(0.0, rate.value - rate.low)], [max(0.0, rate.high - rate.value)]]


def front(points: Sequence[FrontierPoint], *, x: AxisName, y: AxisName) -> list[tuple[float, float]]:
    """Return the points of the panel that no other is better than in both of its directions, in order of x."""
    sign = 1 if AXES[x].better == "lower" else -1
    values = sorted(
        {(sign * (point.rates[x].value or 0.0), point.rates[y].value or 0.0) for point in points},
    )
    best: list[tuple[float, float]] = []
    for horizontal, vertical in values:
        if not best or vertical < best[-1][1]:
            best.append((horizontal, vertical))
    return [(sign * horizontal, vertical) for horizontal, vertical in best]
