"""Scatter plots of the frontier."""

import pytest

from derta.reporting.scatter import build_scatters

AXES = ("attack_success", "over_refusal", "helpfulness")


def test_attacks_are_plotted_against_each_other_axis(make_frontier):
    frontier = make_frontier({"vanilla": (0.8, 0.01, 0.9), "derta": (0.1, 0.3, 0.6)}, axes=AXES)
    plots = build_scatters(frontier, methods=["vanilla", "derta"])
    assert [plot.title for plot in plots] == ["Safety against over-refusal", "Safety against benign tasks done"]
    assert plots[0].points[1][1:] == ("30.0 [20.0\u201340.0]", "10.0 [0.0\u201320.0]", True)
    assert "vanilla" not in plots[0].svg
    assert plots == build_scatters(frontier, methods=["vanilla", "derta"])


def test_without_a_judge_of_harm_no_plot_is_called_safety(make_frontier):
    frontier = make_frontier({"a": (0.8, 0.1), "b": (0.1, 0.3)}, axes=("attack_not_refused", "over_refusal"))
    (plot,) = build_scatters(frontier, methods=["a", "b"])
    assert plot.title == "Refusals under attack against over-refusal"
    assert plot.y_title == "attack not refused"


@pytest.mark.parametrize("rates", [{"a": (0.1, 0.2, 0.3)}, {}], ids=["one method", "none"])
def test_one_method_has_no_plot(make_frontier, rates):
    frontier = make_frontier(rates, axes=AXES) if rates else None
    assert build_scatters(frontier, methods=list(rates)) == ()
