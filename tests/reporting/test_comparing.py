"""Conclusions and intervals of comparisons."""

import pytest

from derta.reporting import render_report
from derta.reporting.comparing import comparison_tables


@pytest.mark.parametrize(
    ("differing", "p_holm", "conclusion"),
    [
        ((5, 0), 0.01, "too few differences"),
        ((6, 0), 0.03125, "b is better"),
        ((0, 6), 0.03125, "a is better"),
        ((6, 0), 0.0625, "no clear difference"),
    ],
)
def test_a_conclusion_needs_enough_differences_and_a_small_p(whole_summary, parse, differing, p_holm, conclusion):
    summary = whole_summary("tea")
    fields = {"first": "a", "second": "b", "only_first": differing[0], "only_second": differing[1], "p_holm": p_holm}
    fields |= {"first_value": differing[0] / 20, "second_value": differing[1] / 20}
    comparison = summary.comparisons[0].model_copy(update=fields)
    page = parse(render_report(summary.model_copy(update={"comparisons": (comparison,)}), []))
    assert conclusion in [data for path, data in page.texts if path[-1:] == ("td",)]


def test_a_method_that_wins_prompts_but_not_the_mean_is_not_called_lower(whole_summary, parse):
    summary = whole_summary("tea")
    fields = {"only_first": 9, "only_second": 0, "first_value": 0.1, "second_value": 0.2, "p_holm": 0.01}
    comparison = summary.comparisons[0].model_copy(update=fields)
    text = parse(render_report(summary.model_copy(update={"comparisons": (comparison,)}), [])).text
    assert "no clear difference" in text
    assert "is lower " not in text.partition("Comparisons")[2].replace("lower is better", "")


def test_the_difference_is_that_of_the_second_method_with_its_interval(whole_summary):
    ((row,),) = [table.rows for table in comparison_tables(whole_summary("tea").comparisons)]
    assert (row.difference, row.interval) == ("\u221240.0", "\u221260.0 to \u221210.0")


def test_a_comparison_of_an_older_summary_has_no_interval(whole_summary, make_summary, parse):
    old = whole_summary("tea").comparisons[0].model_copy(update={"difference_low": None, "difference_high": None})
    ((row,),) = [table.rows for table in comparison_tables([old])]
    assert row.interval == ""
    assert "\u221240.0\u2013" in parse(render_report(make_summary(comparisons=(old,)), [])).text.replace(" ", "")


@pytest.mark.parametrize(
    ("suite", "measure", "conclusion"),
    [
        ("attack", "harmful", "tea is better"),
        ("helpfulness", "correct", "plain is better"),
        ("analysis", "late_refusal", "tea is lower"),
    ],
)
def test_the_better_method_depends_on_the_measure(whole_summary, suite, measure, conclusion):
    one = whole_summary("tea").comparisons[0].model_copy(update={"suite": suite, "measure": measure})
    (table,) = comparison_tables([one])
    assert table.rows[0].conclusion == conclusion
    assert table.counts == f"{conclusion} 1 \u00d7"


def test_comparisons_are_folded(whole_page):
    assert "Only first" not in whole_page("tea").unfolded_text
