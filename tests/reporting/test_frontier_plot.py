"""The plot of the frontier."""

import re
from xml.etree import ElementTree as ET

import pytest

from derta.errors import DataError
from derta.reporting.frontier_plot import COLOURS, MARKERS, draw_frontier
from derta.reporting.frontier_plot import front as best_of
from derta.results import Frontier, FrontierPoint, FrontierRate


def rate(value):
    return FrontierRate(value=value, low=value / 2, high=min(1, value + 0.1), scored=9, unscored=0, unanswered=0)


def front(points, compared=("attack_success", "over_refusal")):
    return Frontier(
        baseline="a",
        axes=(),
        compared=compared,
        points=[
            FrontierPoint(
                method=method, seeds=(0,), rates=dict(zip(compared, map(rate, values), strict=True)), pareto=on
            )
            for method, on, *values in points
        ],
    )


def test_hostile_names_are_text_and_the_plot_is_deterministic():
    names = ["<script>alert(1)</script>", "$x^2$ \u202e", "a" * 500]
    made = front([(name, True, 0.1, 0.2) for name in names])
    svg = draw_frontier(made)
    assert svg == draw_frontier(made)
    assert "<script" not in svg
    assert "\u202e" not in svg
    texts = [one.text for one in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314 our own output
    assert "<script>alert(1)</script>" in texts
    assert "a" * 40 in texts


def test_helpfulness_is_a_second_panel_and_axes_say_what_is_better():
    compared = ("attack_success", "over_refusal", "helpfulness")
    svg = draw_frontier(front([("a", True, 0.1, 0.2, 0.9), ("b", False, 0.3, 0.4, 0.8)], compared))
    assert svg.count("attack success (lower is better)") == 2
    assert "over-refusal (lower is better)" in svg
    assert "tasks done (higher is better)" in svg
    refusals = front([("a", True, 0.1, 0.2)], ("attack_not_refused", "over_refusal"))
    assert "attack success" not in draw_frontier(refusals)


def test_the_line_joins_the_best_points_of_a_panel():
    points = front(
        [("a", True, 0.9, 0.0), ("b", True, 0.1, 0.2), ("c", False, 0.3, 0.4), ("d", True, 0.05, 0.6)]
    ).points
    assert best_of(points, x="over_refusal", y="attack_success") == [(0.0, 0.9), (0.2, 0.1), (0.6, 0.05)]


def test_sixteen_methods_have_different_colours_and_markers():
    styles = {(COLOURS[i % 8], MARKERS[(i + i // 8) % 8]) for i in range(16)}
    assert len(styles) == 16
    svg = draw_frontier(front([(f"m{i}", True, i / 20, 1 - i / 20) for i in range(16)]))
    assert set(COLOURS) <= {colour.upper() for colour in re.findall(r"#[0-9a-fA-F]{6}", svg)} | {"#000000"}


def test_ticks_of_small_rates_are_told_apart():
    points = [
        point.model_copy(
            update={"rates": {name: one.model_copy(update={"high": one.value}) for name, one in point.rates.items()}}
        )
        for point in front([("a", True, 0.001, 0.009), ("b", True, 0.009, 0.001)]).points
    ]
    svg = draw_frontier(front([]).model_copy(update={"points": tuple(points)}))
    ticks = re.findall(r">([\d.]+) %<", svg)
    assert len(ticks) > 6
    assert max(map(ticks.count, ticks)) <= 2  # once on each axis


def test_one_axis_cannot_be_plotted():
    with pytest.raises(DataError, match="expected values of attacks and of benign prompts for all methods"):
        draw_frontier(front([("a", None, 0.1)], ("attack_success",)))
