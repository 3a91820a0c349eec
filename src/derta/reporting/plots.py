"""Plots of curves as inline SVG that contains only axes, numbers and lines.

Names, units and legends are in the HTML next to the SVG, where they are escaped, wrap on small screens and work with
screen readers. No input text enters the SVG. Colours are CSS variables of the page, for the light and dark scheme.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

from markupsafe import Markup

from derta.errors import DataError
from derta.reporting.text import format_count, format_percent
from derta.results import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
NUM_STYLES = len(MARKERS)
TITLES = {
    "refusal_position": "Refusal position",
    "refusal_probability": "Refusal probability inside a harmful answer",
    "benign_probability": "Refusal probability inside a benign answer",
    "roc": "Detections against false alarms",
    "prefill_depth": "Prefill depth",
}
EXPLANATIONS = {
    "refusal_position": "Cumulative share of refusals that start by each position of the reply.",
    "refusal_probability": "Mean probability of a refusal token at each position of a harmful answer.",
    "benign_probability": "Mean probability of a refusal token at each position of a benign answer: lower is better.",
    "roc": "Harmful answers whose refusal probability exceeds a threshold at this depth, at each rate of false alarms.",
    "prefill_depth": "Rate by the share of the harmful answer that is prefilled.",
}
_INK, _GRID, _METHOD = "#010203", "#010204", "#0102{:02x}"
_MAX_POINTS, _TABLE_POINTS = 160, 11


@dataclass(frozen=True, slots=True)
class Line:
    """Line of one method: number of cases, and formatted values at the x values of the table."""

    method: str
    count: int
    has_points: bool
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """Plot with its axis labels and the numbers of its table."""

    kind: str
    name: str
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
        _plot([curve for curve in curves if _key(curve) == key], methods=methods, number=number)
        for number, key in enumerate(keys)
    )


def _key(curve: Curve) -> tuple[str, str, str, str]:
    return curve.kind, curve.name, curve.x_unit, curve.y_label


def _check_lengths(curve: Curve) -> None:
    lengths = {len(part) for part in (curve.x, curve.y, curve.low, curve.high) if part is not None}
    if len(lengths) > 1:
        raise DataError(
            f"curve {curve.kind} {curve.name!r} of method {curve.method!r}: expected x, y and interval of one length, "
            f"got {sorted(lengths)}; compute the curve again"
        )


def _plot(curves: Sequence[Curve], *, methods: Sequence[str], number: int) -> Plot:
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


def _draw(curves: Sequence[Curve], *, methods: Sequence[str], number: int) -> Markup:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "derta", "font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=(4.4, 2.7))
        axes = figure.add_axes((0.12, 0.1, 0.855, 0.86))
        for curve in curves:
            _draw_line(axes, curve, style=methods.index(curve.method) % NUM_STYLES)
        axes.set_ylim(-0.03, 1.03)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        axes.grid(color=_GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(color=_GRID, labelcolor=_INK, length=0)
        axes.spines[:].set_visible(False)
        axes.patch.set_visible(False)
        figure.patch.set_visible(False)
        buffer = StringIO()
        no_metadata = {"Creator": None, "Date": None, "Format": None, "Type": None}
        FigureCanvasSVG(figure).print_svg(buffer, metadata=no_metadata)
    return _inline(buffer.getvalue(), number=number, label=_aria_label(curves))


def _draw_line(axes: Axes, curve: Curve, *, style: int) -> None:
    indices = [int(i) for i in _subsample(range(len(curve.x)), _MAX_POINTS)]
    x = [curve.x[i] for i in indices]
    colour = _METHOD.format(16 + style)
    if curve.low is not None and curve.high is not None:
        low, high = ([band[i] for i in indices] for band in (curve.low, curve.high))
        axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.plot(
        x,
        [curve.y[i] for i in indices],
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


def _inline(svg: str, *, number: int, label: str) -> Markup:
    """Convert a matplotlib SVG for inline use: remove prologue, size and style, prefix ids, and use page colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<metadata.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{label}">', svg)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>plot{number}-", svg).replace("xlink:href", "href")
    svg = re.sub(r"(\.\d\d)\d+", r"\1", svg)
    svg = svg.replace(_INK, "currentColor").replace(_GRID, "var(--grid)")
    for style in range(NUM_STYLES):
        svg = svg.replace(_METHOD.format(16 + style), f"var(--m{style})")
    return Markup(svg)  # noqa: S704 plotted above from numbers only
