import re

import pytest

from derta.errors import DataError
from derta.reporting.plots import _shifts, build_plots
from derta.results import Curve


def curve(method="a", **fields):
    base = {
        "kind": "refusal_position", "method": method, "name": "all", "x": (1, 2, 3), "y": (0.1, 0.5, 0.9),
        "count": 9, "x_unit": "token", "y_label": "share",
    }  # fmt: skip
    return Curve.model_validate(base | fields)


def test_the_same_curves_give_the_same_drawing():
    first, second = (build_plots([curve(), curve("b")], methods=["a", "b"])[0].svg for _ in range(2))
    assert first == second


def test_a_drawing_has_no_date_size_style_or_fixed_colour():
    svg = build_plots([curve(low=(0, 0.4, 0.8), high=(0.2, 0.6, 1))], methods=["a"])[0].svg
    assert svg is not None
    assert svg.startswith("<svg viewBox=")
    assert not re.search(r"<style|<metadata|<!DOCTYPE|\d{4}-\d{2}-\d{2}|#0102", svg)
    assert "var(--m0)" in svg
    assert "currentColor" in svg


def test_two_drawings_share_no_id_and_point_only_to_their_own():
    drawings = build_plots([curve(), curve(name="other")], methods=["a"])
    ids = [set(re.findall(r' id="([^"]+)"', str(plot.svg))) for plot in drawings]
    assert not ids[0] & ids[1]
    for plot_ids, plot in zip(ids, drawings, strict=True):
        assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', str(plot.svg))) <= plot_ids


def test_no_input_text_enters_a_drawing():
    (plot,) = build_plots([curve("$\\frac$<b>", name="nm<i>", x_unit="ux$", y_label="uy$")], methods=["$\\frac$<b>"])
    assert not re.search(r"frac|nm|ux|uy", str(plot.svg))


def test_every_method_has_its_own_marker_and_colour():
    methods = [f"m{i}" for i in range(8)]
    (plot,) = build_plots([curve(method) for method in methods], methods=methods)
    assert all(f"var(--m{i})" in str(plot.svg) for i in range(8))


def test_a_ninth_method_reuses_a_style():
    methods = [f"m{i}" for i in range(9)]
    assert len(build_plots([curve(method) for method in methods], methods=methods)[0].lines) == 9


def test_long_curves_stay_small_and_keep_their_ends():
    x = tuple(range(1, 5001))
    (plot,) = build_plots([curve(x=x, y=tuple(i / 5000 for i in x))], methods=["a"])
    assert len(str(plot.svg)) < 30_000
    assert len(plot.x_values) == 11
    assert (plot.x_values[0], plot.x_values[-1]) == ("1", "5000")


def test_the_table_of_a_plot_is_in_percent_with_dashes_for_gaps():
    (plot,) = build_plots([curve(), curve("b", x=(1,), y=(0.25,))], methods=["a", "b"])
    assert plot.x_values == ("1", "2", "3")
    assert [line.values for line in plot.lines] == [("10.0", "50.0", "90.0"), ("25.0", "–", "–")]


def test_depths_are_in_the_unit_of_the_curve():
    depth = {"kind": "prefill_depth", "x": (0, 5, 100), "x_unit": "% of the answer"}
    (plot,) = build_plots([curve(**depth)], methods=["a"])
    assert (plot.x_values, plot.x_unit) == (("0", "5", "100"), "% of the answer")


def test_two_units_are_two_plots():
    assert len(build_plots([curve(), curve(x_unit="words")], methods=["a"])) == 2


def test_a_curve_without_cases_is_in_the_legend_but_not_drawn():
    (plot,) = build_plots([curve(x=(), y=(), count=0)], methods=["a"])
    assert plot.svg is None
    assert [(line.method, line.has_points) for line in plot.lines] == [("a", False)]


def test_a_single_point_is_drawn():
    assert build_plots([curve(x=(1,), y=(0.5,))], methods=["a"])[0].svg is not None


@pytest.mark.parametrize("broken", [{"y": (0.1,)}, {"low": (0.1,)}, {"x": ()}])
def test_points_that_do_not_match_are_refused(broken):
    with pytest.raises(DataError, match="expected x, y and interval of one length"):
        build_plots([curve(**broken)], methods=["a"])


def test_two_plots_have_no_title_in_common(whole_summary):
    curve = whole_summary("tea").curves[0]
    curves = [
        curve.model_copy(update={"x_unit": unit, "y_label": label}) for unit in ("a", "b") for label in ("c", "d")
    ]
    titles = [plot.title for plot in build_plots(curves, methods=["plain"])]
    assert titles == [f"Refusal position, {label}, by {unit}" for unit in ("a", "b") for label in ("c", "d")]


def test_prefill_curves_with_the_same_rates_are_drawn_apart(whole_summary):
    curves = [one for one in whole_summary("tea").curves if one.kind == "prefill_depth"]
    first, second = _shifts(curves)
    assert first is not None
    assert second is not None
    assert (first.x, first.y) == (-second.x, -second.y)
    assert second.x > 0 < second.y
    other = curves[1].model_copy(update={"y": (0.5, 0.6, 0.7)})
    assert [shift and shift.y for shift in _shifts([curves[0], other])] == [0, 0]
    assert _shifts([one for one in whole_summary("tea").curves if one.kind == "roc"]) == [None, None]
