import math

import pytest
from judged import prompt, reply, verdict

from derta.errors import DataError
from derta.metrics.curves import (
    depth_curves,
    late_refusal_cell,
    probability_by_share,
    probability_by_token,
    refusal_position,
    refusal_position_curves,
)
from derta.records import PrefillDepth


def test_positions_have_the_unit_tokens_or_words():
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


def test_a_depth_curve_is_sorted_by_depth_and_does_not_mix_units():
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


def test_probabilities_are_averaged_over_the_answers_with_enough_tokens():
    curve = probability_by_token([[0.2, 0.4, 0.9], [0.4, 0.8]], method="m", name="t")
    assert curve is not None
    assert curve.y == pytest.approx((0.3, 0.6))
    shares = probability_by_share([[0.2, 0.4, 0.9], [0.4, 0.8]], method="m", name="t", steps=2)
    assert shares is not None
    # at 0 %, 50 % and 100 %: (.2 + .4) / 2, (.4 + .4) / 2 (round(0.5) is 0), (.9 + .8) / 2
    assert shares.y == pytest.approx((0.3, 0.4, 0.85))
    assert shares.x == (0.0, 50.0, 100.0)


def test_no_probabilities_have_no_curve_and_invalid_ones_are_an_error():
    assert probability_by_token([], method="m", name="t") is None
    assert probability_by_share([[]], method="m", name="t") is None
    with pytest.raises(DataError, match="row 1"):
        probability_by_token([[0.1], [math.nan]], method="m", name="t")
