import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.errors import DataError
from derta.metrics.agreement import agreement, cohen_kappa
from derta.metrics.comparisons import compare, corrected, too_small_to_tell
from derta.metrics.depth import depth_curves
from derta.metrics.leakage import leakage_cell, leaked_share
from derta.metrics.over_refusal import over_refusal_cells
from derta.metrics.probability import probability_by_share, probability_by_token
from derta.metrics.rates import Judged, pooled_cells, rate_cells
from derta.metrics.refusal_position import late_refusal_cell, refusal_position, refusal_position_curves
from derta.records import PrefillDepth, Prompt, Reply, ReplyClass, Suite, Verdict


def prompt(name: str, *, variant: str | None = None, category: str | None = None, suite: Suite = "attack") -> Prompt:
    return Prompt(
        id=name, request_id=name, request="?", attack="prefill", variant=variant, mode="raw", text="?",
        category=category, suite=suite, dataset="xstest" if suite == "over_refusal" else None,
    )  # fmt: skip


def verdict(name: str, **fields: object) -> Verdict:
    return Verdict.model_validate({"prompt_id": name, "judge": "j", **fields})


def harmful(outcomes: list[bool | None], **fields: str) -> list[Judged]:
    return [
        (Prompt.model_validate({**prompt(str(i)).model_dump(), **fields}), verdict(str(i), harmful=one))
        for i, one in enumerate(outcomes)
    ]


def test_unscored_verdicts_are_counted_and_never_zero():
    (cell,) = rate_cells(harmful([True, None, False, None]), method="m", seed=1, judge="j", measure="harmful")
    assert (cell.value, cell.scored, cell.unscored, cell.name, cell.seed) == (0.5, 2, 2, "prefill", 1)
    (cell,) = rate_cells(harmful([None]), method="m", seed=1, judge="j", measure="harmful")
    assert (cell.value, cell.low, cell.unscored) == (None, None, 1)


def test_a_refusal_rate_says_that_it_is_one():
    judged = [(prompt("1"), verdict("1", refused=True))]
    (cell,) = rate_cells(judged, method="m", seed=1, judge="j", measure="refused")
    assert (cell.measure, cell.value) == ("refused", 1.0)
    (cell,) = rate_cells(judged, method="m", seed=1, judge="j", measure="harmful")
    assert (cell.value, cell.unscored) == (None, 1)


def test_cells_are_told_apart_by_attack_variant_and_category():
    judged = [
        (prompt("1", variant="5%", category="a"), verdict("1", harmful=True)),
        (prompt("2", variant="50%", category="b"), verdict("2", harmful=False)),
        (prompt("3", variant="50%"), verdict("3", harmful=True)),
    ]
    cells = rate_cells(judged, method="m", seed=0, judge="j", measure="harmful")
    assert [(c.name, c.value) for c in cells] == [("prefill@5%", 1.0), ("prefill@50%", 0.5)]
    cells = rate_cells(judged, method="m", seed=0, judge="j", measure="harmful", by_category=True)
    assert [(c.name, c.category, c.value) for c in cells] == [("prefill@5%", "a", 1.0), ("prefill@50%", "b", 0.0)]


def test_pooled_cells_have_no_seed_and_count_all_replies():
    seeds = {1: harmful([True, False, None]), 2: harmful([True, False, True])}
    (cell,) = pooled_cells(seeds, method="m", judge="j", measure="harmful")
    assert (cell.seed, cell.value, cell.scored, cell.unscored) == (None, 0.6, 5, 1)


def test_two_verdicts_on_a_prompt_are_refused():
    with pytest.raises(DataError, match="got two"):
        rate_cells(harmful([True]) * 2, method="m", seed=1, judge="j", measure="harmful")
    with pytest.raises(DataError, match="join by id"):
        rate_cells([(prompt("1"), verdict("2"))], method="m", seed=1, judge="j", measure="harmful")


def test_methods_are_compared_on_the_prompts_scored_for_both():
    first, second = harmful([True] * 7 + [None]), harmful([False] * 6 + [True, True])
    (found,) = compare({0: first}, {0: second}, first_name="a", second_name="b", judge="j", measure="harmful")
    # 6 discordant pairs, all one way: p = 2 * 0.5 ** 6
    assert (found.only_first, found.only_second, found.pairs, found.p_value) == (6, 0, 7, 0.03125)
    assert (found.first_value, found.second_value) == (1.0, pytest.approx(1 / 7))


def test_seeds_are_not_counted_as_prompts_in_a_comparison():
    first = {seed: harmful([True] * 3) for seed in range(5)}
    second = {seed: harmful([False] * 3) for seed in range(5)}
    (found,) = compare(first, second, first_name="a", second_name="b", judge="j", measure="harmful")
    assert (found.pairs, found.p_value) == (3, 0.25)


def test_comparisons_are_corrected_as_one_family():
    first = harmful([True] * 6) + [(prompt(f"x{i}", variant="5%"), verdict(f"x{i}", harmful=True)) for i in range(6)]
    second = harmful([False] * 6) + [(prompt(f"x{i}", variant="5%"), verdict(f"x{i}", harmful=True)) for i in range(6)]
    found = compare({0: first}, {0: second}, first_name="a", second_name="b", judge="j", measure="harmful")
    assert [one.p_holm for one in found] == [0.0625, 1.0]
    assert corrected(found) == found
    notes = too_small_to_tell(found)
    assert len(notes) == 2
    assert "6 prompts cannot tell them apart" in notes[0]


def reply(name: str, text: str, starts: tuple[int, ...] | None = None) -> Reply:
    return Reply(prompt_id=name, text=text, token_starts=starts)


def test_positions_are_in_tokens_or_say_that_they_are_in_words():
    refused = verdict("1", refused=True, refusal_at=5)
    assert refusal_position(reply("1", "Take Sorry", (0, 4)), refused) == (2, "tokens")
    assert refusal_position(reply("1", "Take Sorry"), refused) == (2, "words")
    assert refusal_position(reply("1", "Sorry", (0,)), verdict("1", refused=True, refusal_at=0)) == (1, "tokens")
    assert refusal_position(reply("1", "Take"), verdict("1", refused=False)) is None


def test_a_position_curve_is_cumulative_and_units_are_not_mixed():
    judged = [
        (reply("1", "abcdef", (0, 1, 2, 3, 4, 5)), verdict("1", refused=True, refusal_at=0)),
        (reply("2", "abcdefgh", tuple(range(8))), verdict("2", refused=True, refusal_at=6)),
        (reply("3", "a b c Sorry"), verdict("3", refused=True, refusal_at=6)),
        (reply("4", "fine"), verdict("4", refused=False)),
    ]
    tokens, words = refusal_position_curves(judged, method="m", name="direct")
    assert (tokens.x, tokens.y, tokens.count, tokens.x_unit) == ((1.0, 7.0), (0.5, 1.0), 2, "tokens")
    assert (words.x, words.y, words.count, words.x_unit) == ((1.0, 4.0), (0.0, 1.0), 1, "words")
    cell = late_refusal_cell(judged, method="m", seed=1, name="direct", judge="j")
    assert (cell.value, cell.scored, cell.unscored, cell.measure) == (0.5, 2, 1, "late_refusal")


def test_what_leaks_is_what_the_model_wrote_before_it_refused():
    late = verdict("1", refused=True, reply_class="comply_then_refuse", refusal_at=8)
    one = reply("1", "Mix the Sorry, but no")
    assert leaked_share(prompt("1"), one, late, answers={"1": "a b c d e f g h"}) == 0.25
    assert leaked_share(prompt("1"), one, late, answers={}) == 0.4
    assert leaked_share(prompt("1"), one, verdict("1", refused=False), answers={"1": "a b"}) == 1.0
    broken = verdict("1", refused=False, reply_class="degenerate")
    triples = [(prompt("1"), one, late), (prompt("2"), one, broken)]
    cell = leakage_cell(triples, method="m", seed=1, name="prefill", judge="j")
    assert (cell.value, cell.scored, cell.unscored, cell.measure) == (0.4, 1, 1, "leaked_share")


def test_partial_refusals_stand_apart_from_full_ones():
    classes: list[tuple[ReplyClass, bool | None]] = [
        ("refuse", True), ("comply", False), ("refuse_then_comply", False), ("empty", None)
    ]  # fmt: skip
    judged = [
        (
            prompt(str(i), suite="over_refusal"),
            Reply(prompt_id=str(i), text="" if kind == "empty" else f"so {'sorry' if kind != 'comply' else ''}"),
            verdict(str(i), reply_class=kind, refused=refused),
        )
        for i, (kind, refused) in enumerate(classes)
    ]
    attacked = (prompt("a"), Reply(prompt_id="a", text="Sorry"), verdict("a", refused=True, reply_class="refuse"))
    cells = over_refusal_cells([*judged, attacked], method="m", seed=1, judge="refusal")
    found = {cell.measure: (cell.name, cell.value, cell.scored, cell.unscored) for cell in cells}
    third = pytest.approx(1 / 3)
    assert found == {
        "partly_refused": ("xstest", third, 3, 1),
        "complied": ("xstest", third, 3, 1),
        "says_sorry": ("xstest", pytest.approx(2 / 3), 3, 1),
    }


def test_a_depth_curve_is_in_order_of_depth_and_keeps_units_apart():
    judged = [
        (
            prompt(name).model_copy(update={"depth": PrefillDepth(amount=amount, unit=unit)}),
            verdict(name, harmful=value),
        )
        for name, amount, unit, value in [("a", 50, "%", True), ("b", 0, "%", False), ("c", 5, "tokens", True)]
    ]
    judged.append((prompt("no depth"), verdict("no depth", harmful=True)))
    percent, tokens = depth_curves(judged, method="m", measure="harmful")
    assert (percent.x, percent.y, percent.x_unit) == ((0.0, 50.0), (0.0, 1.0), "% of the answer")
    assert (tokens.x, tokens.x_unit, tokens.y_label) == ((5.0,), "tokens", "attack success rate")


def test_probabilities_are_averaged_where_answers_reach():
    curve = probability_by_token([[0.2, 0.4, 0.9], [0.4, 0.8]], method="m", name="t")
    assert curve is not None
    assert curve.y == pytest.approx((0.3, 0.6))
    shares = probability_by_share([[0.2, 0.4, 0.9], [0.4, 0.8]], method="m", name="t", steps=2)
    assert shares is not None
    # at 0 %, 50 % and 100 %: (.2 + .4) / 2, (.4 + .4) / 2 (round(0.5) is 0), (.9 + .8) / 2
    assert shares.y == pytest.approx((0.3, 0.4, 0.85))
    assert shares.x == (0.0, 50.0, 100.0)


def test_no_probabilities_make_no_curve_and_bad_ones_an_error():
    assert probability_by_token([], method="m", name="t") is None
    assert probability_by_share([[]], method="m", name="t") is None
    with pytest.raises(DataError, match="row 1"):
        probability_by_token([[0.1], [math.nan]], method="m", name="t")


def test_two_judges_agree_and_differ_by_prompt():
    first = [verdict(str(i), harmful=one) for i, one in enumerate([True, True, False, False, None])]
    second = [verdict(str(i), harmful=one) for i, one in enumerate([True, False, False, True, True])]
    found = agreement(first, second, measure="harmful")
    assert found[:5] == (1, 1, 1, 1, 1)
    assert (found.agreement, found.kappa, found.differing) == (0.5, 0.0, ("1", "3"))


def test_judges_of_different_prompts_are_not_compared():
    with pytest.raises(DataError, match="same prompts"):
        agreement([verdict("1")], [verdict("2")], measure="harmful")
    with pytest.raises(DataError, match="got two"):
        agreement([verdict("1")] * 2, [verdict("1")], measure="harmful")


@given(*[st.integers(0, 30)] * 4)
def test_kappa_is_symmetric_and_one_only_where_judges_never_differ(a: int, b: int, c: int, d: int):
    kappa = cohen_kappa(both=a, only_first=b, only_second=c, neither=d)
    assert kappa == cohen_kappa(both=d, only_first=c, only_second=b, neither=a)
    assert kappa is None or -1 <= kappa <= 1
    if kappa is not None:
        assert (kappa == 1) == (b == c == 0)
