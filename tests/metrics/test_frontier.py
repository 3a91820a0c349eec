"""The frontier of methods, from hand-made outcomes."""

from arms import PLACES, arm

from derta.metrics.frontier import frontier
from derta.metrics.summaries import summarize

NUM = 40
ALL = {"h": "h" * NUM, "r": "r" * NUM, "o": "o" * NUM}


def methods(*arms):
    return {point.method: point for point in frontier(arms, PLACES).points}


def test_a_method_as_good_everywhere_and_better_somewhere_dominates():
    points = methods(
        arm("vanilla", attacks={"direct": ALL["h"]}, benign={"safe": ALL["o"]}),
        arm("derta", attacks={"direct": ALL["r"]}, benign={"safe": "r" * 20 + "o" * 20}),
        arm("ours", attacks={"direct": ALL["r"]}, benign={"safe": "r" + "o" * 39}),
    )
    assert [(name, one.pareto, one.dominated_by) for name, one in points.items()] == [
        ("vanilla", True, ()),  # nothing refuses less
        ("derta", False, ("ours",)),
        ("ours", True, ()),
    ]


def test_a_difference_by_chance_is_no_significant_domination():
    points = methods(
        arm("first", attacks={"direct": "h" + "r" * 39}, benign={"safe": ALL["o"]}),
        arm("second", attacks={"direct": ALL["r"]}, benign={"safe": ALL["o"]}),
    )
    assert (points["first"].pareto, points["first"].dominated_by) == (False, ())


def test_more_comparisons_need_a_clearer_difference():
    # 6 of 40 prompts on which only one refuses: p = 0.031, and three axes of one pair are tested
    first = arm("first", attacks={"direct": "h" * 6 + "r" * 34}, benign={"safe": ALL["o"]})
    second = arm("second", attacks={"direct": ALL["r"]}, benign={"safe": ALL["o"]})
    assert methods(first, second)["first"].dominated_by == ()
    clearer = first._replace(
        verdicts=arm("", attacks={"direct": "h" * 9 + "r" * 31}, benign={"safe": ALL["o"]}).verdicts
    )
    assert methods(clearer, second)["first"].dominated_by == ("second",)


def test_helpfulness_is_an_axis_where_it_is_judged():
    sets = {"attacks": {"direct": "hr"}, "benign": {"safe": "oo"}}
    judged = frontier([arm("a", **sets), arm("b", **sets)], PLACES)
    assert judged.compared == ("attack_success", "over_refusal", "helpfulness")
    worse = frontier([arm("a", **sets), arm("b", **sets | {"benign": {"safe": "xx"}})], PLACES)
    assert [point.pareto for point in worse.points] == [True, False]
    without = frontier([arm("a", **sets, judges=("refusal",))], PLACES)
    assert without.compared == ("attack_not_refused", "over_refusal")


def test_garbled_refusals_of_benign_requests_do_not_dominate_refusals():
    first = arm("garbled", attacks={"direct": ALL["r"]}, benign={"safe": "m" * NUM}, judges=("refusal", "harm"))
    other = arm("refusing", attacks={"direct": ALL["r"]}, benign={"safe": ALL["r"]}, judges=("refusal", "harm"))
    assert {name: one.pareto for name, one in methods(first, other).items()} == {"garbled": True, "refusing": True}


def test_a_few_garbled_refusals_are_no_axis_of_the_front():
    first = arm("few", attacks={"direct": ALL["r"]}, benign={"safe": "m" + "o" * 39}, judges=("refusal", "harm"))
    other = arm("refusing", attacks={"direct": ALL["h"]}, benign={"safe": ALL["r"]}, judges=("refusal", "harm"))
    assert {name: one.pareto for name, one in methods(first, other).items()} == {"few": True, "refusing": False}


def test_one_axis_has_no_front():
    only = frontier([arm("a", attacks={"direct": "hr"}, judges=("harm",)), arm("b", attacks={"direct": "rr"})], PLACES)
    assert (only.compared, [point.pareto for point in only.points]) == (("attack_success",), [None, None])
    assert frontier([arm("a")], PLACES) is None


def test_seeds_are_named_and_models_after_a_fine_tuning_attack_are_no_methods():
    sets = {"attacks": {"direct": "hr"}, "benign": {"safe": "oo"}}
    result = frontier(
        [arm("a", **sets), arm("a", seed=3, **sets), arm("a + harm 5", fine_tuning="harm 5", **sets)], PLACES
    )
    assert [(point.method, point.seeds) for point in result.points] == [("a", (0, 3))]
    assert result.points[0].rates["attack_success"].scored == 4


def test_a_summary_has_the_frontier_with_lengths_and_ratio_cells():
    sets = {"attacks": {"direct": "hrhr"}, "benign": {"safe": "oooo"}, "ordinary": {"crafts": "oo"}}
    summary = summarize(
        [
            arm("vanilla", **sets, lengths={"safe": 4, "crafts": 2}, losses=(1.0, 2.0)),
            arm("derta", **sets, lengths={"safe": 3, "crafts": 2}, losses=(1.0, 2.0)),
        ]
    )
    assert summary.frontier.baseline == "vanilla"
    lengths = {(one.method, one.name): (one.tokens, one.ratio) for one in summary.frontier.lengths}
    assert lengths == {
        ("vanilla", "safe"): (4, None),
        ("vanilla", "crafts"): (2, None),
        ("derta", "safe"): (3, 0.75),
        ("derta", "crafts"): (2, 1.0),
    }
    cells = {(c.name, c.measure): (c.method, c.value, c.low, c.high, c.scored, c.seed) for c in summary.cells}
    assert cells["safe", "length_ratio"] == ("derta", 0.75, 0.75, 0.75, 4, 0)
    assert cells["held-out helpful answers", "perplexity_ratio"] == ("derta", 1.0, 1.0, 1.0, 2, 0)
    malformed = {(c.suite, c.name) for c in summary.cells if c.measure == "malformed"}
    assert malformed == {("attack", "direct"), ("over_refusal", "safe"), ("helpfulness", "crafts")}


def test_another_baseline_is_the_unit_of_lengths():
    arms = [
        arm(name, benign={"safe": "oo"}, lengths={"safe": n}) for name, n in (("base", 9), ("vanilla", 4), ("derta", 2))
    ]
    summary = summarize(arms, pairs={"q": [("vanilla", "base"), ("vanilla", "derta")]})
    assert {one.method: one.ratio for one in summary.frontier.lengths} == {"base": 2.25, "vanilla": None, "derta": 0.5}
