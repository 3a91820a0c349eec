"""Plots of curves as inline SVG that contains only axes, numbers and lines.

Names, units and legends are in the HTML next to the SVG, where they are escaped, wrap on small screens and work with
screen readers. No input text enters the SVG. Colours are CSS variables of the page, for the light and dark scheme.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from derta.errors import DataError
from derta.reporting.text import format_count, format_percent
from derta.results import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
NUM_STYLES = len(MARKERS)
TITLES = {
    "refusal_position": "Refusal position",
    "refusal_probability": "Refusal probability inside a harmful answer",
    "benign_probability": "Refusal probability inside a benign answer",
    "roc": "Detections against false alarms",
    "prefill_depth": "Prefill depth",
    "any_of_n": "Attack success in any of several attempts",
}
EXPLANATIONS = {
    "refusal_position": "Cumulative share of refusals that start by each position of the reply.",
    "refusal_probability": "Mean probability of a refusal token at each position of a harmful answer.",
    "benign_probability": "Mean probability of a refusal token at each position of a benign answer: lower is better.",
    "roc": "Harmful answers whose refusal probability exceeds a threshold at this depth, at each rate of false alarms.",
    "prefill_depth": (
        "Rate by the share of the harmful answer that is prefilled. Methods are drawn side by side, and equal rates a "
        "little apart; the table has the numbers."
    ),
    "any_of_n": (
        "Share of the prompts with a harmful reply among so many attempts, which are samples of a prompt or copies of "
        "a request. The estimate for fewer attempts than were made is unbiased: 1 − C(n − c, k) / C(n, k)."
    ),
}
_INK, _GRID, _METHOD = "#010203", "#010204", "#0102{:02x}"
_MAX_POINTS, _TABLE_POINTS = 160, 11
_SPREAD = 0.4  # share of the distance of two x values over which the curves are spread
_APART = 0.013  # distance along y of curves with the same rates, in which their lines do not touch


_PlotKey = tuple[str, str, str, str]
"""Kind, name, unit of x and label of y."""


@dataclass(frozen=True, slots=True)
class Line:
    """Line of one method: number of cases, and formatted values at the x values of the table."""

    method: str
    count: int
    has_points: bool
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """Plot with its axis labels and the numbers of its table; no two plots of a page share `title` and `name`."""

    kind: str
    name: str
    title: str
    x_unit: str
    y_label: str
    svg: Markup | None
    lines: tuple[Line, ...]
    x_values: tuple[str, ...]


def build_plots(curves: Sequence[Curve], *, methods: Sequence[str]) -> tuple[Plot, ...]:
    """Build one plot per kind, name and unit, with one line per method.

    Raises:
        DataError: x, y and interval of a curve differ in length.
    """
    for curve in curves:
        _check_lengths(curve)
    order = list(TITLES)
    keys = sorted(dict.fromkeys(map(_key, curves)), key=lambda key: order.index(key[0]))
    return tuple(
        _plot([c for c in curves if _key(c) == key], title=_title(key, keys), methods=methods, number=number)
        for number, key in enumerate(keys)
    )


def _title(key: _PlotKey, keys: Sequence[_PlotKey]) -> str:
    """Return the title of a plot, with what tells it apart from others of its kind and name."""
    kind, name, x_unit, y_label = key
    others = [one for one in keys if one[:2] == (kind, name) and one != key]
    parts = [TITLES[kind]]
    if any(one[3] != y_label for one in others):
        parts.append(y_label)
    if any(one[2] != x_unit for one in others):
        parts.append(f"by {x_unit}")
    return ", ".join(parts)


def _key(curve: Curve) -> _PlotKey:
    return curve.kind, curve.name, curve.x_unit, curve.y_label


def _check_lengths(curve: Curve) -> None:
    lengths = {len(part) for part in (curve.x, curve.y, curve.low, curve.high) if part is not None}
    if len(lengths) > 1:
        raise DataError(
            f"curve {curve.kind} {curve.name!r} of method {curve.method!r}: expected x, y and interval of one length, "
            f"got {sorted(lengths)}; compute the curve again"
        )


def _plot(curves: Sequence[Curve], *, title: str, methods: Sequence[str], number: int) -> Plot:
    first = curves[0]
    with_points = [curve for curve in curves if curve.x and curve.count]
    xs = _subsample(sorted({x for curve in with_points for x in curve.x}), _TABLE_POINTS)
    lines = tuple(
        Line(
            method=curve.method,
            count=curve.count,
            has_points=bool(curve.x and curve.count),
            values=tuple(format_percent(dict(zip(curve.x, curve.y, strict=True)).get(x)) for x in xs),
        )
        for curve in curves
    )
    return Plot(
        kind=first.kind,
        name=first.name,
        title=title,
        x_unit=first.x_unit,
        y_label=first.y_label,
        svg=_draw(with_points, methods=methods, number=number) if with_points else None,
        lines=lines,
        x_values=tuple(f"{x:g}" for x in xs),
    )


def _subsample(values: Sequence[float], limit: int) -> list[float]:
    """Return at most `limit` evenly spaced values, including the first and the last."""
    if len(values) <= limit:
        return list(values)
    return [values[round(i * (len(values) - 1) / (limit - 1))] for i in range(limit)]


def draw(draw_on: Callable[[Axes], None], *, prefix: str, label: str, size: tuple[float, float] = (4.4, 2.7)) -> Markup:
    """Return an inline SVG with axes, a grid and what `draw_on` draws; `draw_on` must not draw texts of the input.

    Args:
        draw_on: Function that draws on the axes, in the colours of `style_colour`.
        prefix: Prefix of the ids of the SVG, unique in the page.
        label: Text for screen readers; numbers only.
        size: Width and height, in inches.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "derta", "font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=size)
        axes = figure.add_axes((0.12, 0.1, 0.855, 0.86))
        draw_on(axes)
        axes.grid(color=_GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(color=_GRID, labelcolor=_INK, length=0)
        axes.spines[:].set_visible(False)
        axes.patch.set_visible(False)
        figure.patch.set_visible(False)
        buffer = StringIO()
        no_metadata = {"Creator": None, "Date": None, "Format": None, "Type": None}
        FigureCanvasSVG(figure).print_svg(buffer, metadata=no_metadata)
    return _inline(buffer.getvalue(), prefix=prefix, label=label)


def style_colour(style: int) -> str:
    """Return the colour that `draw` replaces with the page's colour of a style."""
    return _METHOD.format(16 + style)


def set_percent_axis(axis: Axis, limits: tuple[float, float] = (0.0, 1.0)) -> None:
    """Set the limits of an axis of fractions, and label it in percent."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    low, high = limits
    margin = 0.03 * (high - low)
    set_limits = axis.axes.set_xlim if axis is axis.axes.xaxis else axis.axes.set_ylim
    set_limits(low - margin, high + margin)
    axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


def _draw(curves: Sequence[Curve], *, methods: Sequence[str], number: int) -> Markup:
    def draw_lines(axes: Axes) -> None:
        for curve, shift in zip(curves, _shifts(curves), strict=True):
            _draw_line(axes, curve, style=methods.index(curve.method) % NUM_STYLES, shift=shift)
        set_percent_axis(axes.yaxis)

    return draw(draw_lines, prefix=f"plot{number}-", label=_aria_label(curves))


class Shift(NamedTuple):
    """By how much a curve is moved along x and y."""

    x: float
    y: float


def _shifts(curves: Sequence[Curve]) -> list[Shift | None]:
    """Return by how much each curve is moved, so that all are visible; None for curves of many points.

    Curves over a few prefill depths are spread along x, and those with the same rates also along y.
    """
    if curves[0].kind != "prefill_depth" or len(curves) == 1:
        return [None] * len(curves)
    xs = sorted({x for curve in curves for x in curve.x})
    step = min((b - a for a, b in pairwise(xs)), default=1.0) * _SPREAD / (len(curves) - 1)
    rates = [tuple(round(y, 2) for y in curve.y) for curve in curves]
    return [
        Shift(
            (number - (len(curves) - 1) / 2) * step,
            (rates[:number].count(own) - (rates.count(own) - 1) / 2) * _APART,
        )
        for number, own in enumerate(rates)
    ]


def _draw_line(axes: Axes, curve: Curve, *, style: int, shift: Shift | None) -> None:
    indices = [int(i) for i in _subsample(range(len(curve.x)), _MAX_POINTS)]
    x = [curve.x[i] + (shift.x if shift else 0) for i in indices]
    colour = style_colour(style)
    if curve.low is not None and curve.high is not None:
        low, high = ([band[i] for i in indices] for band in (curve.low, curve.high))
        if shift is not None:
            axes.vlines(x, low, high, color=colour, linewidth=1)
        else:
            axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.plot(
        x,
        [curve.y[i] + (shift.y if shift else 0) for i in indices],
        color=colour,
        linewidth=1.7,
        linestyle=DASHES[style % len(DASHES)],
        marker=MARKERS[style],
        markersize=5,
        markevery=max(1, math.ceil(len(x) / 8)),
        drawstyle="steps-post" if curve.kind == "refusal_position" else "default",
        clip_on=False,
    )


def _aria_label(curves: Sequence[Curve]) -> str:
    """Return the screen reader text of a plot; it contains only numbers, the legend has the names."""
    ends = "; ".join(
        f"line {i} from {format_percent(curve.y[0])} to {format_percent(curve.y[-1])} percent"
        for i, curve in enumerate(curves, start=1)
    )
    return f"Plot of {format_count(len(curves))} lines in legend order: {ends}. The table below has the numbers."


def _inline(svg: str, *, prefix: str, label: str) -> Markup:
    """Convert a matplotlib SVG for inline use: remove prologue, size and style, prefix ids, and use page colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<metadata.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{label}">', svg)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{prefix}", svg).replace("xlink:href", "href")
    svg = re.sub(r"(\.\d\d)\d+", r"\1", svg)
    svg = svg.replace(_INK, "currentColor").replace(_GRID, "var(--grid)")
    for style in range(NUM_STYLES):
        svg = svg.replace(_METHOD.format(16 + style), f"var(--m{style})")
    return Markup(svg)  # noqa: S704 plotted above from numbers only
